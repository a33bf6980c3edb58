// The text of a clip: one row per segment with a time to hear it, the words coloured by confidence, and a text field in
// its place while editing.

import { confidenceSign, legendItems, levelOf } from "./confidence.js";
import { byId, clock, el, icon } from "./dom.js";
import { t } from "./i18n.js";
import { joinTexts } from "./writers.js";

// Shows transcript.segments in #segments. `onPlay(startS, endS)` is called for a segment or a word.
export function showSegments(transcript, { editing, onPlay }) {
  const rows = transcript.segments.map((segment) => row(segment, { editing, onPlay }));
  const list = el("ol", { class: "segments" }, rows);
  byId("segments").replaceChildren(rows.length ? list : el("p", { class: "empty" }, t("empty")));
  const known = transcript.segments.some((segment) => levelOf(segment.confidence));
  byId("legend").hidden = !known;
  byId("legend").replaceChildren(...legendItems());
}

function row(segment, { editing, onPlay }) {
  const start = clock(segment.startS, { tenths: true });
  const end = clock(segment.endS, { tenths: true });
  const time = el(
    "button",
    { type: "button", class: "when", "aria-label": t("segment.play", { start, end }), onclick: () => onPlay(segment.startS, segment.endS) },
    icon("play"),
    el("span", {}, start),
  );
  const text = editing ? editor(segment, t("segment.edit", { start, end })) : reading(segment, onPlay);
  const sign = segment.edited
    ? el("span", { class: "sign" }, t("segment.edited"))
    : confidenceSign(segment.confidence);
  return el("li", { class: "segment", ...span(segment) }, time, text, sign);
}

const span = ({ startS, endS }) => ({ "data-start": startS, "data-end": endS });

function reading(segment, onPlay) {
  const paragraph = el("p", { class: "reading", lang: segment.language });
  if (!segment.words.length) {
    const level = levelOf(segment.confidence);
    paragraph.append(el("span", { class: level && `sure-${level.name}` }, segment.text));
    return paragraph;
  }
  // Words are a convenience of the mouse: with the keyboard a segment is heard by its time.
  for (const { word, before } of placeWords(segment)) {
    paragraph.append(before);
    if (!word) continue; // the end of the sentence
    const level = levelOf(word.confidence);
    const title = level && t("confidence", { percent: Math.round(word.confidence * 100), level: t(`sure.${level.name}`) });
    const listen = () => onPlay(word.startS ?? segment.startS, word.endS ?? segment.endS); // not every model has times
    const attributes = { class: `word ${level ? `sure-${level.name}` : ""}`, title, onclick: listen, ...span(word) };
    paragraph.append(el("span", attributes, word.text));
  }
  return paragraph;
}

// Each word with the text that lies before it in the segment (spaces, punctuation).
function placeWords(segment) {
  let at = 0;
  const placed = segment.words.map((word) => {
    const text = word.text.trim();
    const found = segment.text.indexOf(text, at);
    if (found < 0) return { word, before: " " };
    const before = segment.text.slice(at, found);
    at = found + text.length;
    return { word: { ...word, text }, before };
  });
  return [...placed, { word: null, before: segment.text.slice(at) }];
}

function editor(segment, label) {
  const field = el("textarea", { class: "reading", rows: "1", "aria-label": label, lang: segment.language, spellcheck: "true" });
  field.value = segment.text;
  const grow = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  };
  field.addEventListener("input", () => {
    segment.text = field.value;
    segment.edited = true; // what a person wrote has no confidence
    segment.confidence = null;
    segment.words = [];
    grow();
  });
  requestAnimationFrame(grow); // it has a height only once it is in the page
  return field;
}

// After an edit the whole text follows from its segments.
export const rejoin = (transcript) => (transcript.text = joinTexts(transcript.segments.map((segment) => segment.text)));

// Mark the segment and the word that are being heard.
export function markPlaying(positionS) {
  for (const item of document.querySelectorAll("#segments [data-start]")) {
    const playing = positionS !== null && positionS >= item.dataset.start && positionS < item.dataset.end;
    item.toggleAttribute("data-playing", playing);
  }
}
