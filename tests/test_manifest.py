"""Manifests: what is read, what is written, and which line is to blame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linnet.errors import ManifestError
from linnet.manifest import Utterance, read_manifest, write_manifest


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "m.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        '{"audio_filepath": "a/b.flac", "duration": 1.5, "text": "hi", "video_filepath": "b.mp4", "id": "x1",'
        ' "speaker": 17, "language": "en", "corpus": "c", "age": 6, "style": null}',
    )
    assert read_manifest(path) == [
        Utterance(
            audio_path=tmp_path / "a/b.flac",
            duration_s=1.5,
            text="hi",
            video_path=tmp_path / "b.mp4",
            id="x1",
            speaker="17",
            language="en",
            corpus="c",
            extra={"age": 6, "style": None},
        )
    ]


def test_defaults_and_absolute_paths(tmp_path: Path) -> None:
    path = manifest(tmp_path, '{"audio_filepath": "/data/x.y.wav", "duration": 2, "language": "", "speaker": ""}')
    (utterance,) = read_manifest(str(path))
    assert (utterance.audio_path, utterance.id, utterance.duration_s) == (Path("/data/x.y.wav"), "x.y", 2.0)
    assert (utterance.text, utterance.language, utterance.speaker, utterance.corpus) == (None, None, None, None)
    assert (utterance.video_path, utterance.extra) == (None, {})


def test_blank_lines_byte_order_mark_and_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [
        '{"audio_filepath": "a.wav", "duration": 1, "text": "one\u2028line"}',
        "",
        '{"audio_filepath": "b.wav", "duration": 1}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    assert [u.text for u in read_manifest(path)] == ["one\u2028line", None]


def test_repeated_ids_are_allowed(tmp_path: Path) -> None:
    line = '{"audio_filepath": "a.wav", "duration": 1, "id": "same"}'
    assert [u.id for u in read_manifest(manifest(tmp_path, line, line))] == ["same", "same"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a JSON object"),
        ("hello", "not a JSON object"),
        ("[1]", "expected a JSON object, got list"),
        ('{"duration": 1}', "'audio_filepath' is missing or empty"),
        ('{"audio_filepath": "", "duration": 1}', "'audio_filepath' is missing or empty"),
        ('{"audio_filepath": 3, "duration": 1}', "'audio_filepath' must be text, got int: 3"),
        ('{"audio_filepath": "a.wav"}', "'duration' must be a positive number of seconds, got None"),
        ('{"audio_filepath": "a.wav", "duration": "1"}', "'duration' must be"),
        ('{"audio_filepath": "a.wav", "duration": 0}', "'duration' must be"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "'duration' must be"),
        ('{"audio_filepath": "a.wav", "duration": true}', "'duration' must be"),
        ('{"audio_filepath": "a.wav", "duration": 1, "text": ["a"]}', "'text' must be text, got list"),
        ('{"audio_filepath": "a.wav", "duration": 1, "speaker": 1.5}', "'speaker' must be text, got float"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = manifest(tmp_path, '{"audio_filepath": "a.wav", "duration": 1}', "", line)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest at"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="is a folder"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="no utterances"):
        read_manifest(manifest(tmp_path, ""))
    (tmp_path / "m.jsonl").write_bytes(b'{"audio_filepath": "\xff"}')
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(tmp_path / "m.jsonl")


def test_round_trip_with_relative_paths(tmp_path: Path) -> None:
    utterances = [
        Utterance(audio_path=tmp_path / "data/wav/ä.wav", duration_s=0.5, text="", video_path=tmp_path / "data/v.mp4"),
        Utterance(audio_path=tmp_path / "elsewhere/b.wav", duration_s=1.0, speaker="s", extra={"snr": [1, 2]}),
    ]
    path = tmp_path / "data" / "new" / ".." / "m.jsonl"
    write_manifest(path, utterances)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["audio_filepath"] for row in rows] == ["wav/ä.wav", (tmp_path / "elsewhere/b.wav").as_posix()]
    assert rows[0]["video_filepath"] == "v.mp4"
    assert rows[0]["text"] == ""  # an empty reference is not a missing one
    assert "text" not in rows[1]
    read = read_manifest(tmp_path / "data" / "m.jsonl")
    assert read == utterances
    assert [entry.name for entry in (tmp_path / "data").iterdir() if entry.is_file()] == ["m.jsonl"]


def test_a_failed_write_keeps_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    good = Utterance(audio_path=tmp_path / "a.wav", duration_s=1.0)
    write_manifest(path, [good])
    with pytest.raises(ManifestError, match="'extra' must not hold"):
        write_manifest(path, [good, Utterance(audio_path=tmp_path / "b.wav", duration_s=1.0, extra={"duration": 2})])
    assert read_manifest(path) == [good]


def test_shared_manifests_are_read_and_survive_writing(shared: Path, tmp_path: Path) -> None:
    paths = sorted((shared / "data").glob("*.jsonl"))
    assert paths
    for path in paths:
        utterances = read_manifest(path)
        assert all(utterance.audio_path.is_file() for utterance in utterances[:20])
        write_manifest(tmp_path / path.name, utterances)
        assert [u.audio_path.resolve() for u in read_manifest(tmp_path / path.name)] == [
            u.audio_path.resolve() for u in utterances
        ]
