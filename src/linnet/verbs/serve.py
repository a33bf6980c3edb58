"""`linnet serve`: an OpenAI-compatible HTTP API, live transcription, and a page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from linnet.runtime.base import Recognizer

KEY_VARIABLE = "LINNET_API_KEY"


def serve(
    bundle: str = "nano",
    /,
    base: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: tuple[str, ...] = (),
    public_without_key: bool = False,
    cors_origin: tuple[str, ...] = (),
    max_upload_mb: float = 200.0,
    max_duration_s: float = 7200.0,
    max_queue: int = 64,
    max_streams: int = 8,
    decoder: Literal["auto", "onnx", "gguf"] = "auto",
    attention: Literal["windowed", "full"] = "windowed",
    beam_size: int | None = None,
    threads: int | None = None,
    quiet: bool = False,
) -> int:
    """Serve a model: OpenAI's transcription API, live transcription over a WebSocket, and a page to try both.

    Open http://127.0.0.1:8000 in a browser; /docs describes the API. Ctrl-C or SIGTERM finishes what was accepted.

    Args:
        bundle: nano (embedded), a bundle folder, or the name of a pulled model.
        base: The same model without its adapter, served beside it under its own name: the page's noise panel then shows
            what both understand. Takes the memory of a second model.
        host: Address to listen on; 0.0.0.0 for every one of this machine's, with a key.
        port: Port to listen on.
        api_key: Accept only requests with one of these keys; also from the environment variable LINNET_API_KEY.
        public_without_key: Allow a public address without a key.
        cors_origin: Other sites whose pages may use the API, such as https://example.org; * for all.
        max_upload_mb: Refuse larger uploads.
        max_duration_s: Refuse longer recordings.
        max_queue: Recordings uploaded, waiting or in work at a time; more are refused with 429.
        max_streams: Live sessions at a time.
        decoder: Which decoder of the bundle to use.
        attention: Encoder attention: windowed (8 s, default) or full.
        beam_size: Answers searched for side by side: 1 is greedy and fastest; by default what the model advises.
        threads: CPU threads; by default all cores.
        quiet: Log only warnings and errors.
    """
    from linnet.runtime.loader import load_model
    from linnet.server.options import ServerOptions
    from linnet.server.run import serve as run

    from_environment = os.environ.get(KEY_VARIABLE)
    options = ServerOptions(
        host=host,
        port=port,
        api_keys=(*api_key, *((from_environment,) if from_environment else ())),
        public_without_key=public_without_key,
        cors_origins=cors_origin,
        max_upload_mb=max_upload_mb,
        max_duration_s=max_duration_s,
        max_queue=max_queue,
        max_streams=max_streams,
    )

    def load(name: str) -> Recognizer:
        return load_model(name, decoder=decoder, threads=threads, attention=attention, beam_size=beam_size)

    recognizer = load(bundle)
    beside = None if base is None else load(base)
    return run(recognizer, options, base=beside, quiet=quiet)
