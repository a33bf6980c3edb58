"""The audio-visual recogniser at run time: every modality, every way a file can be wrong, and batches that go on.

The network has random weights: what it answers is noise, but the same sound and pictures give the same noise.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from linnet import cli
from linnet.audio import read_audio, write_audio
from linnet.bundle import Bundle, write_bundle
from linnet.ctc import greedy
from linnet.data.corpora.grid import GRAMMAR
from linnet.errors import (
    AudioContentError,
    AudioError,
    BundleCorruptError,
    ConfigError,
    LanguageError,
    MissingExtraError,
    VideoContentError,
    VideoDecodeError,
)
from linnet.evaluate import evaluate
from linnet.export.avsr import write_avsr
from linnet.manifest import Utterance, write_manifest
from linnet.runtime.avsr import AVSRRecognizer
from linnet.runtime.avsr_config import AVSRConfig, Vocabulary
from linnet.runtime.base import AudioVisualRecognizer
from linnet.runtime.loader import load_model
from test_video import write_video

pytest.importorskip("av")
SHAPE = AVSRConfig(
    fusion="adaptive",
    video_px=16,
    audio_channels=(4, 6, 8),
    video_channels=(4, 6, 8),
    width=16,
    stream_blocks=1,
    joint_blocks=1,
    kernel=3,
)


def weights() -> dict[str, npt.NDArray[np.float32]]:
    """Random weights of SHAPE by the module's names; loud enough that some letter beats the blank."""
    rng, sizes = np.random.default_rng(1), {}
    for name, first in (("audio", 3), ("video", 5)):
        sizes |= {f"{name}.conv1": (4, 1, first, first), f"{name}.conv2": (6, 4, 3, 3), f"{name}.conv3": (8, 6, 3, 3)}
    sizes |= {"audio.project": (16, 40), "video.project": (16, 32), "audio_head": (29, 16), "video_head": (29, 16)}
    for block in ("audio_blocks.0", "video_blocks.0", "joint_blocks.0"):
        sizes |= {f"{block}.conv": (16, 1, 3), f"{block}.up": (32, 16), f"{block}.down": (16, 32)}
    sizes |= {"fusion.hidden": (16, 38), "fusion.gate": (16, 16), "fusion.mix": (16, 16), "head": (29, 16)}
    named = {f"{name}.weight": rng.normal(0, 0.4, size) for name, size in sizes.items()}
    named |= {f"{name}.bias": rng.normal(0, 0.1, size[0]) for name, size in sizes.items()}
    for norm in ("audio.norm", "video.norm", "norm", *(f"{b}_blocks.0.norm" for b in ("audio", "video", "joint"))):
        named |= {f"{norm}.weight": np.ones(16), f"{norm}.bias": np.zeros(16)}
    named |= {"no_audio": rng.normal(0, 1, 16), "no_video": rng.normal(0, 1, 16)}
    return {name: value.astype(np.float32) for name, value in named.items()}


def make_bundle(folder: Path, **more: object) -> Bundle:
    folder.mkdir()
    write_avsr(weights(), SHAPE, folder / "avsr.onnx")
    return write_bundle(
        folder,
        name="eyes",
        family="avsr",
        model={"shape": SHAPE.to_dict(), "vocabulary": list(Vocabulary().symbols), **more},
        features=SHAPE.features,
        precision={"avsr.onnx": "fp32"},
        languages=["en"],
        provenance={},
        parity={},
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "eyes")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real files with both streams and with one, small mouths that need no face detection."""
    folder = tmp_path_factory.mktemp("clips")
    times_ms = list(range(0, 2000, 40))
    rng = np.random.default_rng(0)
    write_audio(folder / "sound.wav", (0.1 * rng.standard_normal(32_000)).astype(np.float32), 16_000)
    return {
        "both": write_video(folder / "both.mp4", times_ms, sound_s=2.0),
        "pictures": write_video(folder / "pictures.mp4", times_ms),
        "sound": folder / "sound.wav",
        "wall": write_video(folder / "wall.mp4", times_ms, width=320, height=240, sound_s=2.0),
        "blink": write_video(folder / "blink.mp4", [0], sound_s=2.0),
        "short": write_video(folder / "short.mp4", list(range(0, 400, 40)), sound_s=2.0),
        "portrait": write_video(folder / "portrait.mp4", times_ms, width=48, height=96, sound_s=2.0),
    }


def recognizer(bundle: Bundle, modality: str = "auto") -> AVSRRecognizer:
    return AVSRRecognizer(bundle, threads=1, modality=modality)


def test_the_loader_opens_it_and_it_is_audio_visual(bundle: Bundle) -> None:
    opened = load_model(bundle.path, threads=1)
    assert isinstance(opened, AVSRRecognizer) and isinstance(opened, AudioVisualRecognizer)
    opened.close()


def test_modalities_hear_and_see_what_they_say(bundle: Bundle, clips: dict[str, Path]) -> None:
    texts = {m: recognizer(bundle, m).transcribe(clips["both"]).text for m in ("auto", "both", "audio", "video")}
    assert texts["auto"] == texts["both"]
    assert texts["audio"] == recognizer(bundle).transcribe(read_audio(clips["both"])).text
    assert texts["video"] == recognizer(bundle).transcribe(clips["pictures"]).text
    assert len(set(texts.values())) == 3


def test_the_answer_is_the_graphs(bundle: Bundle, clips: dict[str, Path]) -> None:
    one = recognizer(bundle)
    mouth = one.read_mouth(clips["both"])
    log_probs = one.log_probs(read_audio(clips["both"]), mouth.frames)
    assert log_probs.shape == (50, 29)
    found = one.transcribe(clips["both"])
    spelled = Vocabulary().decode(greedy(log_probs, frame_s=0.04).tokens)
    assert found.text == " ".join(spelled.split()) and found.duration_s == 2.0
    words = found.segments[0].words
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times, key=lambda t: t or 0) and times[-1] <= 2.0  # type: ignore[operator]


def test_streams_of_bytes_and_standard_input_work(bundle: Bundle, clips: dict[str, Path]) -> None:
    expected = recognizer(bundle).transcribe(clips["both"]).text
    assert recognizer(bundle).transcribe(io.BytesIO(clips["both"].read_bytes())).text == expected


def flags(bundle: Bundle, path: Path) -> tuple[str, ...]:
    return recognizer(bundle).transcribe(path).segments[0].flags


def test_auto_falls_back_to_the_stream_that_works_and_says_so(bundle: Bundle, clips: dict[str, Path]) -> None:
    pytest.importorskip("cv2")
    assert flags(bundle, clips["both"]) == ()
    assert flags(bundle, clips["wall"]) == ("no_face",)
    assert flags(bundle, clips["blink"]) == ("no_video",)
    assert flags(bundle, clips["pictures"]) == ("no_sound",)
    assert flags(bundle, clips["short"]) == ("lengths_differ",)
    assert flags(bundle, clips["portrait"]) == ()
    heard = recognizer(bundle, "audio").transcribe(clips["wall"]).text
    assert recognizer(bundle).transcribe(clips["wall"]).text == heard


@pytest.mark.parametrize(
    ("modality", "name", "error", "message"),
    [
        ("both", "wall", VideoContentError, "found in 0 of 10 frames"),
        ("video", "wall", VideoContentError, "Film the face"),
        ("both", "sound", VideoDecodeError, "no video track"),
        ("video", "sound", VideoDecodeError, "no video track"),
        ("both", "pictures", AudioError, "no audio track"),
        ("audio", "pictures", AudioError, "no audio track"),
        ("video", "blink", VideoContentError, "1 video frames"),
    ],
)
def test_what_is_asked_for_and_missing_is_an_error(
    bundle: Bundle, clips: dict[str, Path], modality: str, name: str, error: type[Exception], message: str
) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(error, match=message):
        recognizer(bundle, modality).transcribe(clips[name])


def test_other_bad_input_is_named(bundle: Bundle, clips: dict[str, Path], tmp_path: Path) -> None:
    one = recognizer(bundle)
    with pytest.raises(VideoDecodeError, match="Samples have no pictures"):
        recognizer(bundle, "both").transcribe(np.zeros(16_000, np.float32))
    with pytest.raises(AudioContentError, match="one step needs 640"):
        one.transcribe(np.zeros(100, np.float32))
    with pytest.raises(LanguageError, match="knows en"):
        one.transcribe(clips["sound"], language="zh")
    with pytest.raises(ConfigError, match="no context"):
        one.transcribe(clips["sound"], context="Linnet")
    with pytest.raises(ConfigError, match="auto, audio, video, both"):
        AVSRRecognizer(bundle, modality="nose")
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    with pytest.raises(AudioError, match="damaged"):
        one.transcribe(tmp_path / "broken.mp4")


def test_a_foreign_description_is_corrupt(tmp_path: Path) -> None:
    broken = make_bundle(tmp_path / "broken", shape={"fusion": "magic"})
    with pytest.raises(BundleCorruptError, match="not one of an audio-visual"):
        AVSRRecognizer(broken)


def test_long_recordings_are_cut_and_keep_their_times(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(47 * 16_000)).astype(np.float32)
    found = recognizer(bundle).transcribe(samples)
    assert len(found.segments) >= 3 and found.duration_s == 47.0
    bounds = [time for segment in found.segments for time in (segment.start_s, segment.end_s)]
    assert bounds == sorted(bounds) and bounds[-1] <= 47.0
    assert all(segment.end_s - segment.start_s <= 18.1 for segment in found.segments)


def test_beam_and_grammar(tmp_path: Path, clips: dict[str, Path]) -> None:
    one = AVSRRecognizer(make_bundle(tmp_path / "grid", grammar=[list(row) for row in GRAMMAR]), threads=1)
    words = one.transcribe(clips["both"]).text.split()
    assert all(word in row for word, row in zip(words, GRAMMAR, strict=True))
    one.decoding = "greedy"
    spelled = one.transcribe(clips["both"])
    one.decoding = "beam"
    assert one.transcribe(clips["both"]).text and spelled.text
    assert spelled.text.split() != words
    plain = AVSRRecognizer(make_bundle(tmp_path / "plain"), threads=1, decoding="grammar")
    with pytest.raises(ConfigError, match="greedy, beam"):
        plain.transcribe(clips["both"])


def test_without_opencv_auto_names_the_extra(
    bundle: Bundle, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"linnet\[lips\]"):
        recognizer(bundle).transcribe(clips["wall"])
    assert recognizer(bundle, "audio").transcribe(clips["wall"]).text


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_the_command_line_takes_modalities_and_a_bad_file_does_not_stop_the_rest(
    bundle: Bundle, clips: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    files = [clips["both"], clips["wall"], clips["pictures"]]
    assert run("transcribe", *files, "--model", bundle.path, "--modality", "video", "--quiet") == 1
    out, err = capsys.readouterr()
    assert [Path(line.split(": ")[0]).name for line in out.splitlines()] == ["both.mp4", "pictures.mp4"]
    assert "found in 0 of 10 frames" in err
    assert run("transcribe", clips["sound"], "--model", "nano", "--modality", "video") == 1
    assert "only hears" in capsys.readouterr().err


def test_evaluate_sets_modalities_side_by_side(
    bundle: Bundle, clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    utterances = [
        Utterance(audio_path=clips[name], video_path=video, duration_s=2.0, text="bin blue", id=name, language="en")
        for name, video in (("both", clips["both"]), ("sound", clips["pictures"]), ("wall", clips["wall"]))
    ]
    write_manifest(tmp_path / "a.jsonl", utterances[:2])
    arguments = ["evaluate", bundle.path, tmp_path / "a.jsonl", "--modality", "each", "--quiet"]
    report = tmp_path / "report.json"
    # the first clip is silent, so it cannot be mixed with noise: named, and the other one goes on
    assert run(*arguments, "--noise", "white", "--snr-db", 0, "--json", report) == 1
    out = capsys.readouterr().out.splitlines()
    assert "WER % audio+video" in out[0] and [line.split()[1] for line in out[1:]] == [
        "clean",
        "clean",
        "white",
        "white",
    ]
    saved = json.loads(report.read_text())
    assert list(saved) == ["both", "audio", "video"]
    clean = {name: [u["hypothesis"] for u in saved[name]["utterances"] if u["noise"] is None] for name in saved}
    assert clean["both"] != clean["audio"] != clean["video"]
    one = recognizer(bundle, "both")
    failed = [u.error for u in evaluate(one, utterances).utterances if u.left_out == "failed"]
    assert len(failed) == 1 and "found in 0" in str(failed[0])
    one.modality = "auto"  # without a face it listens
    assert not evaluate(one, utterances).failures
