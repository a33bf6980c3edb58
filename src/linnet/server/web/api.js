// The server's HTTP API (docs/serve.md) as functions. All of them raise PageError.

import { PageError, fromEnvelope, fromResponse } from "./errors.js";
import { askForKey, key } from "./key.js";
import { events } from "./sse.js";

// [{ id, … }]: the served models, the first one being the one to use.
export async function listModels() {
  const response = await request("/v1/models");
  return (await response.json()).data;
}

// → { transcript, wallS }: see writers.js for a transcript; wallS is the time from request to answer. `onSegments` is
// called with all segments so far whenever there is one more.
export async function transcribe(blob, name, { model, language, context, signal, onSegments }) {
  const form = new FormData();
  form.append("file", blob, name);
  form.append("model", model);
  form.append("response_format", "verbose_json");
  form.append("stream", "true");
  if (language) form.append("language", language);
  if (context) form.append("prompt", context);
  const started = performance.now();
  const response = await request("/v1/audio/transcriptions", { method: "POST", body: form, signal });
  const segments = [];
  try {
    for await (const event of events(response)) {
      if (event.error) throw fromEnvelope(event.error);
      if (event.type === "transcript.text.segment") {
        segments.push(fromSegment(event));
        onSegments?.(segments);
      }
      if (event.type === "transcript.text.done") {
        return { transcript: fromDocument(event, segments, model), wallS: (performance.now() - started) / 1000 };
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof PageError) throw error;
  }
  throw new PageError("error.offline"); // the stream broke off
}

// A WAV file: the recording with noise of a kind laid under it at `snrDb`.
export async function addNoise(blob, name, { kind, snrDb, signal }) {
  const form = new FormData();
  form.append("file", blob, name);
  form.append("noise", kind);
  form.append("snr_db", String(snrDb));
  const response = await request("/v1/audio/noise", { method: "POST", body: form, signal });
  return response.blob();
}

async function request(path, options = {}) {
  for (;;) {
    const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new PageError("error.offline");
    }
    if (response.ok) return response;
    const problem = await fromResponse(response);
    if (response.status !== 401 || !(await askForKey())) throw problem;
  }
}

const fromDocument = (event, segments, model) => ({
  text: event.text,
  language: languageCode(event.language),
  durationS: event.duration,
  segments,
  model,
  processingS: event.processing_s ?? null,
});

// One segment of an answer or of the live stream.
export function fromSegment(segment) {
  return {
    text: segment.text.trim(),
    startS: segment.start,
    endS: segment.end,
    language: segment.language || null,
    confidence: segment.confidence ?? null,
    words: (segment.words ?? []).map((word) => ({
      text: word.text,
      startS: word.start_s,
      endS: word.end_s,
      confidence: word.confidence,
    })),
    flags: segment.flags ?? [],
  };
}

// verbose_json names languages in English ("chinese"); everything else here uses codes.
function languageCode(name) {
  if (!name) return null;
  const english = new Intl.DisplayNames(["en"], { type: "language" });
  return CODES.find((code) => english.of(code).toLowerCase() === name.toLowerCase()) ?? name;
}

const CODES = "zh en yue ar de fr es pt id it ko ru th vi ja tr hi ms nl sv da fi pl cs fil fa el ro hu mk".split(" ");
