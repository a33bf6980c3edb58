"""GRID file codes, lists of audio|video|transcript, and what `linnet prepare` makes of them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from linnet.data.corpora.grid import GRAMMAR, random_sentence, sentence
from linnet.data.prepare import prepare
from linnet.errors import ConfigError, ManifestError
from linnet.manifest import read_manifest

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bbaf2n.mpg", "bin blue at f two now"),
        ("sgizzs", "set green in z zero soon"),
        ("grid_id2_vcd_swwp2s.mpg", "set white with p two soon"),
        ("s3_l_lgia9a_WRONG_pwbk7a.mp4", "place white by k seven again"),  # a slip: what was spoken counts
        ("LRWP9A.MPG", "lay red with p nine again"),
    ],
)
def test_the_code_is_the_sentence(name: str, said: str) -> None:
    assert sentence(name) == said


def test_every_published_code_of_the_shared_clips_agrees_with_its_transcript(shared: Path) -> None:
    utterances = [u for split in ("train", "dev", "test") for u in read_manifest(shared / f"data/av.{split}.jsonl")]
    assert len(utterances) == 203
    assert all(u.video_path is not None and sentence(u.video_path.name) == u.text for u in utterances)


@pytest.mark.parametrize("name", ["holiday.mp4", "bbaw2n.mpg", "bbaf2.mpg", "xbbaf2nx.mpg"])
def test_names_without_a_code_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no GRID code"):
        sentence(name)


def test_random_sentences_follow_the_grammar() -> None:
    rng = random.Random(0)
    for _ in range(50):
        assert all(word in row for word, row in zip(random_sentence(rng).split(), GRAMMAR, strict=True))


def test_prepare_reads_grid_and_rejects_a_corrupt_clip(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grid" / "s7"
    folder.mkdir(parents=True)
    shutil.copy(shared / "data/av_grid/grid_bbaf2n.mpg", folder / "bbaf2n.mpg")
    (folder / "lrwp9a.mpg").write_bytes(b"\0\0\x01\xba" + bytes(5000))
    (folder / "holiday.mpg").write_bytes(b"no code, not listed")
    report = prepare(tmp_path / "grid", out=tmp_path / "out")
    assert report.corpus == "grid"
    (utterance,) = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert (utterance.text, utterance.speaker) == ("bin blue at f two now", "s7")
    assert utterance.video_path == utterance.audio_path and 2.9 < utterance.duration_s < 3.1
    (problem,) = report.unreadable
    assert problem.path.name == "lrwp9a.mpg" and "damaged" in problem.reason


def test_prepare_reads_lists_of_audio_video_and_transcript(shared: Path, tmp_path: Path) -> None:
    for name in ("a.flac", "a.mp4"):
        shutil.copy(shared / f"data/av/s2_l_bbim3a{Path(name).suffix}", tmp_path / name)
    shutil.copy(shared / "data/av_grid/grid_bbaf2n.mpg", tmp_path / "b.mpg")
    (tmp_path / "train.txt").write_text(
        "# audio|video|text\na.flac|a.mp4|Bin blue in M three again.\n\n|b.mpg|bin blue at f two now\n"
    )
    (tmp_path / "val.txt").write_text("gone.wav|gone.mp4|not here\na.flac||sound alone\n")
    report = prepare(tmp_path, out=tmp_path / "out")
    assert report.corpus == "av_list" and [problem.path.name for problem in report.unreadable] == ["gone.wav"]
    first, second = read_manifest(tmp_path / "out" / "train.jsonl")
    assert (first.audio_path.name, first.video_path and first.video_path.name) == ("a.flac", "a.mp4")
    assert first.text == "Bin blue in M three again."
    assert second.audio_path == second.video_path
    (alone,) = read_manifest(tmp_path / "out" / "val.jsonl")
    assert alone.video_path is None


def test_a_list_line_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.wav|a.mp4|hello\nb.wav|hello\n")
    with pytest.raises(ManifestError, match=r"train\.txt:2.*audio\|video\|transcript"):
        prepare(tmp_path, out=tmp_path / "out")
