// How sure the model is, as three levels that differ in colour and in a second way: the filled bars beside a segment,
// the kind of line under a word.

import { el, icon } from "./dom.js";
import { t } from "./i18n.js";

const LEVELS = [
  { name: "high", from: 0.8, icon: "bars-3" },
  { name: "middle", from: 0.5, icon: "bars-2" },
  { name: "low", from: 0, icon: "bars-1" },
];

// The level of a confidence in 0…1, or null where nothing is known.
export const levelOf = (confidence) =>
  confidence === null || confidence === undefined ? null : LEVELS.find((level) => confidence >= level.from);

// The sign at the end of a segment: bars and a percentage, with the whole sentence for screen readers.
export function confidenceSign(confidence) {
  const level = levelOf(confidence);
  if (!level) return null;
  const percent = Math.round(confidence * 100);
  return el(
    "span",
    { class: `sign sure-${level.name}` },
    icon(level.icon),
    el("span", { "aria-hidden": "true" }, t("percent", { n: percent })),
    el("span", { class: "unseen" }, t("confidence", { percent, level: t(`sure.${level.name}`) })),
  );
}

export function legendItems() {
  return LEVELS.map((level) =>
    el("li", { class: `sure-${level.name}` }, icon(level.icon), el("span", { class: "word" }, t(`sure.${level.name}`))),
  );
}
