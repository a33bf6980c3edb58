// Which language the page speaks. Elements name their text: data-i18n="key" and data-i18n-attr="attribute:key;…".

import { STRINGS } from "./strings.js";

const LANGUAGES = ["en", "zh"];
const TAGS = { en: "en", zh: "zh-CN" };
let current = stored() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

export const pageLanguage = () => TAGS[current];

// The text of a key, with {name} replaced by values[name].
export function t(key, values = {}) {
  const text = STRINGS[key][LANGUAGES.indexOf(current)];
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// A number as this language writes it.
export const number = (value, digits = 0) =>
  value.toLocaleString(TAGS[current], { minimumFractionDigits: digits, maximumFractionDigits: digits });

// "Chinese" or 中文 for "zh".
export function languageName(code) {
  try {
    return new Intl.DisplayNames([TAGS[current]], { type: "language" }).of(code);
  } catch {
    return code;
  }
}

export function translatePage() {
  document.documentElement.lang = TAGS[current];
  for (const element of document.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
  for (const element of document.querySelectorAll("[data-i18n-attr]")) {
    for (const pair of element.dataset.i18nAttr.split(";")) {
      const [attribute, key] = pair.split(":");
      element.setAttribute(attribute, t(key));
    }
  }
}

// The other language, by its own name, for the switch.
export const otherLanguage = () => (current === "en" ? { name: "中文", tag: "zh-CN" } : { name: "English", tag: "en" });

export function switchLanguage() {
  current = current === "en" ? "zh" : "en";
  try {
    localStorage.setItem("linnet-language", current);
  } catch {
    // storage is off: the choice lasts until the page is left
  }
  translatePage();
  document.dispatchEvent(new Event("languagechange"));
}

function stored() {
  try {
    const language = localStorage.getItem("linnet-language");
    return LANGUAGES.includes(language) ? language : null;
  } catch {
    return null;
  }
}
