"""Bad and odd input through the real command and the embedded model: the right error, or the right empty result.

An error says what happened, what was got, what is accepted and what to do; nothing of it goes to stdout. The tests hold
for any model, so they say nothing about words.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import linnet
from linnet import cli
from linnet.audio import read_audio, resample, write_audio
from linnet.bundle import FORMAT_VERSION
from linnet.noise import brown, hum, pink, white
from linnet.runtime.base import Recognizer

FloatArray = npt.NDArray[np.float32]
RATE = 16_000
SAMPLES = Path(__file__).parents[2] / "samples"
SPEECH = SAMPLES / "en-adult.flac"
NANO = Path(linnet.__file__).parent / "assets/nano"


class Ran:
    """What one `linnet transcribe` left behind."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["transcribe", *map(str, arguments), "--threads", "1"])
        self.code = ended.value.code
        self.out, self.err = capsys.readouterr()

    def failed_with(self, *phrases: object) -> None:
        """The command failed, and its one message holds all of these."""
        assert (self.code, self.out) == (1, "")
        assert "Traceback" not in self.err and len(self.err.splitlines()) == 1
        missing = [phrase for phrase in map(str, phrases) if phrase not in self.err]
        assert not missing, f"{missing} not in: {self.err}"

    def is_empty(self) -> None:
        """The command went well and heard nothing."""
        assert (self.code, self.out, self.err) == (0, "\n", "")


@pytest.fixture(scope="module")
def nano() -> Iterator[Recognizer]:
    model = linnet.load_model("nano", threads=1)
    yield model
    model.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the embedded bundle to spoil."""
    return Path(shutil.copytree(NANO, tmp_path / "model"))


def wav(path: Path, samples: npt.ArrayLike, rate_hz: int = RATE) -> Path:
    """Written as floats, so that the file holds exactly these samples [N] or [N, C]."""
    soundfile.write(path, np.asarray(samples, np.float32), rate_hz, subtype="FLOAT")
    return path


def edit(bundle: Path, **changes: Any) -> Path:
    description = bundle / "bundle.json"
    description.write_text(json.dumps(json.loads(description.read_text("utf-8")) | changes), "utf-8")
    return bundle


def test_a_missing_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "nowhere.wav"
    Ran(capsys, path).failed_with("There is no file", path, "check the name")


def test_a_directory_without_audio(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound here")
    Ran(capsys, tmp_path).failed_with("no audio in the folder", tmp_path, ".flac", ".wav", "has to be named itself")


def test_a_zero_byte_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "zero.wav"
    path.touch()
    Ran(capsys, path).failed_with(path, "is empty (0 bytes)", "copy or record it again")


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_flac(capsys: pytest.CaptureFixture[str], tmp_path: Path, kept: float) -> None:
    whole = SPEECH.read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(whole[: int(len(whole) * kept)])
    Ran(capsys, path).failed_with(path, "damaged or was cut short", "of 2.88 s", "download it again", "re-encode it")


@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_truncated_opus(capsys: pytest.CaptureFixture[str], tmp_path: Path, kept: float) -> None:
    path = tmp_path / "cut.opus"
    write_audio(path, read_audio(SPEECH), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    Ran(capsys, path).failed_with(path, "damaged or was cut short", "last Ogg page", "download it again")


def test_a_text_file_named_wav(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_text("<html><body>404 Not Found</body></html>\n")
    Ran(capsys, path).failed_with(path, "is not audio", "it is a text file", "Readable: wav, flac, mp3, ogg and opus")


def test_no_samples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = wav(tmp_path / "none.wav", [])
    Ran(capsys, path).failed_with(path, "has no samples (0.0 s)", "record it again or leave it out")


def test_10_ms_of_speech_is_an_empty_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    samples = read_audio(SPEECH)
    loudest = int(np.argmax(np.abs(samples)))
    Ran(capsys, wav(tmp_path / "short.wav", samples[loudest - 80 : loudest + 80])).is_empty()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path, bad: float) -> None:
    samples = read_audio(SPEECH)
    samples[RATE // 2] = bad
    path = wav(tmp_path / "broken.wav", samples)
    Ran(capsys, path).failed_with(path, "NaN or infinite samples", "first at 0.500 s", "export it again with integer")


def test_an_array_with_samples_that_are_not_numbers(nano: Recognizer) -> None:
    samples = read_audio(SPEECH)
    samples[7:9] = np.nan
    with pytest.raises(linnet.LinnetError, match=r"2 of \d+ samples are NaN or infinite, the first at index 7; every"):
        nano.transcribe(samples)


@pytest.mark.parametrize("seconds", [0.5, 70.0])  # more than two blocks
def test_silence_is_an_empty_text(capsys: pytest.CaptureFixture[str], tmp_path: Path, seconds: float) -> None:
    Ran(capsys, wav(tmp_path / "silence.wav", np.zeros(round(seconds * RATE)))).is_empty()


@pytest.mark.parametrize("color", [white, pink, brown, hum])
@pytest.mark.parametrize("level", [0.001, 0.1])
def test_noise_is_an_empty_text(capsys: pytest.CaptureFixture[str], tmp_path: Path, color: Any, level: float) -> None:
    noise = color(10 * RATE, rng=np.random.default_rng(3))
    path = wav(tmp_path / "noise.wav", noise / np.std(noise) * level)
    Ran(capsys, path).is_empty()


@pytest.mark.parametrize("ceiling", [1.0, 20.0])
def test_clipped_and_too_loud_speech_is_still_speech(nano: Recognizer, tmp_path: Path, ceiling: float) -> None:
    """20 times too loud, as an overdriven microphone gives it, and as a float file whose samples go beyond ±1."""
    samples = np.clip(20 * read_audio(SPEECH), -ceiling, ceiling)
    result = nano.transcribe(wav(tmp_path / "loud.wav", samples))
    assert result.text and result.duration_s == pytest.approx(len(samples) / RATE)


@pytest.mark.parametrize("rate_hz", [8_000, 96_000])
def test_other_sample_rates_hear_speech_at_the_same_time(nano: Recognizer, tmp_path: Path, rate_hz: int) -> None:
    samples = read_audio(SPEECH)
    expected = nano.transcribe(samples)
    path = wav(tmp_path / "rate.wav", resample(samples, RATE, rate_hz), rate_hz)
    for result in (
        nano.transcribe(path),
        nano.transcribe(read_audio(path, sample_rate_hz=rate_hz), sample_rate_hz=rate_hz),
    ):
        assert result.text and result.duration_s == pytest.approx(expected.duration_s, abs=1e-3)
        # three frames of the voice detector: 8 kHz takes the fricatives away
        assert result.segments[0].start_s == pytest.approx(expected.segments[0].start_s, abs=0.1)
        assert result.segments[-1].end_s == pytest.approx(expected.segments[-1].end_s, abs=0.1)


def test_six_channels_are_mixed(nano: Recognizer, tmp_path: Path) -> None:
    samples = read_audio(SPEECH)
    path = wav(tmp_path / "surround.wav", np.repeat(samples[:, None], 6, axis=1))
    expected, result = nano.transcribe(SPEECH), nano.transcribe(path)
    assert (result.text, result.duration_s) == (expected.text, expected.duration_s)


def test_three_hours_in_bounded_memory(nano: Recognizer, tmp_path: Path) -> None:
    """Mostly silence, so that it is quick; held whole, the recording alone would take 691 MB at the model's rate."""
    rate_hz, hours = 8_000, 3
    clip = resample(read_audio(SPEECH), RATE, rate_hz)
    starts_s = (0, 45 * 60 + 10, 90 * 60, hours * 3600 - 3)
    path = tmp_path / "meeting.flac"
    with soundfile.SoundFile(path, "w", rate_hz, 1, "PCM_16") as file:
        for start_s in range(0, hours * 3600, 30):
            block = np.zeros(30 * rate_hz, np.float32)
            for inside_s in (clip_s - start_s for clip_s in starts_s if 0 <= clip_s - start_s < 30):
                block[inside_s * rate_hz :][: len(clip)] = clip
            file.write(block)
    nano.transcribe(SPEECH)
    before = resident_bytes()
    reset_peak()
    result = nano.transcribe(path)
    assert resident_bytes(peak=True) - before < 100e6  # a few blocks of 30 s; measured: 15 MB
    assert result.duration_s == hours * 3600
    assert len(result.segments) == len(starts_s)
    for segment, clip_s in zip(result.segments, starts_s, strict=True):
        assert clip_s - 0.1 <= segment.start_s < segment.end_s <= clip_s + 3


def resident_bytes(*, peak: bool = False) -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("memory is read from /proc, which this system does not have")
    key = "VmHWM:" if peak else "VmRSS:"
    (kib,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith(key))
    return int(kib) * 1024


def reset_peak() -> None:
    """Have the kernel forget the largest resident size so far (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be reset here: {error}")


def test_a_bundle_with_a_missing_file(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    (bundle / "encoder.onnx").unlink()
    ran = Ran(capsys, SPEECH, "--model", bundle)
    ran.failed_with(bundle, "encoder.onnx", "that file is missing", "Export the bundle again or download it anew")


def test_a_bundle_with_an_altered_file(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    path = bundle / "decoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    ran = Ran(capsys, SPEECH, "--model", bundle)
    ran.failed_with(path, "was altered: its SHA-256 is", "expected", "Export the bundle again or download it anew")


def test_a_bundle_with_a_file_cut_short(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    ran = Ran(capsys, SPEECH, "--model", bundle)
    ran.failed_with(path, f"was altered: it has {size - 100} bytes, expected {size}", "download it anew")


def test_a_bundle_of_a_newer_format(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    edit(bundle, format_version=FORMAT_VERSION + 1)
    ran = Ran(capsys, SPEECH, "--model", bundle)
    ran.failed_with(
        f"format_version {FORMAT_VERSION + 1}", f"reads up to {FORMAT_VERSION}", "pip install --upgrade linnet"
    )


def test_a_bundle_of_an_unknown_family(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    edit(bundle, family="parrot")
    Ran(capsys, SPEECH, "--model", bundle).failed_with(bundle, "family 'parrot'", "qwen3_asr", "Choose another bundle")


def test_an_unknown_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Ran(capsys, SPEECH, "--model", "parrot").failed_with("No model 'parrot'", "Accepted", "nano", "linnet export")


@pytest.mark.parametrize("language", ["klingon", "sv"])  # no language of Qwen3-ASR, and one that nano lacks
def test_an_unknown_language(capsys: pytest.CaptureFixture[str], language: str) -> None:
    ran = Ran(capsys, SPEECH, "--language", language)
    ran.failed_with(f"does not know the language '{language}'", "accepted", "English (en)", "Leave the language out")


def test_a_batch_goes_on_after_a_bad_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cut, silence = tmp_path / "cut.flac", wav(tmp_path / "silence.wav", np.zeros(RATE))
    cut.write_bytes(SPEECH.read_bytes()[:20_000])
    ran = Ran(capsys, SPEECH, cut, tmp_path / "nowhere.wav", silence)
    assert ran.code == 1
    first, second = ran.out.splitlines()
    assert first.startswith(f"{SPEECH}: ") and len(first) > len(f"{SPEECH}: ")
    assert second == f"{silence}: "
    problems = [line for line in ran.err.splitlines() if line.startswith("linnet transcribe: ")]
    assert len(problems) == 2 and "Traceback" not in ran.err
    assert f"There is no file {tmp_path / 'nowhere.wav'}" in problems[0]
    assert str(cut) in problems[1] and "cut short" in problems[1]
