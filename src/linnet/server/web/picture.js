// The picture of a clip: waveform above, log-mel below, on one time axis, with a span for every segment.

import { logMel } from "./mel.js";

const prepared = new WeakMap(); // samples → { peaks, mel }: computed once, drawn again on every resize and theme

// Draw mono samples [N] at 16 kHz on the two canvases, at their size in device pixels.
export function drawPicture(samples, waveCanvas, melCanvas) {
  if (!prepared.has(samples)) prepared.set(samples, { mel: logMel(samples) });
  drawWave(samples, waveCanvas);
  drawMel(prepared.get(samples).mel, melCanvas);
}

function drawWave(samples, canvas) {
  const pen = fit(canvas);
  const { width, height } = canvas;
  const loudest = Math.max(0.05, samples.reduce((top, sample) => Math.max(top, Math.abs(sample)), 0));
  pen.fillStyle = colour("--ink");
  for (let x = 0; x < width; x++) {
    const start = Math.floor((x * samples.length) / width);
    const stop = Math.max(start + 1, Math.floor(((x + 1) * samples.length) / width));
    let low = Infinity;
    let high = -Infinity;
    for (let n = start; n < stop; n++) {
      if (samples[n] < low) low = samples[n];
      if (samples[n] > high) high = samples[n];
    }
    const top = (height / 2) * (1 - (0.86 * high) / loudest);
    const bottom = (height / 2) * (1 - (0.86 * low) / loudest);
    pen.fillRect(x, top, 1, Math.max(1, bottom - top));
  }
}

function drawMel({ frames, bands, values }, canvas) {
  const pen = fit(canvas);
  const quiet = rgb("--card");
  const loud = rgb("--ink");
  const middle = rgb("--accent");
  const image = new ImageData(frames, bands);
  for (let band = 0; band < bands; band++) {
    for (let frame = 0; frame < frames; frame++) {
      // Values span 2 (8 powers of ten / 4) below the loudest; the lowest quarter is the floor of a quiet room.
      const loudness = Math.min(1, Math.max(0, (values[band * frames + frame] - topOf(values) + 1.5) / 1.4));
      const [from, to, share] = loudness < 0.5 ? [quiet, middle, loudness * 2] : [middle, loud, loudness * 2 - 1];
      const pixel = 4 * ((bands - 1 - band) * frames + frame); // high frequencies on top
      for (let i = 0; i < 3; i++) image.data[pixel + i] = from[i] + (to[i] - from[i]) * share;
      image.data[pixel + 3] = 255;
    }
  }
  const small = new OffscreenCanvas(frames, bands);
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

const tops = new WeakMap();
function topOf(values) {
  if (!tops.has(values)) tops.set(values, values.reduce((top, value) => Math.max(top, value), -Infinity));
  return tops.get(values);
}

// The last seconds of a recording in progress as bars: `levels` are peaks in 0…1, the newest last.
export function drawLevels(levels, canvas) {
  const pen = fit(canvas);
  const { width, height } = canvas;
  const bar = 4 * devicePixelRatio;
  pen.fillStyle = colour("--accent");
  const shown = levels.slice(-Math.floor(width / bar));
  shown.forEach((level, i) => {
    const tall = Math.max(2 * devicePixelRatio, Math.sqrt(level) * height); // √: quiet speech shows
    pen.fillRect(width - (shown.length - i) * bar, (height - tall) / 2, bar / 2, tall);
  });
}

function fit(canvas) {
  const box = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(box.width * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(box.height * devicePixelRatio));
  return canvas.getContext("2d");
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function rgb(name) {
  const value = parseInt(colour(name).slice(1), 16); // tokens of theme.css are #rrggbb
  return [value >> 16, (value >> 8) & 255, value & 255];
}
