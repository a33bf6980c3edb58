// Server-sent events of a fetch answer: yields the JSON document of each `data:` line. (EventSource cannot POST.)

export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    text += value ?? "";
    const parts = text.split("\n\n");
    text = parts.pop(); // not complete yet
    for (const part of parts) {
      if (part.startsWith("data: ")) yield JSON.parse(part.slice(6)); // others are comments that keep the line open
    }
    if (done) return;
  }
}
