// The page of `linnet serve`, wired together. Plain ES modules: what you read is what runs.
//
//   intake.js      record (microphone.js, pcm-worklet.js, resample.js), live text (live.js), files
//   clips.js       the queue of recordings           api.js, sse.js, key.js   the server
//   clip-view.js   the selected recording            picture.js, mel.js, fft.js   what one sees
//   transcript.js  its text (confidence.js)          player.js                what one hears
//   noise.js       the same with noise (diff.js)     writers.js               what one keeps
//   strings.js, i18n.js   English and Chinese        theme.js                 light and dark

import { listModels } from "./api.js";
import { showClip, startClipView, translateClip } from "./clip-view.js";
import { showList, startClips } from "./clips.js";
import { byId } from "./dom.js";
import { otherLanguage, switchLanguage, t, translatePage } from "./i18n.js";
import { setModel, showIntake, showProblem, startIntake } from "./intake.js";
import { setNoiseModels, startNoise } from "./noise.js";

function showSwitches() {
  const { name, tag } = otherLanguage();
  byId("language-switch").textContent = name;
  byId("language-switch").lang = tag;
  byId("theme-switch").setAttribute("aria-label", t("theme.switch"));
  byId("theme-switch").title = t("theme.switch");
}

async function start() {
  translatePage();
  showSwitches();
  byId("language-switch").addEventListener("click", switchLanguage);
  byId("theme-switch").addEventListener("click", () => window.switchTheme());
  document.addEventListener("languagechange", () => {
    showSwitches();
    showIntake();
    showList();
    translateClip();
  });
  startIntake();
  startClipView();
  startNoise();
  try {
    const [model] = await listModels();
    byId("model").textContent = model.id;
    setModel(model);
    // `base`: the id of the same model without its adapter, where the served bundle has one.
    setNoiseModels(model.base ?? model.id, model.base && model.id);
    startClips({ change: showClip, modelName: model.id });
  } catch (error) {
    startClips({ change: showClip, modelName: "whisper-1" });
    showProblem(error);
  }
  document.documentElement.dataset.ready = "true";
}

start();
