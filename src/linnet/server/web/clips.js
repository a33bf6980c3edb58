// The recordings of this visit: a queue that is transcribed one by one, and the list to choose from.
//
// clip: { id, name, blob, url, fromMicrophone, state: "waiting" | "working" | "done" | "failed", transcript, wallS,
// latencyS, error, coming (segments so far), samples (floats at 16 kHz; null: not decodable; undefined: not decoded yet), abort }

import { transcribe } from "./api.js";
import { byId, clock, el } from "./dom.js";
import { PageError } from "./errors.js";
import { t } from "./i18n.js";
import { decode } from "./wav.js";

const DECODE_LIMIT_BYTES = 60e6; // decoded floats are several times as large: beyond this a phone may give up

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
export function addClip(blob, name, { samples, transcript = null, latencyS = null, options = {}, fromMicrophone = false }) {
  const state = transcript ? "done" : "waiting";
  const url = URL.createObjectURL(blob);
  const clip = { id: clips.length + 1, name, blob, url, samples, state, transcript, latencyS, options, fromMicrophone };
  clips.push(clip);
  select(clip);
  const smooth = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("clip").scrollIntoView({ behavior: smooth ? "smooth" : "auto", block: "nearest" });
  work();
}

export function select(clip) {
  selected = clip;
  changed(clip);
  if (clip.samples !== undefined) return;
  clip.samples = null;
  if (clip.blob.size > DECODE_LIMIT_BYTES) return;
  decode(clip.blob).then((samples) => {
    clip.samples = samples;
    clip.undecodable = samples === null;
    changed(clip);
  });
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
    const onSegments = (segments) => {
      clip.coming = segments;
      changed(clip);
    };
    const { signal } = clip.abort;
    const answer = await transcribe(clip.blob, clip.name, { model, ...clip.options, signal, onSegments });
    Object.assign(clip, answer, { latencyS: null });
    finish(clip, "done");
  } catch (error) {
    if (error.name === "AbortError") return finish(clip, clip.transcript ? "done" : "failed");
    clip.error = error instanceof PageError ? error : new PageError("error.server", { detail: error.message });
    finish(clip, "failed");
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
  const length = clip.transcript && clock(clip.transcript.durationS, { tenths: clip.transcript.durationS < 60 });
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
