"""Run a server until it is told to stop: model, application, uvicorn, signals."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from linnet.bundle import Bundle
from linnet.errors import ConfigError
from linnet.runtime.base import Recognizer
from linnet.server.app import build_app, build_state
from linnet.server.options import ServerOptions
from linnet.server.state import State
from linnet.server.streaming import end_sessions

WS_MAX_BYTES = 1 << 20
"""Largest WebSocket message: half a minute of audio."""


LAST_TEXTS_S = 5.0
"""How long live sessions may take to end when the server goes down."""
LAST_ANSWERS_S = 1.0
"""How long clients may take to read that they were refused, after a second Ctrl-C."""


class _Server(uvicorn.Server):
    """Uvicorn that tells the engine when it is to stop: accepted work goes on for a while, new work is refused."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a server that was told to stop and did so has not failed: nothing is raised again."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: finish. Second: answer everybody with 503 and stop, at once where somebody does not listen."""
        first = not self.should_exit
        for engine in self._state.engines:
            engine.drain()
            if first:
                _later(self._state.options.grace_s, engine.refuse_pending)
            else:
                engine.refuse_pending()
        if not first:
            _later(LAST_ANSWERS_S, lambda: setattr(self, "force_exit", True))
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where the server listens, once it does."""
        await super().startup(sockets)
        if self.started and self.servers:
            host = self._state.options.host
            where = f"http://{f'[{host}]' if ':' in host else host}:{self.servers[0].sockets[0].getsockname()[1]}"
            name = " and ".join(engine.recognizer.bundle.name for engine in self._state.engines)
            sys.stderr.write(f"linnet serve: {name} on {where}  (Ctrl-C stops)\n")
            sys.stderr.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give live sessions their last texts before the connections are closed."""
        if not self.force_exit:
            await end_sessions(self._state, min(self._state.options.grace_s, LAST_TEXTS_S))
        await super().shutdown(sockets)


def check_address(host: str, port: int) -> None:
    """Raises ConfigError unless a server could listen there; uvicorn would only log the system's words and exit."""
    failures: list[OSError] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        found, failures = [], [error]
    for family, _, _, _, address in found:  # a name such as localhost may mean several, some of which are turned off
        try:
            socket.create_server(address[:2], family=family).close()
        except OSError as error:
            failures.append(error)
    taken = [error for error in failures if error.errno == errno.EADDRINUSE]
    if taken or len(failures) >= max(1, len(found)):
        raise ConfigError(
            f"Cannot listen on {host}, port {port}: {(taken or failures)[0].strerror}. Choose another port (--port; 0 "
            "takes any that is free) or address (--host), or stop the server that is there."
        )


def _later(seconds: float, action: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def check_base(adapted: Bundle, base: Bundle) -> None:
    """Raises ConfigError unless `adapted` was made from the same weights as `base`, by an adapter."""
    adapter = adapted.provenance.get("adapter")
    if not isinstance(adapter, dict):
        raise ConfigError(
            f"{adapted.name} carries no adapter, so there is no base to serve beside it. Leave --base out, or serve a "
            "bundle that `linnet export RUN` made from an adapter."
        )
    if "adapter" in base.provenance:
        raise ConfigError(f"{base.name} carries an adapter itself. Give --base the bundle of the plain checkpoint.")
    if "weights" not in base.provenance:
        raise ConfigError(
            f"{base.name} does not say which weights it was made from: an older version of Linnet converted it. "
            "Convert the checkpoint again."
        )
    if base.provenance["weights"] != adapter.get("base"):
        raise ConfigError(
            f"{base.name} is not the base of {adapted.name}: its weights are {base.provenance['weights'][:12]}…, "
            f"the adapter was trained on {str(adapter.get('base'))[:12]}…. Choose the bundle of that checkpoint."
        )
    if base.name == adapted.name:
        raise ConfigError(
            f"The model and its base are both called {base.name}, and clients ask for them by name. "
            "Convert one of them again under another name."
        )


def serve(
    recognizer: Recognizer, options: ServerOptions, *, base: Recognizer | None = None, quiet: bool = False
) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. `base` is served beside the model under its own name.

    Raises ConfigError on systems that cannot, and for a base that is not the model's (`check_base`).
    """
    if not hasattr(socket, "send_fds"):
        raise ConfigError("linnet serve needs Linux or macOS: its decoders get open files. On Windows, run it in WSL.")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if quiet else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed form
    check_address(options.host, options.port)
    if base is not None:
        check_base(recognizer.bundle, base.bundle)
    state = build_state(recognizer, options, base)
    config = uvicorn.Config(
        build_app(state),
        host=options.host,
        port=options.port,
        http="h11",
        ws="websockets-sansio",
        ws_max_size=WS_MAX_BYTES,
        ws_per_message_deflate=False,  # PCM does not compress, and inflating costs memory
        ws_ping_timeout=120.0,  # a busy server reads late
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(options.grace_s) + 5,
        lifespan="on",
    )
    server = _Server(config, state)
    server.run()
    return 0 if server.started else 1
