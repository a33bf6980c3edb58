// Live text: 16-bit PCM into WS /v1/audio/stream, partial and final segments out (docs/serve.md).
//
// A partial replaces the partial before it (an empty one takes it back); finals stay. If the socket breaks, the
// recording goes on and `onBroken` is told: the whole of it is uploaded afterwards.

import { fromSegment } from "./api.js";
import { fromEnvelope } from "./errors.js";
import { key } from "./key.js";
import { RATE_HZ } from "./mel.js";

const FINISH_MS = 30_000; // how long the last texts may take after the end of the recording
const BEHIND_S = 3; // as much unsent audio is worth a word

export class LiveText {
  constructor({ language, context, onReady, onChange, onBehind, onBroken }) {
    Object.assign(this, { onReady, onChange, onBehind, onBroken });
    this.segments = [];
    this.latencies = []; // for each final the seconds from the end of its speech, as the server saw it
    this.partial = "";
    this.waiting = []; // what is recorded before the server is ready
    this.broken = false;
    const url = new URL("/v1/audio/stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    const begin = { type: "start", language: language || null, context, api_key: key() || null };
    this.socket.onopen = () => this.socket.send(JSON.stringify(begin));
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = () => this.close();
  }

  // Int16Array at 16 kHz, in order.
  push(piece) {
    if (this.broken) return;
    if (!this.ready) return void this.waiting.push(piece);
    this.socket.send(piece);
    const behindS = this.socket.bufferedAmount / (2 * RATE_HZ);
    this.onBehind(behindS > BEHIND_S ? Math.round(behindS) : 0);
  }

  // No more audio. Resolves to this object (segments, processingS, latencyS), or null if live text broke somewhere.
  async finish() {
    if (this.broken) return null;
    this.ended = true;
    if (this.ready) this.sendFinish();
    const closed = new Promise((resolve) => (this.onClosed = resolve));
    const late = new Promise((resolve) => setTimeout(resolve, FINISH_MS));
    await Promise.race([closed, late]);
    this.socket.close();
    if (!this.complete) return null;
    return this;
  }

  // The middle one of the latencies, or null.
  get latencyS() {
    return this.latencies.toSorted((a, b) => a - b)[this.latencies.length >> 1] ?? null;
  }

  cancel() {
    this.broken = true;
    this.socket.close();
  }

  sendFinish() {
    this.socket.send(JSON.stringify({ type: "finish" }));
  }

  receive(message) {
    if (message.type === "ready") {
      this.ready = true;
      for (const piece of this.waiting.splice(0)) this.push(piece);
      if (this.ended) this.sendFinish();
      this.onReady();
    } else if (message.type === "partial") {
      this.partial = message.text;
      this.onChange(this);
    } else if (message.type === "final") {
      this.segments.push(fromSegment({ ...message, start: message.start_s, end: message.end_s }));
      if (message.latency_s !== undefined) this.latencies.push(message.latency_s);
      this.partial = "";
      this.onChange(this);
    } else if (message.type === "done") {
      this.complete = true;
      this.processingS = message.processing_s ?? null;
      this.socket.close();
    } else if (message.type === "error") {
      this.close(fromEnvelope(message.error));
    }
  }

  close(error = null) {
    this.onClosed?.();
    if (this.complete || this.broken) return;
    this.broken = true;
    this.partial = "";
    this.socket.close();
    this.onBroken(error);
  }
}
