// The recordings of this visit: a queue that is transcribed one by one, and the list to choose from.
//
// clip: { id, name, blob, url, options, state: "waiting" | "working" | "done" | "failed", transcript, wallS,
// latencyS, error, coming (segments so far), abort,
// opened, lengthS (null: this browser cannot play it), drawable (short enough), samples (floats at 16 kHz, or null) }

import { transcribe } from "./api.js";
import { announce, byId, clock, el } from "./dom.js";
import { PageError } from "./errors.js";
import { number, t } from "./i18n.js";
import { decode, mediaLengthS } from "./wav.js";

const PICTURE_LIMIT_S = 900; // decoding takes up to 0.4 MB a second: longer recordings are played, but not drawn
const PICTURE_LIMIT_BYTES = 20e6; // for those that do not say how long they are

const clips = [];
let selected = null;
let working = false;
let onChange = () => {};
let model = "";

// `change(clip)` is called whenever the selected clip or its state changed.
export function startClips({ change, modelName }) {
  onChange = change;
  model = modelName;
}

export const selectedClip = () => selected;

// Add a recording. `transcript`, where live recognition made one already, spares it the queue.
export function addClip(blob, name, { transcript = null, latencyS = null, options = {} }) {
  const state = transcript ? "done" : "waiting";
  const url = URL.createObjectURL(blob);
  const clip = { id: clips.length + 1, name, blob, url, state, transcript, latencyS, options };
  clips.push(clip);
  select(clip);
  showResult();
  work();
}

// On a small screen the text would be below the fold.
function showResult() {
  if (byId("segments").getBoundingClientRect().top < innerHeight - 100) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("clip").scrollIntoView({ behavior: still ? "auto" : "smooth" });
}

export function select(clip) {
  selected = clip;
  changed(clip);
  if (clip.samples === undefined) open(clip);
}

// Find out how long the recording is, and decode it for the picture.
async function open(clip) {
  clip.samples = null;
  if (clip.blob.size) {
    clip.lengthS = await mediaLengthS(clip.url);
    const known = Number.isFinite(clip.lengthS);
    clip.drawable = known ? clip.lengthS <= PICTURE_LIMIT_S : clip.blob.size <= PICTURE_LIMIT_BYTES;
    if (clip.lengthS !== null && clip.drawable) clip.samples = await decode(clip.blob);
  }
  clip.opened = true;
  changed(clip);
}

export function transcribeAgain(clip, options) {
  clip.options = options;
  clip.state = "waiting";
  changed(clip);
  work();
}

export function cancel(clip) {
  if (clip.state === "waiting") finish(clip, clip.transcript ? "done" : "failed");
  else clip.abort?.abort();
}

async function work() {
  if (working) return;
  working = true;
  for (let clip = nextWaiting(); clip; clip = nextWaiting()) await transcribeClip(clip);
  working = false;
}

const nextWaiting = () => clips.find((clip) => clip.state === "waiting");

async function transcribeClip(clip) {
  clip.state = "working";
  clip.error = null;
  clip.abort = new AbortController();
  changed(clip);
  try {
    if (!clip.blob.size) throw new PageError("error.noClip");
    let shownAt = 0;
    const onSegments = (segments) => {
      clip.coming = segments;
      if (performance.now() - shownAt < 300) return; // a long recording has hundreds
      shownAt = performance.now();
      changed(clip);
    };
    const { signal } = clip.abort;
    const answer = await transcribe(clip.blob, clip.name, { model, ...clip.options, signal, onSegments });
    Object.assign(clip, answer, { latencyS: null });
    finish(clip, "done");
    announce(`${clip.name}: ${clip.transcript.text || t("empty")}`);
  } catch (error) {
    if (error.name === "AbortError") return finish(clip, clip.transcript ? "done" : "failed");
    clip.error = error instanceof PageError ? error : new PageError("error.server", { detail: error.message });
    finish(clip, clip.transcript ? "done" : "failed"); // an older text is better than none
    announce(t(clip.error.key), { urgent: true });
  }
}

function finish(clip, state) {
  clip.state = state;
  clip.coming = null;
  clip.abort = null;
  changed(clip);
}

function changed(clip) {
  showList();
  if (clip === selected) onChange(clip);
}

export function showList() {
  const list = byId("clips");
  list.hidden = clips.length < 2;
  const focused = document.activeElement?.dataset?.clip;
  list.replaceChildren(...clips.map(chip));
  if (focused) list.querySelector(`[data-clip="${focused}"]`)?.focus();
}

function chip(clip) {
  const durationS = clip.transcript?.durationS;
  const length = durationS < 60 ? t("seconds", { n: number(durationS, 1) }) : clip.transcript && clock(durationS);
  const state = clip.state === "done" ? [] : [el("span", { class: "unseen" }, t(`state.${clip.state}`))];
  return el(
    "button",
    {
      type: "button",
      class: `chip ${clip.state}`,
      "data-clip": clip.id,
      "aria-current": clip === selected ? "true" : null,
      onclick: () => select(clip),
    },
    el("span", { class: "chip-name" }, clip.name),
    el("span", { class: "chip-length" }, length || t(`state.${clip.state}`)),
    clip.transcript ? state : [],
  );
}
