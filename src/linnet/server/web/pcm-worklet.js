// AudioWorklet: what the microphone gives (any rate, float) → mono 16 kHz 16-bit PCM in pieces of 50 ms.
//
// Runs on the audio thread, so it allocates little and never waits. MediaRecorder is no alternative: Chromium's gives
// only webm/opus. Posts { pcm: ArrayBuffer } and, after the message "stop", { done: true } when the tail is out.

import { Resampler } from "./resample.js";

const PIECE = 800; // samples at 16 kHz

class PcmProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate); // `sampleRate` is a global of the worklet: the context's rate
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
    this.stopped = false;
    this.port.onmessage = () => this.stop();
  }

  process([channels]) {
    if (this.stopped) return false;
    if (channels.length) this.write(this.resampler.push(mono(channels)));
    return true;
  }

  stop() {
    if (this.stopped) return;
    this.stopped = true;
    this.write(this.resampler.flush());
    this.post(this.piece.slice(0, this.filled));
    this.port.postMessage({ done: true });
  }

  write(samples) {
    for (const sample of samples) {
      this.piece[this.filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      if (this.filled === PIECE) {
        this.post(this.piece.slice());
        this.filled = 0;
      }
    }
  }

  post(piece) {
    if (piece.length) this.port.postMessage({ pcm: piece.buffer }, [piece.buffer]);
  }
}

function mono(channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, n) => channels.reduce((sum, channel) => sum + channel[n], 0) / channels.length);
}

registerProcessor("pcm", PcmProcessor);
