// A transcript as txt, srt, vtt or json, made here because only the page knows what the user has edited. Text and JSON
// are what src/linnet/writers.py writes (a test compares them); subtitles are simpler: one cue per segment.
//
// transcript: { text, language, durationS, model, processingS, segments: [{ text, startS, endS, language, confidence,
// words: [{ text, startS, endS, confidence }], flags }] }; times in seconds, unknown values null.

export const FORMATS = {
  txt: { type: "text/plain;charset=utf-8", write: txt },
  srt: { type: "application/x-subrip;charset=utf-8", write: srt },
  vtt: { type: "text/vtt;charset=utf-8", write: vtt },
  json: { type: "application/json;charset=utf-8", write: json },
};

function txt(transcript) {
  return oneLine(transcript.text) + "\n";
}

function srt(transcript) {
  return cues(transcript)
    .map(
      ({ start, end, text }, i) =>
        `${i + 1}\n${timestamp(start, ",")} --> ${timestamp(end, ",")}\n${text.replaceAll("-->", "->")}\n\n`,
    )
    .join("");
}

function vtt(transcript) {
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const body = cues(transcript).map(
    ({ start, end, text }) => `${timestamp(start, ".")} --> ${timestamp(end, ".")}\n${escape(text)}\n\n`,
  );
  return "WEBVTT\n\n" + body.join("");
}

function json(transcript) {
  const timed = ({ text, startS, endS }) => ({ text, start_s: startS, end_s: endS });
  const document = {
    text: transcript.text,
    language: transcript.language,
    duration_s: transcript.durationS,
    segments: transcript.segments.map((segment) => ({
      ...timed(segment),
      language: segment.language,
      confidence: segment.confidence,
      words: segment.words.map((word) => ({ ...timed(word), confidence: word.confidence })),
      flags: segment.flags,
    })),
    model: transcript.model,
    processing_s: transcript.processingS,
  };
  return JSON.stringify(document, null, 2) + "\n";
}

// Start and end in milliseconds and text of every segment that has text; the end is after the start.
function cues(transcript) {
  return transcript.segments
    .map((segment) => {
      const start = Math.max(0, Math.round(segment.startS * 1000));
      return { start, end: Math.max(start + 1, Math.round(segment.endS * 1000)), text: oneLine(segment.text) };
    })
    .filter((cue) => cue.text);
}

function timestamp(milliseconds, point) {
  const pad = (value, digits) => String(Math.floor(value)).padStart(digits, "0");
  const seconds = milliseconds / 1000;
  return `${pad(seconds / 3600, 2)}:${pad((seconds / 60) % 60, 2)}:${pad(seconds % 60, 2)}${point}${pad(milliseconds % 1000, 3)}`;
}

const oneLine = (text) => text.split(/\s+/).filter(Boolean).join(" ");

// Segments' texts as one: a space between them, except beside Chinese and Japanese characters.
export function joinTexts(texts) {
  const unspaced = /[\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef\u3000-\u303f]/;
  let joined = "";
  for (const text of texts.map(oneLine).filter(Boolean)) {
    const glued = !joined || unspaced.test(joined.at(-1)) || unspaced.test(text[0]);
    joined += (glued ? "" : " ") + text;
  }
  return joined;
}
