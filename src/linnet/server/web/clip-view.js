// The selected clip: its facts, its picture, its player, its text with the tools around it.

import { cancel, transcribeAgain } from "./clips.js";
import { announce, byId, clock, el, icon, saveAs } from "./dom.js";
import { PageError } from "./errors.js";
import { languageName, number, t } from "./i18n.js";
import { currentOptions, showProblem } from "./intake.js";
import { showNoise } from "./noise.js";
import { drawPicture } from "./picture.js";
import { load, onPlayer, pause, play, player, resume, seek } from "./player.js";
import { markPlaying, rejoin, showSegments } from "./transcript.js";
import { FORMATS } from "./writers.js";

let shown = null;
let editing = false;

export function startClipView() {
  byId("play").addEventListener("click", toggle);
  byId("position").addEventListener("input", ({ target }) => seek(shown, shown.url, Number(target.value)));
  byId("picture").addEventListener("click", seekInPicture);
  byId("edit").addEventListener("click", toggleEdit);
  byId("segments").addEventListener("input", () => rejoin(shown.transcript)); // after the segment's own listener
  byId("copy").addEventListener("click", copy);
  byId("again").addEventListener("click", again);
  new ResizeObserver(drawShown).observe(byId("picture"));
  document.addEventListener("themechange", drawShown);
  onPlayer(showPosition);
}

export function showClip(clip) {
  const another = clip !== shown;
  shown = clip;
  const untouched = editing && !another && clip.state === "done"; // keep the field that is being typed in
  if (!untouched) editing = false;
  if (another) {
    pause();
    if (clip.blob.size) load(clip, clip.url);
  }
  byId("clip").hidden = false;
  for (const id of ["play", "position"]) byId(id).disabled = !clip.blob.size || clip.lengthS === null;
  byId("clip-name").textContent = clip.name;
  byId("clip").setAttribute("aria-busy", clip.state === "waiting" || clip.state === "working");
  showFacts(clip);
  if (!untouched) showText(clip);
  showDownloads(clip);
  drawShown();
  showPosition(player());
  showNoise(clip);
}

function showFacts(clip) {
  const transcript = clip.transcript;
  const facts = [];
  if (transcript && clip.state === "done") {
    const { durationS } = transcript;
    facts.push(["fact.length", durationS < 60 ? t("seconds", { n: number(durationS, 1) }) : clock(durationS)]);
    if (transcript.language) facts.push(["fact.language", languageName(transcript.language)]);
    const spentS = transcript.processingS ?? clip.wallS;
    if (spentS) {
      facts.push(["fact.time", t("seconds", { n: number(spentS, spentS < 10 ? 2 : 0) })]);
      const times = durationS / spentS;
      facts.push(["fact.speed", t("speed", { n: number(times, times < 10 ? 1 : 0), rtf: number(1 / times, 3) })]);
    }
    if (clip.latencyS !== null) facts.push(["fact.latency", t("latency", { seconds: number(clip.latencyS, 2) })]);
  }
  byId("facts").replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, t(name)), el("dd", {}, value))));
}

function showText(clip) {
  const busy = clip.state === "waiting" || clip.state === "working";
  const done = clip.state === "done" && clip.transcript;
  for (const id of ["edit", "copy"]) byId(id).hidden = !done || !clip.transcript.segments.length;
  byId("edit").textContent = t(editing ? "edit.done" : "edit");
  byId("copy").textContent = t("copy");
  byId("again").textContent = t(busy ? "cancel" : clip.transcript ? "again" : "retry");
  byId("text-foot").hidden = !done || !clip.transcript.segments.length;
  if (busy) {
    byId("segments").replaceChildren();
    if (clip.coming) showSegments({ segments: clip.coming }, { onPlay: playPart });
    byId("segments").append(el("p", { class: "busy" }, t(clip.state)));
  } else if (done) showSegments(clip.transcript, { editing, onPlay: playPart });
  else byId("segments").replaceChildren();
  if (clip.error) byId("segments").prepend(problem(clip.error));
}

const problem = (error) =>
  el(
    "div",
    { class: "problem-inside" },
    icon("warn"),
    el("div", {}, el("p", {}, t(error.key, error.values)), error.detail && el("p", { class: "help", lang: "en" }, error.detail)),
  );

function showDownloads(clip) {
  const buttons = Object.entries(FORMATS).map(([format, { type, write }]) =>
    el(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-label": t("download.as", { format }),
        onclick: () => saveAs(write(clip.transcript), `${clip.name.replace(/\.[^.]+$/, "")}.${format}`, type),
      },
      format,
    ),
  );
  byId("downloads").replaceChildren(el("span", { class: "help", "aria-hidden": "true" }, t("download")), ...buttons);
}

function toggleEdit() {
  editing = !editing;
  showText(shown);
  showNoise(shown);
  (editing ? byId("segments").querySelector("textarea") : byId("edit"))?.focus();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(shown.transcript.text);
    byId("copy").textContent = t("copied");
    announce(t("copied"));
    setTimeout(() => (byId("copy").textContent = t("copy")), 2000);
  } catch {
    showProblem(new PageError("error.copy"));
  }
}

function again() {
  if (shown.state === "waiting" || shown.state === "working") cancel(shown);
  else transcribeAgain(shown, currentOptions());
}

async function playPart(startS, endS) {
  try {
    await play(shown, shown.url, startS, endS);
  } catch (error) {
    if (error.name !== "AbortError") showProblem(new PageError("error.play"));
  }
}

async function toggle() {
  if (player().owner === shown && player().playing) return pause();
  try {
    if (player().owner === shown) await resume();
    else await play(shown, shown.url);
  } catch (error) {
    if (error.name !== "AbortError") showProblem(new PageError("error.play"));
  }
}

const lengthS = () => (Number.isFinite(shown.lengthS) && shown.lengthS) || (shown.transcript?.durationS ?? 0);

function seekInPicture(event) {
  if (!lengthS()) return;
  const box = byId("picture").getBoundingClientRect();
  const positionS = ((event.clientX - box.left) / box.width) * lengthS();
  const segment = shown.transcript?.segments.find(({ startS, endS }) => positionS >= startS && positionS < endS);
  if (segment) playPart(segment.startS, segment.endS);
  else seek(shown, shown.url, positionS);
}

function showPosition({ owner, playing, positionS }) {
  if (!shown) return;
  const own = owner === shown;
  const at = own ? positionS : 0;
  const length = lengthS();
  const action = own && playing ? "pause" : "play";
  if (byId("play").getAttribute("aria-label") !== t(action)) {
    byId("play").setAttribute("aria-label", t(action));
    byId("play").replaceChildren(icon(action));
  }
  byId("position").max = length || 1;
  byId("position").value = at;
  const tenths = length < 60;
  const spoken = { now: clock(at, { tenths }), all: clock(length, { tenths }) };
  byId("position").setAttribute("aria-valuetext", t("position.of", spoken));
  byId("time").textContent = t("position.of", spoken);
  byId("playhead").hidden = !own || !length || (!playing && at === 0);
  byId("playhead").style.left = `${length ? (100 * at) / length : 0}%`;
  markPlaying(own && playing ? at : null);
}

function drawShown() {
  if (!shown) return;
  const clip = shown;
  const drawable = Boolean(clip.samples?.length);
  byId("wave").hidden = byId("mel").hidden = !drawable;
  byId("picture-note").hidden = drawable || !clip.opened || !clip.blob.size;
  byId("picture-note").textContent = t(clip.lengthS !== null && !clip.drawable ? "picture.long" : "picture.none");
  if (drawable) {
    drawPicture(clip.samples, byId("wave"), byId("mel"));
    byId("wave").setAttribute("aria-label", t("picture.wave", { name: clip.name, length: clock(lengthS()) }));
    byId("mel").setAttribute("aria-label", t("picture.mel", { name: clip.name }));
  }
  const segments = drawable && clip.state === "done" ? clip.transcript.segments : [];
  byId("spans").replaceChildren(...segments.map(span));
}

function span({ startS, endS, text }) {
  const mark = el("div", { class: "span", title: text });
  mark.style.left = `${(100 * startS) / lengthS()}%`;
  mark.style.width = `${(100 * (Math.min(endS, lengthS()) - startS)) / lengthS()}%`;
  return mark;
}

// The clip again in the other language of the page.
export function translateClip() {
  if (!shown) return;
  showClip(shown);
  showText(shown);
}
