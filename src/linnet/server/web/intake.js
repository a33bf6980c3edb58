// How recordings come in: the microphone with live text, dropped and chosen files, and the options for the next one.

import { addClip } from "./clips.js";
import { announce, byId, clock, el, icon } from "./dom.js";
import { PageError } from "./errors.js";
import { languageName, number, t } from "./i18n.js";
import { LiveText } from "./live.js";
import { RATE_HZ } from "./mel.js";
import { Microphone } from "./microphone.js";
import { drawLevels } from "./picture.js";
import { peak, wavBlob } from "./wav.js";
import { joinTexts } from "./writers.js";

let served = null; // the model's entry of /v1/models
let recording = null; // { microphone, live, levels } while recording
let state = "idle"; // idle | starting | recording | finishing
let count = 0;

export function startIntake() {
  byId("record").addEventListener("click", () => (state === "recording" ? stop() : state === "idle" && start()));
  byId("files").addEventListener("change", ({ target }) => {
    addFiles(target.files);
    target.value = ""; // the same file can be chosen again
  });
  let depth = 0; // enter and leave fire for every element on the way
  const show = (by) => (byId("dropping").hidden = (depth = by ? Math.max(0, depth + by) : 0) === 0);
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => hasFiles(event) && show(1));
  addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(0);
    addFiles(event.dataTransfer.files);
  });
  addEventListener("beforeunload", (event) => state !== "idle" && event.preventDefault());
  showIntake();
}

export function setModel(model) {
  served = model;
  showIntake();
}

export const currentOptions = () => ({ language: byId("language").value, context: byId("context").value.trim() });

// Everything here that has text of its own, in the language of the page.
export function showIntake() {
  const label = { idle: "record", starting: "starting", recording: "stop", finishing: "finishing" }[state];
  byId("record-label").textContent = t(label);
  byId("record").classList.toggle("recording", state === "recording");
  byId("record").setAttribute("aria-disabled", state === "starting" || state === "finishing");
  const chosen = byId("language").value;
  const names = (served?.languages ?? []).map((code) => ({ code, name: languageName(code) }));
  names.sort((a, b) => a.name.localeCompare(b.name, document.documentElement.lang));
  const options = [{ code: "", name: t("language.auto") }, ...names];
  byId("language").replaceChildren(...options.map(({ code, name }) => el("option", { value: code }, name)));
  byId("language").value = chosen;
}

function addFiles(files) {
  const options = currentOptions();
  for (const file of files) addClip(file, file.name, { options });
}

async function start() {
  hideProblem();
  setState("starting");
  const levels = [];
  const { language, context } = currentOptions();
  const live = new LiveText({
    language,
    context,
    onReady: () => showLive(...listening(live)),
    onChange: showText,
    onBehind: (seconds) => showLive(...(seconds ? ["live.behind", { seconds }] : listening(live))),
    onBroken: () => showLive("live.broken"),
  });
  const microphone = new Microphone({
    onPiece: (piece) => {
      live.push(piece);
      levels.push(peak(piece) / 32768);
      byId("timer").textContent = clock(microphone.samples / RATE_HZ);
      drawLevels(levels, byId("meter"));
    },
    onLost: () => {
      if (state !== "recording") return;
      showProblem(new PageError("error.lost"));
      stop();
    },
  });
  try {
    await microphone.start();
  } catch (error) {
    live.cancel();
    setState("idle");
    showProblem(error);
    return;
  }
  recording = { microphone, live };
  byId("timer").textContent = clock(0);
  showText(live);
  if (live.broken) showLive("live.broken");
  else if (!live.ready) showLive("live.connecting");
  setState("recording");
}

async function stop() {
  const { microphone, live } = recording;
  recording = null;
  setState("finishing");
  const pcm = await microphone.stop();
  const result = await live.finish();
  setState("idle");
  const name = `${t("clip.recording", { n: ++count })}.wav`;
  const durationS = pcm.length / RATE_HZ;
  const transcript = result && {
    text: joinTexts(result.segments.map((segment) => segment.text)),
    language: result.segments[0]?.language ?? null,
    durationS,
    segments: result.segments,
    model: served?.id ?? "",
    processingS: result.processingS,
  };
  const latencyS = result?.latencyS ?? null;
  addClip(wavBlob(pcm), name, { transcript, latencyS, options: currentOptions() });
  if (transcript) announce(transcript.text || t("empty"));
}

function setState(next) {
  state = next;
  byId("intake").dataset.state = state;
  byId("live").hidden = state !== "recording" && state !== "finishing";
  showIntake();
}

function showText(live) {
  // One element per final text: a log is read aloud by what is added to it.
  const shown = byId("live-final").children.length;
  if (live.segments.length < shown) byId("live-final").replaceChildren();
  for (const segment of live.segments.slice(byId("live-final").children.length)) {
    byId("live-final").append(el("span", { lang: segment.language }, `${segment.text} `));
  }
  byId("live-partial").textContent = live.partial;
}

const listening = ({ latencyS }) =>
  latencyS === null ? ["live.listening"] : ["live.latency", { seconds: number(latencyS, 1) }];

function showLive(key, values = {}) {
  byId("live-state").textContent = t(key, values);
}

// An error outside any clip, with what to do about it; stays until it is dismissed or something new begins.
export function showProblem(error) {
  const problem = error instanceof PageError ? error : new PageError("error.server", { detail: error.message });
  const dismiss = el("button", { type: "button", class: "quiet", onclick: hideProblem }, t("dismiss"));
  // The element is an alert: what appears in it is read aloud.
  byId("problem").replaceChildren(icon("warn"), el("span", {}, t(problem.key, problem.values)), dismiss);
  byId("problem").hidden = false;
}

const hideProblem = () => (byId("problem").hidden = true);
