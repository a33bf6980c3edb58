// Recordings as files and as numbers: 16-bit PCM → WAV and its level; a file → its length and its samples.

import { RATE_HZ } from "./mel.js";

// A RIFF/WAVE file, mono, 16 kHz, of Int16Array samples.
export function wavBlob(samples) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((char, i) => header.setUint8(at + i, char.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + samples.byteLength, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // size of the format block
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, RATE_HZ, true);
  header.setUint32(28, RATE_HZ * 2, true); // bytes per second
  header.setUint16(32, 2, true); // bytes per frame
  header.setUint16(34, 16, true); // bits per sample
  text(36, "data");
  header.setUint32(40, samples.byteLength, true);
  return new Blob([header, samples], { type: "audio/wav" });
}

// The highest absolute value of Int16Array samples.
export function peak(samples) {
  let highest = 0;
  for (const sample of samples) highest = Math.max(highest, Math.abs(sample));
  return highest;
}

// Length of a recording in seconds (Infinity if the file does not say), or null if this browser cannot play it.
export function mediaLengthS(url) {
  return new Promise((resolve) => {
    const media = new Audio();
    media.preload = "metadata";
    media.onloadedmetadata = () => resolve(media.duration);
    media.onerror = () => resolve(null);
    media.src = url;
  });
}

// Mono floats [N] at 16 kHz of an encoded recording; null if this browser cannot decode the format.
export async function decode(blob) {
  try {
    const context = new OfflineAudioContext(1, 1, RATE_HZ); // decoding resamples to the context's rate
    const buffer = await context.decodeAudioData(await blob.arrayBuffer());
    const mono = buffer.getChannelData(0).slice();
    for (let channel = 1; channel < buffer.numberOfChannels; channel++) {
      buffer.getChannelData(channel).forEach((sample, n) => (mono[n] += sample));
    }
    if (buffer.numberOfChannels > 1) mono.forEach((sample, n) => (mono[n] = sample / buffer.numberOfChannels));
    return mono;
  } catch {
    return null; // the server may still read it: the page then has text without a picture
  }
}
