"""The cache of decoded clips: read once, read again when a file changed, without what cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from linnet.audio import read_audio, write_audio
from linnet.data import clips as clips_module
from linnet.data.clips import load_clips
from linnet.errors import TrainingError
from linnet.manifest import Utterance, read_manifest

STEP = 2 / 32768  # one step of 16 bits, and the rounding of writing at 32767


def tone(hz: float, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    made = []
    for name, seconds in (("a", 0.5), ("b", 1.25), ("c", 0.02)):
        path = tmp_path / "audio" / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        write_audio(path, tone(300, seconds), 16_000)
        made.append(Utterance(audio_path=path, duration_s=seconds, text=name))
    return made


def test_clips_are_the_files_at_16_bits(utterances: list[Utterance], tmp_path: Path) -> None:
    kept, clips = load_clips(utterances, tmp_path / "cache")
    assert kept == utterances and len(clips) == 3
    for index, utterance in enumerate(utterances):
        assert clips[index].dtype == np.float32
        np.testing.assert_allclose(clips[index], read_audio(utterance.audio_path), atol=STEP)
        assert clips.duration_s(index) == utterance.duration_s


def test_real_recordings_keep_their_length_and_samples(shared: Path, tmp_path: Path) -> None:
    manifest = read_manifest(shared / "data" / "dev.jsonl")
    utterances = manifest[:3] + manifest[-3:]
    _, clips = load_clips(utterances, tmp_path)
    for index, utterance in enumerate(utterances):
        exact = np.clip(read_audio(utterance.audio_path), -1, 1)  # lossy codecs overshoot
        np.testing.assert_allclose(clips[index], exact, atol=STEP)
        assert clips.duration_s(index) == pytest.approx(utterance.duration_s, abs=0.02)  # one Opus frame


def test_the_cache_is_used_again(utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    _, first = load_clips(utterances, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(clips_module, "read_audio", lambda path: pytest.fail(f"{path} was decoded again"))
    _, second = load_clips(utterances, tmp_path / "cache")
    assert all(np.array_equal(first[index], second[index]) for index in range(3))


def test_a_changed_file_is_decoded_again(utterances: list[Utterance], tmp_path: Path) -> None:
    load_clips(utterances, tmp_path / "cache")
    path = utterances[1].audio_path
    stat = path.stat()
    write_audio(path, tone(900, 1.25), 16_000)  # the same size, another time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    _, clips = load_clips(utterances, tmp_path / "cache")
    np.testing.assert_allclose(clips[1], tone(900, 1.25), atol=STEP)


def test_the_order_of_a_manifest_belongs_to_its_cache(utterances: list[Utterance], tmp_path: Path) -> None:
    load_clips(utterances, tmp_path / "cache")
    kept, clips = load_clips(utterances[::-1], tmp_path / "cache")
    assert [clips.duration_s(index) for index in range(3)] == [utterance.duration_s for utterance in kept]


def test_unreadable_files_are_left_out_and_named(utterances: list[Utterance], tmp_path: Path) -> None:
    broken, missing = tmp_path / "audio" / "broken.wav", tmp_path / "audio" / "missing.wav"
    broken.write_text("this is not audio")
    bad = [Utterance(audio_path=path, duration_s=1.0, text="x") for path in (broken, missing)]
    kept, clips = load_clips([bad[0], *utterances, bad[1]], tmp_path / "cache")
    assert kept == utterances
    assert [clips.duration_s(index) for index in range(3)] == [0.5, 1.25, 0.02]
    (report,) = (tmp_path / "cache").glob("*.unreadable.txt")
    lines = report.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [str(broken), str(missing)]
    assert all(line.split(":", 1)[1].strip() for line in lines)
    assert load_clips([bad[0], *utterances, bad[1]], tmp_path / "cache")[0] == utterances  # from the cache, too


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    missing = Utterance(audio_path=tmp_path / "missing.wav", duration_s=1.0, text="x")
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"None of the 1 recordings.*unreadable\.txt"):
            load_clips([missing], tmp_path / "cache")


def test_an_interrupted_decoding_leaves_no_cache(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_clips(utterances, tmp_path / "cache", progress=interrupted)
    kept, clips = load_clips(utterances, tmp_path / "cache")
    assert len(kept) == len(clips) == 3
    np.testing.assert_allclose(clips[1], tone(300, 1.25), atol=STEP)


def test_another_process_never_sees_half_an_index(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks decode the same corpus: whoever finds the index must find all of it."""
    replace, complete = os.replace, []

    def watched(source: Path, target: Path) -> None:
        if Path(target).suffix == ".json":
            assert not Path(target).exists()
            json.loads(Path(source).read_text())
            complete.append(target)
        replace(source, target)

    monkeypatch.setattr(clips_module.os, "replace", watched)
    load_clips(utterances, tmp_path / "cache")
    assert len(complete) == 1
    assert not list((tmp_path / "cache").glob("*partial*"))
