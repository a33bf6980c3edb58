// "Try it with noise": the clip with a chosen noise at a chosen signal-to-noise ratio, its text beside the clean one,
// and, where the served bundle carries an adapter, both once without and once with it.

import { addNoise, transcribe } from "./api.js";
import { compareTexts } from "./diff.js";
import { announce, byId, el, icon } from "./dom.js";
import { PageError } from "./errors.js";
import { t } from "./i18n.js";
import { onPlayer, pause, play, player } from "./player.js";

const KINDS = ["white", "pink", "brown", "hum", "babble"];
const results = new WeakMap(); // clip → { kind, snrDb, sounds: [{ key, url, texts: { base, adapted } }], error }
let clip = null;
let models = { base: "" }; // { base, adapted }: the ids to ask for
let abort = null;

export function startNoise() {
  byId("snr").addEventListener("input", showSnr);
  byId("noise-run").addEventListener("click", () => (abort ? abort.abort() : run()));
  onPlayer(showPlaying);
}

// `adapted` is the id that stands for the model with its adapter, if there is one.
export function setNoiseModels(base, adapted) {
  models = adapted ? { base, adapted } : { base };
}

export function showNoise(selected) {
  clip = selected;
  byId("noise").hidden = clip.state !== "done";
  const chosen = byId("noise-kind").value || "pink";
  byId("noise-kind").replaceChildren(...KINDS.map((kind) => el("option", { value: kind }, t(`noise.${kind}`))));
  byId("noise-kind").value = chosen;
  byId("noise-run").textContent = t(abort ? "cancel" : "noise.run");
  showSnr();
  showResult();
}

function showSnr() {
  byId("snr-value").textContent = t("db", { n: byId("snr").value });
  byId("snr").setAttribute("aria-valuetext", t("db", { n: byId("snr").value }));
}

async function run() {
  const heard = clip;
  const kind = byId("noise-kind").value;
  const snrDb = Number(byId("snr").value);
  const { signal } = (abort = new AbortController());
  results.set(heard, { running: true });
  showNoise(clip);
  announce(t("noise.running"));
  try {
    const wav = await addNoise(heard.blob, heard.name, { kind, snrDb, signal });
    const listen = async (blob) => {
      const texts = {};
      for (const [which, model] of Object.entries(models)) {
        const { transcript } = await transcribe(blob, "sound.wav", { ...heard.options, model, signal });
        texts[which] = transcript.text;
      }
      return texts;
    };
    // The clean recording once more: what is shown may be edited, or have been heard live.
    const clean = await listen(heard.blob);
    const noisy = await listen(wav);
    const sounds = [
      { name: () => t("noise.clean"), url: heard.url, owner: heard, texts: clean },
      { name: () => t("noise.noisy", { kind: t(`noise.${kind}`), n: snrDb }), url: URL.createObjectURL(wav), owner: wav, texts: noisy },
    ];
    results.set(heard, { sounds });
    announce(summary(clean.base, noisy.base));
  } catch (error) {
    results.delete(heard);
    if (error.name !== "AbortError") {
      const key = error instanceof PageError && error.key !== "error.audio" ? error.key : "error.noise";
      const problem = new PageError(key, { detail: error.detail ?? error.message });
      results.set(heard, { error: problem });
      announce(t(problem.key), { urgent: true });
    }
  } finally {
    abort = null;
    showNoise(clip);
  }
}

function showResult() {
  const result = results.get(clip);
  const box = byId("compare");
  box.hidden = !result;
  box.classList.remove("wide");
  if (result?.running) box.replaceChildren(el("p", { class: "busy" }, t("noise.running")));
  else if (result?.error) {
    const { key, detail } = result.error;
    const texts = el("div", {}, el("p", {}, t(key)), detail && el("p", { class: "help", lang: "en" }, detail));
    box.replaceChildren(el("div", { class: "problem-inside" }, icon("warn"), texts));
  } else if (result) {
    box.classList.toggle("wide", Boolean(models.adapted));
    const reference = result.sounds[0].texts.base; // everything else is compared with it
    box.replaceChildren(...result.sounds.map((sound, number) => column(sound, number === 0, reference)));
  }
}

// One sound: its name with a button to hear it, and what each model made of it.
function column(sound, clean, reference) {
  const name = sound.name();
  const label = t("noise.play", { name });
  const listen = () => toggle(sound);
  const button = el("button", { type: "button", class: "round small", "aria-label": label, onclick: listen }, icon("play"));
  button.sound = sound;
  const texts = Object.entries(sound.texts).map(([which, text]) => {
    const title = models.adapted ? el("h5", {}, t(`noise.${which}`)) : null;
    return el("div", {}, title, heardText(text, clean && which === "base" ? null : reference));
  });
  return el("section", { class: "sound", "aria-label": name }, el("h4", {}, button, name), el("div", { class: "texts" }, texts));
}

function heardText(text, reference) {
  if (!text) return el("p", { class: "empty" }, t("noise.silent"));
  if (reference === null) return el("p", { class: "reading" }, text);
  const { words } = compareTexts(reference, text);
  const marked = words.map((word) => (word.same ? word.text : el("mark", {}, word.text)));
  return el("div", {}, el("p", { class: "reading" }, marked), el("p", { class: "help" }, summary(reference, text)));
}

function summary(reference, text) {
  const { errors, total } = compareTexts(reference, text);
  return errors ? t("noise.differs", { n: errors, all: total }) : t("noise.same");
}

async function toggle(sound) {
  if (player().owner === sound.owner && player().playing) return pause();
  try {
    await play(sound.owner, sound.url);
  } catch {
    announce(t("error.play"), { urgent: true });
  }
}

function showPlaying({ owner, playing }) {
  for (const button of byId("compare").querySelectorAll("button")) {
    button.replaceChildren(icon(playing && owner === button.sound.owner ? "pause" : "play"));
  }
}
