"""`linnet serve`: an HTTP API as OpenAI's clients expect it, live transcription over a WebSocket, and a page.

One direction of flow: `access` (request ids, log, headers) → `limits` (who may, how much) → `openai_api`, `streaming`,
`noise_api`, `site` → `decode` (untrusted bytes become samples, in processes of their own) → `engine` (the model's
thread). `run` puts them together behind uvicorn.
"""
