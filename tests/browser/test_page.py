"""What a visitor does with recordings: upload, hear, edit, copy, download, add noise, read errors."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser_page import SAMPLES, Console, running_server, shown_text, upload, wait_for_text

from linnet.audio import read_audio, wav_bytes
from linnet.results import Segment, Transcription, Word
from linnet.runtime.loader import load_model
from linnet.server.openai_api import verbose
from linnet.writers import render


@pytest.fixture(scope="module")
def heard() -> dict[str, Transcription]:
    """What the same model says without server and page."""
    model = load_model("nano", threads=1)
    names = ("en-digit-seven.flac", "en-jfk.flac", "zh-today.flac")
    found = {name: model.transcribe(SAMPLES / name) for name in names}
    model.close()
    return found


def events(segments: tuple[Segment, ...], duration_s: float) -> str:
    """The server's answer for a made-up transcription, as server-sent events."""
    text = " ".join(segment.text for segment in segments)
    whole = Transcription(text, "en", duration_s, segments, "nano")
    document = verbose(whole, ("segment",)) | {"processing_s": 0.25}
    pieces = [{"type": "transcript.text.segment", **segment} for segment in document["segments"]]
    return "".join(f"data: {json.dumps(one)}\n\n" for one in [*pieces, {"type": "transcript.text.done", **document}])


def answer_with(page: Any, *segments: Segment, duration_s: float = 11.0) -> None:
    """Let the page hear this instead of what the model says: nano gives no words and rarely several segments."""
    body = events(segments, duration_s)
    page.route("**/v1/audio/transcriptions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))


def keep_forms(page: Any, path: str) -> list[bytes]:
    """The bodies of the requests to come, which the server gets as well."""
    forms: list[bytes] = []

    def keep(route: Any) -> None:
        forms.append(route.request.post_data_buffer)
        route.continue_()

    page.route(path, keep)
    return forms


def position_s(page: Any) -> float:
    return float(page.evaluate("document.getElementById('audio').currentTime"))


def is_playing(page: Any) -> bool:
    return bool(page.evaluate("!document.getElementById('audio').paused"))


def test_an_uploaded_recording_is_transcribed(page: Any, heard: dict[str, Transcription]) -> None:
    upload(page, "en-jfk.flac")
    assert shown_text(page) == heard["en-jfk.flac"].text
    facts = page.locator("#facts").inner_text()
    assert "11.0 s" in facts and "English" in facts and "RTF" in facts
    percent = round(100 * (heard["en-jfk.flac"].segments[0].confidence or 0))
    assert f"{percent} % confidence" in page.locator(".segment .sign").first.inner_text()
    wave = page.locator("#wave").get_attribute("aria-label")
    assert wave == "Waveform of en-jfk.flac, 0:11"
    drawn = "id => new Set(document.getElementById(id).getContext('2d').getImageData(0, 0, 300, 60).data).size"
    assert page.evaluate(drawn, "wave") > 2 and page.evaluate(drawn, "mel") > 20  # shades of the picture


def test_dropped_files_wait_their_turn_and_can_be_chosen(page: Any, heard: dict[str, Transcription]) -> None:
    names = ["en-digit-seven.flac", "zh-today.flac"]
    files = [{"name": name, "bytes": list((SAMPLES / name).read_bytes())} for name in names]
    page.evaluate(
        """files => {
            const data = new DataTransfer();
            for (const f of files) data.items.add(new File([Uint8Array.from(f.bytes)], f.name, { type: "audio/flac" }));
            for (const type of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(
                    new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        files,
    )
    wait_for_text(page, "zh-today.flac")
    assert page.locator("#dropping").is_hidden()
    assert shown_text(page) == heard["zh-today.flac"].text
    assert page.locator("#segments .reading").get_attribute("lang") == "zh"
    page.get_by_role("button", name="en-digit-seven.flac").click()
    wait_for_text(page, "en-digit-seven.flac")
    assert shown_text(page) == heard["en-digit-seven.flac"].text
    assert page.locator(".chip[aria-current=true]").inner_text().startswith("en-digit-seven.flac")


def test_a_segment_is_heard_from_its_start_to_its_end(page: Any) -> None:
    answer_with(page, Segment("ask not", 3.0, 3.4, "en", 0.9), Segment("your country", 5.0, 5.5, "en", 0.6))
    upload(page, "en-jfk.flac")
    page.get_by_role("button", name="Play from 0:05.0 to 0:05.5").click()
    page.wait_for_function("() => document.querySelectorAll('.segment')[1].hasAttribute('data-playing')")
    page.wait_for_function("() => document.getElementById('audio').paused")
    assert 5.5 <= position_s(page) < 6.5  # a busy machine stops late
    box = page.locator("#wave").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 3.2 / 11, box["y"] + 20)  # into the first segment
    page.wait_for_function("() => document.getElementById('audio').currentTime < 4.9")
    assert 3.0 <= position_s(page) < 4.9
    page.wait_for_function("() => document.getElementById('audio').paused")
    page.mouse.click(box["x"] + box["width"] * 9 / 11, box["y"] + 20)  # outside any segment: go there, stay silent
    page.wait_for_function("() => Math.abs(document.getElementById('audio').currentTime - 9) < 0.1")
    assert not is_playing(page)


def test_words_are_marked_by_confidence_in_two_ways(page: Any) -> None:
    words = (Word("Ask", 3.0, 3.2, 0.95), Word("not", 3.2, 3.4, 0.6), Word("what", 3.4, 3.7, 0.2))
    answer_with(page, Segment("Ask not, what?", 3.0, 3.7, "en", 0.6, words))
    upload(page, "en-jfk.flac")
    paragraph = page.locator("#segments .reading")
    assert paragraph.inner_text() == "Ask not, what?"
    # In one go: an element that the page has replaced in the meantime has no style.
    style = """words => words.map(word => {
        const inside = [...document.querySelectorAll("#segments .reading *")];
        const s = getComputedStyle(inside.find(e => e.textContent === word && !e.children.length));
        return [s.color, s.textDecorationLine + s.textDecorationStyle]; })"""
    looks = page.evaluate(style, ["Ask", "not", "what"])
    assert len({colour for colour, _ in looks}) == 3
    assert [line for _, line in looks] == ["nonesolid", "underlinedotted", "underlinewavy"]
    assert page.locator("#legend").inner_text().split("\n") == ["sure", "less sure", "doubtful"]
    paragraph.get_by_text("what", exact=True).click()
    page.wait_for_function("() => document.getElementById('audio').currentTime >= 3.4")


def test_edits_are_copied_and_downloaded(page: Any, tmp_path: Path) -> None:
    answer_with(page, Segment("ask knot", 3.0, 3.4, "en", 0.4), Segment("your country", 5.0, 5.5, "en", 0.9))
    upload(page, "en-jfk.flac")
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Text from 0:03.0 to 0:03.4").fill("Ask not")
    page.get_by_role("button", name="Done").click()
    assert shown_text(page) == "Ask not your country"
    assert page.locator(".segment .sign").first.inner_text() == "edited"
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "Ask not your country"

    expected = Transcription("Ask not your country", "en", 11.0, (
        Segment("Ask not", 3.0, 3.4, "en"), Segment("your country", 5.0, 5.5, "en", 0.9)), "nano", 0.25)  # fmt: skip
    for format in ("txt", "srt", "vtt", "json"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download as {format}").click()
        assert download.value.suggested_filename == f"en-jfk.{format}"
        download.value.save_as(tmp_path / format)
        written = (tmp_path / format).read_text(encoding="utf-8")
        if format == "json":
            assert json.loads(written) == json.loads(render(expected, format))
        elif format == "txt":
            assert written == render(expected, format)
        else:  # a cue per segment
            point = "," if format == "srt" else "."
            assert f"00:00:03{point}000 --> 00:00:03{point}400\nAsk not\n\n" in written
            assert f"00:00:05{point}000 --> 00:00:05{point}500\nyour country\n\n" in written


def test_language_and_context_are_sent_and_errors_of_the_server_are_shown(page: Any, console: Console) -> None:
    console.expected = ("status of 400",)
    page.get_by_label("Language").select_option("Chinese")
    page.get_by_label("Names and terms").fill("小波")
    forms = keep_forms(page, "**/v1/audio/transcriptions")
    upload(page, "zh-today.flac")
    (sent,) = forms
    assert b'name="language"\r\n\r\nzh\r\n' in sent and 'name="prompt"\r\n\r\n小波\r\n'.encode() in sent
    assert "Chinese" in page.locator("#facts").inner_text()

    page.set_input_files("#files", {"name": "notes.mp3", "mimeType": "audio/mpeg", "buffer": b"no sound at all" * 99})
    wait_for_text(page, "notes.mp3")
    shown = page.locator("#segments").inner_text()
    assert "This recording could not be transcribed." in shown and "notes.mp3" in shown  # ours, then the server's
    assert "Traceback" not in shown
    assert "cannot decode" in page.locator("#picture-note").inner_text()
    page.get_by_role("button", name="zh-today.flac").click()  # nothing else was lost
    wait_for_text(page, "zh-today.flac")


def test_silence_is_said_to_be_silent(page: Any) -> None:
    silence = wav_bytes([0.0] * 32_000, 16_000)
    page.set_input_files("#files", {"name": "silence.wav", "mimeType": "audio/wav", "buffer": silence})
    wait_for_text(page, "silence.wav")
    assert page.locator("#segments").inner_text() == "No speech was found in this recording."
    assert page.get_by_role("button", name="Copy", exact=True).is_hidden()


@pytest.mark.parametrize(
    ("status", "words"),
    [(413, "larger than the server accepts"), (429, "hands full"), (500, "Something went wrong inside the server")],
)
def test_refusals_are_explained_and_can_be_tried_again(page: Any, console: Console, status: int, words: str) -> None:
    console.expected = (f"status of {status}",)
    refusal = {"error": {"message": "the server's own words", "type": "x", "param": None, "code": "x"}}
    page.route("**/v1/audio/transcriptions", lambda route: route.fulfill(status=status, json=refusal))
    upload(page, "en-digit-seven.flac")
    shown = page.locator("#segments").inner_text()
    assert words in shown and "the server's own words" in shown
    page.unroute("**/v1/audio/transcriptions")
    page.get_by_role("button", name="Try again").click()
    page.locator("#segments .reading").wait_for()
    assert shown_text(page)


def test_a_failed_second_try_keeps_the_first_text(page: Any, console: Console) -> None:
    console.expected = ("status of 503",)
    upload(page, "en-digit-seven.flac")
    first = shown_text(page)
    page.route("**/v1/audio/transcriptions", lambda route: route.fulfill(status=503, json={}))
    page.get_by_role("button", name="Transcribe again").click()
    page.locator("#segments").get_by_text("hands full").wait_for()
    assert first and shown_text(page) == first


def test_a_very_long_recording_is_played_but_not_drawn(page: Any) -> None:
    answer_with(page, Segment("at the end", 900.0, 901.0, "en", 0.9), duration_s=901.0)
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(901 * 8_000, np.int16), 8_000, "PCM_U8", format="WAV")
    page.set_input_files("#files", {"name": "long.wav", "mimeType": "audio/wav", "buffer": sound.getvalue()})
    wait_for_text(page, "long.wav")
    page.get_by_text("Too long for a picture").wait_for()
    assert page.locator("#wave").is_hidden()
    page.get_by_role("button", name="Play from 15:00.0 to 15:01.0").click()
    page.wait_for_function("() => document.getElementById('audio').currentTime >= 900")


def test_a_server_that_is_gone_is_named_as_such(page: Any, console: Console) -> None:
    console.expected = ("ERR_FAILED",)
    page.route("**/v1/audio/transcriptions", lambda route: route.abort())
    upload(page, "en-digit-seven.flac")
    assert "The server does not answer" in page.locator("#segments").inner_text()


def test_a_running_transcription_can_be_cancelled(page: Any) -> None:
    held: list[Any] = []
    page.route("**/v1/audio/transcriptions", lambda route: held.append(route))  # not answered
    page.set_input_files("#files", SAMPLES / "en-jfk.flac")
    page.get_by_text("Transcribing …").wait_for()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Try again").wait_for()
    held[0].abort()


def test_noise_is_heard_and_compared(page: Any) -> None:
    upload(page, "en-digit-seven.flac")
    page.locator("#noise summary").click()
    page.get_by_label("Noise", exact=True).select_option("White (hiss)")
    page.get_by_label("Speech above noise").fill("-5")
    forms = keep_forms(page, "**/v1/audio/noise")
    page.get_by_role("button", name="Add noise and listen again").click()
    page.locator(".sound").nth(1).wait_for()
    (sent,) = forms
    assert b'name="noise"\r\n\r\nwhite' in sent and b'name="snr_db"\r\n\r\n-5\r\n' in sent
    clean, noisy = page.locator(".sound").all()
    assert "As recorded" in clean.inner_text() and shown_text(page) in clean.inner_text()
    assert "White (hiss), -5 dB" in noisy.inner_text()
    page.get_by_role("button", name="Play: White (hiss), -5 dB").click()
    page.wait_for_function("() => document.getElementById('audio').currentTime > 0.1")
    length_s = page.evaluate("document.getElementById('audio').duration")
    assert length_s == pytest.approx(len(read_audio(SAMPLES / "en-digit-seven.flac")) / 16_000, abs=0.01)
    assert page.locator("h5").count() == 0  # no adapter, no columns for one


def test_an_adapter_is_shown_beside_its_base(open_at: Callable[..., Any], server: str, browser: Any) -> None:
    page = open_at("about:blank", ready=False)
    models = {"object": "list", "data": [{"id": "nano-noise", "base": "nano", "languages": ["en"]}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=models))

    def answer(route: Any) -> None:
        adapted = b'name="model"\r\n\r\nnano-noise' in route.request.post_data_buffer
        text = "what your country" if adapted else "what or gantry"
        route.fulfill(body=events((Segment(text, 1.0, 2.0, "en", 0.9),), 11.0), content_type="text/event-stream")

    page.route("**/v1/audio/transcriptions", answer)
    page.goto(server)
    upload(page, "en-jfk.flac")
    page.locator("#noise summary").click()
    page.get_by_role("button", name="Add noise and listen again").click()
    page.locator(".sound").nth(1).wait_for()
    assert page.locator("h5").all_inner_texts() == ["Base model", "With adapter"] * 2
    assert page.locator(".sound .reading").all_inner_texts() == ["what or gantry", "what your country"] * 2
    counts = page.locator(".sound .help").all_inner_texts()  # everything against the base on the clean recording
    assert counts == [
        "2 of 3 words came out differently.",
        "Every word is the same.",
        "2 of 3 words came out differently.",
    ]


def test_a_word_without_end_stays_in_its_column(open_at: Callable[..., Any], server: str) -> None:
    page = open_at("about:blank", ready=False)
    models = {"object": "list", "data": [{"id": "nano-noise", "base": "nano", "languages": ["en"]}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    body = events((Segment("all" * 200, 1.0, 2.0, "en", 0.9),), 11.0)
    page.route("**/v1/audio/transcriptions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.goto(server)
    upload(page, "en-jfk.flac")
    page.locator("#noise summary").click()
    page.get_by_role("button", name="Add noise and listen again").click()
    page.locator(".sound").nth(1).wait_for()
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_key_is_asked_for_once_and_kept_in_the_tab(open_at: Callable[..., Any], console: Console) -> None:
    console.expected = ("status of 401",)
    with running_server("--api-key", "correct horse") as address:
        page = open_at(address, ready=False)
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("dialog").get_by_text("did not accept the key").wait_for()
        page.get_by_label("API key").fill("correct horse")
        page.get_by_label("API key").press("Enter")
        page.wait_for_selector("html[data-ready]")
        assert page.locator("#model").inner_text() == "nano"
        upload(page, "en-digit-seven.flac")
        assert shown_text(page)
        page.get_by_role("button", name="Record").click()
        page.get_by_text("listening").wait_for()  # the socket has taken the key as well
        page.get_by_role("button", name="Stop").click()
        wait_for_text(page, "Recording 1")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.locator("dialog").is_hidden()


def test_language_and_theme_are_switched_and_remembered(page: Any, heard: dict[str, Transcription]) -> None:
    upload(page, "zh-today.flac")
    page.get_by_role("button", name="中文").click()
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.get_by_role("button", name="录音", exact=True).is_visible()
    assert "中文" in page.locator("#facts").inner_text()
    assert shown_text(page) == heard["zh-today.flac"].text
    assert page.get_by_label("语言").locator("option").all_inner_texts()[0] == "自动识别"
    page.get_by_role("button", name="切换浅色与深色").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.locator("html").get_attribute("data-theme") == "dark"
