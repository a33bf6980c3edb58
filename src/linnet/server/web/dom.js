// Small helpers around the DOM: build an element, find one, use an icon of index.html's sprite.

const SVG = "http://www.w3.org/2000/svg";

// el("button", { class: "quiet", onclick: f, "aria-label": "…" }, "text", child, …)
// Keys that start with "on" are listeners, the rest attributes; true gives an empty attribute, false and null none.
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

// A decorative icon; the control that holds it carries the label.
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

// Say something in one of the two live regions: politely (screen readers finish their sentence first), or at once.
export function announce(text, { urgent = false } = {}) {
  const region = byId(urgent ? "alerts" : "announcements");
  region.textContent = "";
  // A region that changes twice in a task is read once, with the last text; an equal text is read only if it left first.
  requestAnimationFrame(() => (region.textContent = text));
}

// 0:07, 12:30, 1:02:03; with a tenth of a second where `tenths` is set.
export function clock(seconds, { tenths = false } = {}) {
  const total = tenths ? Math.round(seconds * 10) / 10 : Math.floor(seconds);
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor((total % 3600) / 60);
  const rest = (total % 60).toFixed(tenths ? 1 : 0).padStart(tenths ? 4 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function saveAs(content, name, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the download starts after this task
}
