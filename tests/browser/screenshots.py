"""Pictures of the page for the documentation: python tests/browser/screenshots.py writes docs/images/page-*.png.

They show nano with the recordings of samples/, and whatever it makes of them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from browser_page import SAMPLES, Console, fake_microphone, open_page, running_server, upload
from playwright.sync_api import sync_playwright

from linnet.audio import read_audio, wav_bytes

IMAGES = Path(__file__).parents[2] / "docs/images"
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def main() -> None:
    """Take all of them."""
    pause = np.zeros(12_000, np.float32)
    digits = [read_audio(SAMPLES / f"en-digit-{name}.flac") for name in ("seven", "five")]
    with tempfile.TemporaryDirectory() as folder, running_server() as address, sync_playwright() as playwright:
        wav = Path(folder) / "digits.wav"
        wav.write_bytes(wav_bytes(np.concatenate([pause, digits[0], pause, digits[1], pause]), 16_000))
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=fake_microphone(wav))

        def page(**options: Any) -> Any:
            context = browser.new_context(**{"locale": "en-US"} | options)
            context.grant_permissions(["microphone"])
            return open_page(context, address, Console())

        def save(page: Any, name: str) -> None:
            page.wait_for_timeout(300)  # scrolling and transitions come to rest
            page.screenshot(path=IMAGES / f"page-{name}.png", full_page=True)

        IMAGES.mkdir(parents=True, exist_ok=True)
        shown = page(**DESKTOP)
        upload(shown, "en-digit-five.flac", "en-digit-seven.flac", "en-jfk.flac")
        save(shown, "light")

        shown = page(**DESKTOP, color_scheme="dark")
        upload(shown, "en-adult.flac")
        shown.locator("#noise summary").click()
        shown.locator("#noise-run").click()
        shown.locator(".sound").nth(1).wait_for()
        save(shown, "dark-noise")

        shown = page(**DESKTOP, locale="zh-CN")
        upload(shown, "zh-today.flac")
        save(shown, "chinese")

        shown = page(**PHONE)
        shown.locator("#record").click()
        shown.wait_for_function("() => document.getElementById('live-final').textContent.trim().split(' ').length > 2")
        save(shown, "phone-live")
        shown.locator("#record").click()
        shown.locator("#facts dt").first.wait_for()
        shown.mouse.move(0, 0)
        save(shown, "phone")
        browser.close()


if __name__ == "__main__":
    main()
