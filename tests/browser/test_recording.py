"""Recording from a microphone that plays "seven … five …": live text, the clip it becomes, and what can go wrong."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import soundfile
from browser_page import module, shown_text, wait_for_text

from linnet.audio import read_audio

STREAM = "**/v1/audio/stream"


def record(page: Any, until: str) -> None:
    """Record until a condition holds in the page."""
    page.get_by_role("button", name="Record").click()
    page.wait_for_function(until)
    page.get_by_role("button", name="Stop").click()


def clip_samples(page: Any) -> tuple[Any, int]:
    """The selected recording as a listener gets it: samples [N] and their rate."""
    body = "return m.selectedClip().blob.arrayBuffer().then(bytes => [...new Uint8Array(bytes)])"
    return soundfile.read(io.BytesIO(bytes(module(page, "clips.js", body))))


def has_recorded(seconds: int) -> str:
    """Condition: the timer has come this far."""
    return f"() => document.getElementById('timer').textContent >= '0:{seconds:02d}'"


def test_speech_becomes_text_while_it_is_spoken(page: Any) -> None:
    live = "() => /seven|five/.test(document.getElementById('live-final').textContent)"
    record(page, live)
    wait_for_text(page, "Recording 1")
    assert "seven" in shown_text(page) or "five" in shown_text(page)
    assert "Latency" in page.locator("#facts").inner_text()
    assert page.locator("#live").is_hidden()
    samples, rate_hz = clip_samples(page)
    assert rate_hz == 16_000 and np.abs(samples).max() > 0.05  # it can be heard
    page.get_by_role("button", name="Transcribe again").click()  # from the whole recording
    wait_for_text(page, "Recording 1")
    assert "Latency" not in page.locator("#facts").inner_text()
    assert "seven" in shown_text(page) or "five" in shown_text(page)


def test_the_socket_gets_what_the_recording_holds(page: Any) -> None:
    said: list[Any] = []

    def answer(socket: Any) -> None:
        def hear(message: Any) -> None:
            said.append(message)
            if isinstance(message, str) and json.loads(message)["type"] == "start":
                socket.send(json.dumps({"type": "ready", "model": "nano", "sample_rate_hz": 16_000}))
            elif isinstance(message, str):
                final = {"type": "final", "start_s": 0.5, "end_s": 0.75, "text": "the end", "language": "en",
                         "confidence": 0.75, "flags": []}  # fmt: skip
                socket.send(json.dumps(final))
                socket.send(json.dumps({"type": "done", "duration_s": 1.0, "processing_s": 0.5}))
            elif len(said) == 5:
                socket.send(json.dumps({"type": "partial", "start_s": 0.5, "end_s": 0.6, "text": "then"}))

        socket.on_message(hear)

    page.route_web_socket(STREAM, answer)
    page.get_by_label("Language").select_option("English")
    page.get_by_label("Names and terms").fill("Linnet")
    record(page, "() => document.getElementById('live-partial').textContent === 'then'")
    wait_for_text(page, "Recording 1")
    assert json.loads(said[0]) == {"type": "start", "language": "en", "context": "Linnet", "api_key": None}
    assert json.loads(said[-1]) == {"type": "finish"}
    sent = np.frombuffer(b"".join(said[1:-1]), "<i2")
    samples, _ = clip_samples(page)
    np.testing.assert_array_equal(sent, np.round(samples * 32768))
    assert shown_text(page) == "the end"
    assert "RTF" in page.locator("#facts").inner_text()


def test_the_recording_survives_a_broken_socket(page: Any) -> None:
    page.route_web_socket(STREAM, lambda socket: socket.close(code=1013, reason="too many sessions"))
    record(page, has_recorded(3))
    wait_for_text(page, "Recording 1")  # uploaded instead
    assert shown_text(page)


def test_a_refused_microphone_is_explained(page: Any) -> None:
    page.evaluate(
        """() => navigator.mediaDevices.getUserMedia =
            () => Promise.reject(new DOMException("Permission denied", "NotAllowedError"))"""
    )
    page.get_by_role("button", name="Record").click()
    problem = page.get_by_role("alert").get_by_text("Allow it beside the address")
    problem.wait_for()
    assert page.get_by_role("button", name="Record").is_enabled()
    page.get_by_role("button", name="Dismiss").click()
    assert problem.is_hidden()


def test_an_insecure_page_says_how_to_get_a_microphone(page: Any) -> None:
    page.evaluate("() => Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.get_by_role("button", name="Record").click()
    page.get_by_role("alert").get_by_text("open this page as http://localhost").wait_for()


def test_a_lost_microphone_keeps_what_was_recorded(page: Any) -> None:
    page.evaluate(
        """() => { const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async c => (window.stream = await get(c)); }"""
    )
    page.get_by_role("button", name="Record").click()
    page.wait_for_function(has_recorded(2))
    page.evaluate("() => window.stream.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    page.get_by_role("alert").get_by_text("The microphone was unplugged").wait_for()
    wait_for_text(page, "Recording 1")
    assert len(clip_samples(page)[0]) > 16_000


def test_the_fake_microphone_is_what_the_recording_holds(page: Any, microphone: Any) -> None:
    page.route_web_socket(STREAM, lambda socket: socket.close(code=1013))
    record(page, has_recorded(3))
    wait_for_text(page, "Recording 1")
    recorded, _ = clip_samples(page)
    played = read_audio(microphone)
    # The best match of the first word somewhere in the recording; automatic gain may have changed its level.
    word = played[20_000:30_000]
    scores = np.correlate(recorded, word, "valid")
    window = recorded[scores.argmax() : scores.argmax() + len(word)]
    assert scores.max() / np.linalg.norm(word) / np.linalg.norm(window) > 0.9
