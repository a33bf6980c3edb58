// The log-mel picture: what the model sees. The same recipe as src/linnet/features.py (WHISPER_128): periodic Hann
// window of 400 samples, 128 Slaney mel bands, log10 clamped at 1e-10 and at 8 below the maximum, (x + 4) / 4.
//
// A long recording gets every n-th frame only, so that the work stays the same for any length.

import { FFT } from "./fft.js";

export const RATE_HZ = 16_000;
const N_FFT = 400;
const HOP = 160;
const BANDS = 128;

// → { frames, bands, values }: values[band * frames + frame] in −1…1 relative to the loudest, at most `maxFrames` frames.
export function logMel(samples, maxFrames = 1200) {
  const total = Math.floor(samples.length / HOP);
  const step = Math.max(1, Math.ceil(total / maxFrames));
  const frames = Math.ceil(total / step);
  const fft = new FFT(N_FFT);
  const window = Float64Array.from({ length: N_FFT }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / N_FFT));
  const filters = melFilters();
  const framed = new Float64Array(N_FFT);
  const power = new Float64Array(N_FFT / 2 + 1);
  const values = new Float32Array(BANDS * frames);
  let loudest = -Infinity;
  for (let frame = 0; frame < frames; frame++) {
    const first = frame * step * HOP - N_FFT / 2; // frames are centred
    for (let n = 0; n < N_FFT; n++) framed[n] = window[n] * samples[reflect(first + n, samples.length)];
    fft.power(framed, power);
    for (let band = 0; band < BANDS; band++) {
      const { start, weights } = filters[band];
      let energy = 0;
      for (let i = 0; i < weights.length; i++) energy += weights[i] * power[start + i];
      const value = Math.log10(Math.max(energy, 1e-10));
      values[band * frames + frame] = value;
      if (value > loudest) loudest = value;
    }
  }
  for (let i = 0; i < values.length; i++) values[i] = (Math.max(values[i], loudest - 8) + 4) / 4;
  return { frames, bands: BANDS, values };
}

// Beyond the ends the samples are mirrored without repeating the first and the last one.
function reflect(index, length) {
  if (index < 0) index = -index;
  if (index >= length) index = 2 * (length - 1) - index;
  return Math.min(Math.max(index, 0), length - 1);
}

// Slaney's scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above; each triangle has unit area.
const hzToMel = (hz) => (hz < 1000 ? (hz * 3) / 200 : 15 + (27 * Math.log(hz / 1000)) / Math.log(6.4));
const melToHz = (mel) => (mel < 15 ? (mel * 200) / 3 : 1000 * Math.exp(((mel - 15) * Math.log(6.4)) / 27));

// For each band the index of its first FFT bin and the weights from there on.
function melFilters() {
  const top = hzToMel(RATE_HZ / 2);
  const edges = Array.from({ length: BANDS + 2 }, (_, i) => melToHz((top * i) / (BANDS + 1)));
  return Array.from({ length: BANDS }, (_, band) => {
    const [low, peak, high] = edges.slice(band, band + 3);
    const start = Math.max(0, Math.ceil((low * N_FFT) / RATE_HZ));
    const stop = Math.min(N_FFT / 2, Math.floor((high * N_FFT) / RATE_HZ));
    const weights = [];
    for (let bin = start; bin <= stop; bin++) {
      const hz = (bin * RATE_HZ) / N_FFT;
      const height = Math.max(0, Math.min((hz - low) / (peak - low), (high - hz) / (high - peak)));
      weights.push((height * 2) / (high - low));
    }
    return { start, weights };
  });
}
