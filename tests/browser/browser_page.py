"""What the browser tests do again and again with the page."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"


@dataclass
class Console:
    """Errors that pages logged, and the words of those that a test expects."""

    logged: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    @property
    def errors(self) -> list[str]:
        """The errors that nobody expected."""
        return [line for line in self.logged if not any(words in line for words in self.expected)]


def fake_microphone(wav: Path) -> list[str]:
    """Options of a chromium whose microphone plays a file again and again."""
    return [
        "--no-sandbox",  # CI runs as root
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",  # grants what is asked for
        f"--use-file-for-fake-audio-capture={wav}",
    ]


def open_page(context: Any, address: str, console: Console, *, ready: bool = True) -> Any:
    """A page that has loaded, and has heard from the server unless `ready` is False."""
    page = context.new_page()
    page.on("console", lambda line: console.logged.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: console.logged.append(str(error)))
    page.goto(address)
    if ready:
        page.wait_for_selector("html[data-ready]")
    return page


def upload(page: Any, *names: str) -> None:
    """Choose samples and wait for the text of the last one."""
    page.set_input_files("#files", [SAMPLES / name for name in names])
    wait_for_text(page, names[-1])


def wait_for_text(page: Any, name: str) -> None:
    """Returns when the clip of this name is shown and done."""
    page.wait_for_function(
        """name => document.getElementById("clip-name").textContent.startsWith(name)
        && document.getElementById("clip").getAttribute("aria-busy") === "false" """,
        arg=name,
    )


def shown_text(page: Any) -> str:
    """The transcript, without times and signs."""
    return " ".join(page.locator("#segments .reading").all_inner_texts())


def module(page: Any, name: str, body: str, argument: Any = None) -> Any:
    """What `body` returns, given the exports of one of the page's modules as `m` and the argument as `a`."""
    return page.evaluate(f"a => import('/{name}').then(m => {{ {body} }})", argument)


@contextmanager
def running_server(*options: str) -> Iterator[str]:
    """`linnet serve nano` as a process of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "linnet.cli", "serve", "nano", "--port", str(port), "--quiet", *options]
    environment = {name: value for name, value in os.environ.items() if name != "LINNET_API_KEY"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_until_ready(process, address)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    """Returns when the server takes work."""
    for _ in range(600):
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(f"linnet serve ended: {process.stderr.read().decode()}")
        try:
            with urllib.request.urlopen(address + "readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("linnet serve was not ready within a minute")
