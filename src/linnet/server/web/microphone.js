// The microphone as a stream of 16 kHz 16-bit PCM (see pcm-worklet.js), kept whole for the clip that it becomes.

import { PageError } from "./errors.js";

export class Microphone {
  // onPiece(Int16Array) is called every 50 ms; onLost() if the device goes away in the middle.
  constructor({ onPiece, onLost }) {
    this.onPiece = onPiece;
    this.onLost = onLost;
    this.pieces = [];
    this.samples = 0;
  }

  // Asks for permission and starts. Raises PageError with a key of strings.js that says what is in the way.
  async start() {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) throw new PageError("error.insecure");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        // Processing made for telephony eats soft speech; gain control helps quiet laptop microphones.
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
      });
    } catch (error) {
      throw new PageError(permissionError(error), { detail: error.message });
    }
    try {
      this.context = new AudioContext();
      await this.context.audioWorklet.addModule("pcm-worklet.js");
      await this.context.resume(); // Safari starts suspended
      this.node = new AudioWorkletNode(this.context, "pcm", { numberOfOutputs: 0 });
      this.node.port.onmessage = ({ data }) => this.receive(data);
      this.context.createMediaStreamSource(this.stream).connect(this.node);
      this.stream.getAudioTracks()[0].addEventListener("ended", () => this.onLost());
    } catch (error) {
      await this.release();
      throw new PageError("error.microphone", { detail: error.message });
    }
  }

  receive(data) {
    if (data.done) return this.onDone?.();
    const piece = new Int16Array(data.pcm);
    this.pieces.push(piece);
    this.samples += piece.length;
    this.onPiece(piece);
  }

  // Stops and gives everything that was recorded, Int16Array [samples].
  async stop() {
    const done = new Promise((resolve) => (this.onDone = resolve));
    this.node.port.postMessage("stop");
    await Promise.race([done, new Promise((resolve) => setTimeout(resolve, 1000))]); // a dead device never answers
    await this.release();
    const all = new Int16Array(this.samples);
    let at = 0;
    for (const piece of this.pieces) {
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  }

  async release() {
    this.stream?.getTracks().forEach((track) => track.stop()); // the browser's recording sign goes out
    if (this.context && this.context.state !== "closed") await this.context.close();
  }
}

function permissionError(error) {
  if (error.name === "NotAllowedError") return "error.denied";
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return "error.noMicrophone";
  if (error.name === "NotReadableError") return "error.busyMicrophone";
  return "error.microphone";
}
