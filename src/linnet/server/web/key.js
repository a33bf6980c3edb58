// The API key, where the server wants one: asked for when it says 401, kept until the tab is closed.

import { byId } from "./dom.js";
import { t } from "./i18n.js";

const NAME = "linnet-key";
let kept = "";
let asking = null;

export function key() {
  try {
    return sessionStorage.getItem(NAME) ?? kept;
  } catch {
    return kept;
  }
}

// Shows the dialog; resolves to whether a key was given. Several callers share one dialog.
export function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key");
    byId("key-problem").textContent = key() ? t("error.key") : "";
    dialog.returnValue = "";
    byId("key-input").value = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        const given = dialog.returnValue === "ok" ? byId("key-input").value.trim() : "";
        if (given) keep(given);
        asking = null;
        resolve(Boolean(given));
      },
      { once: true },
    );
  });
  return asking;
}

function keep(value) {
  kept = value;
  try {
    sessionStorage.setItem(NAME, value);
  } catch {
    // storage is off: the variable has it
  }
}
