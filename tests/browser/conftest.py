"""A real browser before a real server: Debian's chromium, driven by Playwright, with a WAV file for a microphone.

Skipped with a reason where chromium or playwright is missing. A page that logs an error, or breaks its own content
security policy, fails its test.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_page import SAMPLES, Console, fake_microphone, open_page, running_server

from linnet.audio import read_audio, wav_bytes

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MS = 60_000  # generous: it bounds a hanging test, nothing is measured


@pytest.fixture(scope="session")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake microphone hears, again and again: "seven", a pause, "five", a pause."""
    pause = np.zeros(20_000, np.float32)
    words = [read_audio(SAMPLES / name) for name in ("en-digit-seven.flac", "en-digit-five.flac")]
    path = tmp_path_factory.mktemp("microphone") / "digits.wav"
    path.write_bytes(wav_bytes(np.concatenate([pause, words[0], pause, words[1], pause]), 16_000))
    return path


@pytest.fixture(scope="module")  # playwright keeps an event loop running, which other tests must not meet
def browser(microphone: Path) -> Iterator[Any]:
    """Chromium with a fake microphone."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing (pip install -e '.[dev]')")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=fake_microphone(microphone))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(browser: Any) -> Iterator[str]:
    """The address of a server without a key."""
    with running_server() as address:
        yield address


@pytest.fixture
def console() -> Iterator[Console]:
    """What the pages of a test logged; errors that the test does not expect fail it."""
    console = Console()
    yield console
    assert not console.errors, console.errors


@pytest.fixture
def open_at(browser: Any, console: Console) -> Iterator[Callable[..., Any]]:
    """Opens a page in a context of its own: open_at(address, locale="zh-CN", …)."""
    contexts = []

    def open_(address: str, *, ready: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}} | options)
        context.grant_permissions(["microphone", "clipboard-read", "clipboard-write"])
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        return open_page(context, address, console, ready=ready)

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_at: Callable[..., Any], server: str) -> Any:
    """The page, in English, on a desktop."""
    return open_at(server)
