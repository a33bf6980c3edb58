// What went wrong, in words for the person in front of the page: a key of strings.js, and the server's own sentence
// beneath it where there is one.

export class PageError extends Error {
  constructor(key, { detail = "", values = {}, status = 0 } = {}) {
    super(detail || key);
    this.key = key;
    this.detail = detail;
    this.values = values;
    this.status = status;
  }
}

// The error of an HTTP answer that is not 2xx. The body is OpenAI's { error: { message, … } }, if it is JSON at all.
export async function fromResponse(response) {
  let detail = "";
  try {
    const body = await response.json();
    detail = body.error?.message ?? body.detail ?? "";
  } catch {
    // not JSON: a proxy's page, of no use to anybody
  }
  return new PageError(keyOf(response.status), { detail: String(detail), status: response.status });
}

// The same object, in the middle of a stream of events: there is no status any more.
export function fromEnvelope({ message, type, code }) {
  if (code === "shutting_down" || code === "queue_full") return new PageError("error.busy", { detail: message });
  return new PageError(type === "server_error" ? "error.server" : "error.audio", { detail: message });
}

function keyOf(status) {
  if (status === 401 || status === 403) return "error.key";
  if (status === 413) return "error.tooLarge";
  if (status === 408 || status === 504) return "error.timeout";
  if (status === 429 || status === 503) return "error.busy";
  if (status >= 500) return "error.server";
  return "error.audio"; // 400, 415, 422: what the server says about the file or an option is the best explanation
}
