"""Manifests from small copies of the published corpus layouts, with real sound files of known length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from linnet.data.prepare import prepare
from linnet.errors import AudioContentError, AudioNotFoundError, ConfigError, LanguageError, ManifestError
from linnet.manifest import Utterance, read_manifest


def sound(path: Path, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def by_id(path: Path) -> dict[str, Utterance]:
    return {utterance.id: utterance for utterance in read_manifest(path)}


def librispeech(root: Path) -> Path:
    for subset in ("train-clean-100", "dev-other"):
        for speaker, chapter in (("19", "198"), ("84", "121")):
            folder, stem = root / subset / speaker / chapter, f"{speaker}-{chapter}"
            sound(folder / f"{stem}-0000.flac", 0.25)
            sound(folder / f"{stem}-0001.flac", 0.75)
            write(folder / f"{stem}.trans.txt", f"{stem}-0000 NORTHANGER ABBEY\n{stem}-0001 THIS LITTLE WORK\n")
    return root


def test_librispeech_gives_one_manifest_per_subset(tmp_path: Path) -> None:
    librispeech(tmp_path / "LibriSpeech")
    write(tmp_path / "LibriSpeech" / "SPEAKERS.TXT", "not a transcript")
    report = prepare(tmp_path, out=tmp_path / "manifests")
    assert report.corpus == "librispeech" and report.unreadable == ()
    assert {m.split: (m.utterances, m.with_text) for m in report.manifests} == {
        "dev-other": (4, 4),
        "train-clean-100": (4, 4),
    }
    assert all(m.duration_s == pytest.approx(2.0) for m in report.manifests)
    utterances = by_id(tmp_path / "manifests" / "dev-other.jsonl")
    assert list(utterances) == ["19-198-0000", "19-198-0001", "84-121-0000", "84-121-0001"]
    first = utterances["19-198-0000"]
    assert (first.text, first.speaker, first.language, first.corpus) == ("NORTHANGER ABBEY", "19", "en", "librispeech")
    assert first.duration_s == 0.25 and first.audio_path.is_file()


@pytest.mark.parametrize("inside", [".", "LibriSpeech", "LibriSpeech/dev-other"])
def test_librispeech_is_recognised_from_the_parent_the_root_and_a_subset(
    tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    librispeech(tmp_path / "LibriSpeech")
    monkeypatch.chdir(tmp_path / inside)
    report = prepare(".", out="made")
    assert report.corpus == "librispeech"
    assert "dev-other" in {m.split for m in report.manifests}


def common_voice(root: Path, language: str = "en") -> Path:
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\n"
    rows = [f"voice{i}\tclip_{i}.mp3\t{text}\t2\t0\ttwenties\t\t\t{language}\n" for i, text in enumerate(SENTENCES)]
    for i in range(len(SENTENCES)):
        sound(root / language / "clips" / f"clip_{i}.mp3", 1.0, rate=32_000)
    write(root / language / "train.tsv", header + rows[0] + rows[1])
    write(root / language / "test.tsv", header + rows[2])
    write(root / language / "validated.tsv", header + "".join(rows))
    return root


SENTENCES = ['He said "no', "It's mine, isn't it?", "Über allen Gipfeln"]


def test_common_voice_reads_every_table_and_keeps_quotes(tmp_path: Path) -> None:
    report = prepare(common_voice(tmp_path / "cv-corpus"), out=tmp_path / "cv")
    assert report.corpus == "common_voice"
    assert {m.split: m.utterances for m in report.manifests} == {"train": 2, "test": 1, "validated": 3}
    utterances = by_id(tmp_path / "cv" / "validated.jsonl")
    assert [u.text for u in utterances.values()] == SENTENCES
    clip = utterances["clip_0"]
    assert (clip.speaker, clip.language, clip.extra) == ("voice0", "en", {"age": "twenties"})
    # MP3 has encoder padding of up to two frames (1152 samples each at 32 kHz).
    assert clip.duration_s == pytest.approx(1.0, abs=0.08)


def test_several_common_voice_languages_do_not_overwrite_each_other(tmp_path: Path) -> None:
    common_voice(common_voice(tmp_path / "cv", "de"), "zh-CN")
    report = prepare(tmp_path / "cv", out=tmp_path / "made")
    assert {m.split for m in report.manifests} >= {"de-train", "zh-CN-train"}
    assert read_manifest(tmp_path / "made" / "zh-CN-test.jsonl")[0].language == "zh"


def test_a_clip_in_two_tables_that_cannot_be_read_is_reported_once(tmp_path: Path) -> None:
    root = common_voice(tmp_path / "cv")
    (root / "en" / "clips" / "clip_1.mp3").write_bytes(b"")
    (root / "en" / "clips" / "clip_2.mp3").unlink()
    report = prepare(root, out=tmp_path / "made")
    assert [problem.path.name for problem in report.unreadable] == ["clip_1.mp3", "clip_2.mp3"]
    assert "empty" in report.unreadable[0].reason and "no file" in report.unreadable[1].reason
    assert {m.split: m.utterances for m in report.manifests} == {"train": 1, "validated": 1}


def test_aishell_drops_word_spaces_and_recordings_without_transcript(tmp_path: Path) -> None:
    root = tmp_path / "data_aishell"
    lines = []
    for split, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        name = f"BAC009{speaker}W0122"
        sound(root / "wav" / split / speaker / f"{name}.wav", 0.5)
        lines.append(f"{name} 而 对 楼市 成交 抑制 作用 最 大 的 限 购 APP store\n")
    sound(root / "wav" / "train" / "S0002" / "BAC009S0002W0999.wav")
    write(root / "transcript" / "aishell_transcript_v0.8.txt", "".join(lines))
    for source in (tmp_path, root):
        report = prepare(source, out=tmp_path / "made")
        assert report.corpus == "aishell"
        assert {m.split: m.utterances for m in report.manifests} == {"train": 1, "dev": 1, "test": 1}
    utterance = read_manifest(tmp_path / "made" / "test.jsonl")[0]
    assert utterance.text == "而对楼市成交抑制作用最大的限购APP store"
    assert (utterance.language, utterance.speaker) == ("zh", "S0764")


def test_any_folder_takes_text_from_sidecars(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    for name in ("a.wav", "deep/er/b.FLAC", "c.ogg", "._c.ogg", ".trash/d.wav"):
        sound(folder / name) if not name.startswith("._") else write(folder / name, "resource fork")
    write(folder / "a.txt", "\ufeffhello  there\n")
    write(folder / "deep" / "er" / "b.lab", "second\n")
    write(folder / "notes.txt", "nothing of this is a transcript")
    report = prepare(folder, out=folder / "all.jsonl", language="English")
    assert report.corpus == "folder" and report.unreadable == ()
    assert [m.path for m in report.manifests] == [folder / "all.jsonl"]
    utterances = by_id(folder / "all.jsonl")
    assert {name: u.text for name, u in utterances.items()} == {"a": "hello there", "c": None, "deep/er/b": "second"}
    assert {u.language for u in utterances.values()} == {"en"}
    # Below the manifest's folder the paths are relative, so that the folder can be moved.
    paths = [json.loads(line)["audio_filepath"] for line in (folder / "all.jsonl").read_text().splitlines()]
    assert paths == ["a.wav", "c.ogg", "deep/er/b.FLAC"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("transcripts.tsv", 'path\ttext\tspeaker\nx/a.wav\tsay "hi\ttom\nx/b\tbye\tann\n'),
        ("transcripts.tsv", 'x/a.wav\tsay "hi\n./x/b\tbye\n'),
        ("transcripts.csv", 'speaker,sentence,filename\ntom,"say ""hi",x/a.wav\nann,bye,x/../x/b.wav\n'),
        ("x/transcripts.csv", 'a.wav,"say ""hi"\r\nb.wav,bye\r\n'),
    ],
)
def test_any_folder_takes_text_from_a_table(tmp_path: Path, name: str, content: str) -> None:
    for stem in ("a", "b", "c"):
        sound(tmp_path / "x" / f"{stem}.wav")
    write(tmp_path / name, content)
    write(tmp_path / "x" / "a.txt", "the table wins")
    write(tmp_path / "x" / "c.txt", "from the sidecar")
    prepare(tmp_path, out=tmp_path / "out")
    utterances = by_id(tmp_path / "out" / "manifest.jsonl")
    assert {u.id: u.text for u in utterances.values()} == {"x/a": 'say "hi', "x/b": "bye", "x/c": "from the sidecar"}
    if "speaker" in content:
        assert [u.speaker for u in utterances.values()] == ["tom", "ann", None]


def test_bad_files_are_named_and_the_rest_is_written(tmp_path: Path) -> None:
    sound(tmp_path / "good.wav", channels=2)
    write(tmp_path / "text.wav", "this is not audio at all")
    write(tmp_path / "zero.flac", "")
    sound(tmp_path / "none.wav", seconds=0)
    sound(tmp_path / "latin.wav")
    (tmp_path / "latin.txt").write_bytes("façade".encode("latin-1"))
    write(tmp_path / "transcripts.tsv", "gone.wav\tno such file\ngood.wav\tfine\n")
    report = prepare(tmp_path, out=tmp_path / "out")
    assert {p.path.name for p in report.unreadable} == {"text.wav", "zero.flac", "none.wav", "latin.wav", "gone.wav"}
    assert all(p.path.name in p.reason or p.path.stem in p.reason for p in report.unreadable)
    assert [u.id for u in read_manifest(tmp_path / "out" / "manifest.jsonl")] == ["good"]
    assert json.loads(json.dumps(report.to_dict()))["unreadable"][0]["path"] == str(report.unreadable[0].path)
    table = report.table()
    assert "1 utterances, 1 with text" in table and all(str(p.path) in table for p in report.unreadable)


def test_durations_outside_the_limits_are_counted(tmp_path: Path) -> None:
    for seconds in (0.05, 0.2, 1.0, 3.0):
        sound(tmp_path / f"{seconds}.wav", seconds)
    report = prepare(tmp_path, out=tmp_path / "out", max_duration_s=2)
    assert (report.too_short, report.too_long, report.manifests[0].utterances) == (1, 1, 2)
    assert "1 too short, 1 too long" in report.table()
    with pytest.raises(AudioContentError, match=r"None of the 4 .* 4 shorter than 5 s"):
        prepare(tmp_path, out=tmp_path / "out", min_duration_s=5)
    with pytest.raises(ConfigError, match="0 ≤ min < max"):
        prepare(tmp_path, out=tmp_path / "out", min_duration_s=2, max_duration_s=1)


def test_name_of_the_manifest_carries_the_split(tmp_path: Path) -> None:
    librispeech(tmp_path / "ls")
    report = prepare(tmp_path / "ls", out=tmp_path / "libri.jsonl")
    assert [m.path.name for m in report.manifests] == ["libri.dev-other.jsonl", "libri.train-clean-100.jsonl"]


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    prepare(librispeech(tmp_path / "ls"), out=tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 8) for n in range(1, 9)]


def test_a_named_corpus_must_be_there(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    for corpus in ("librispeech", "common_voice", "aishell"):
        with pytest.raises(ConfigError, match=f"does not look like {corpus}: expected"):
            prepare(tmp_path, corpus=corpus, out=tmp_path)
    with pytest.raises(ConfigError, match=r"Unknown corpus 'timit'; accepted: auto, librispeech"):
        prepare(tmp_path, corpus="timit", out=tmp_path)
    librispeech(tmp_path / "ls")
    assert prepare(tmp_path / "ls", corpus="folder", out=tmp_path / "out").manifests[0].with_text == 0


def test_nothing_to_prepare_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(AudioNotFoundError, match="There is no folder"):
        prepare(tmp_path / "nowhere", out=tmp_path)
    with pytest.raises(AudioNotFoundError, match="There is no audio in"):
        prepare(tmp_path, out=tmp_path)
    with pytest.raises(AudioNotFoundError, match="is a file, not a folder"):
        prepare(sound(tmp_path / "a.wav"), out=tmp_path)
    write(tmp_path / "bad" / "a.wav", "not audio")
    with pytest.raises(AudioContentError, match=r"1 unreadable.*The first problem: .*a\.wav is not audio"):
        prepare(tmp_path / "bad", out=tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))


def test_malformed_tables_and_languages_are_refused(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    with pytest.raises(LanguageError, match="Klingon"):
        prepare(tmp_path, out=tmp_path, language="Klingon")
    prepare(tmp_path, out=tmp_path, language="sw")  # an ISO code that Linnet has no name for
    assert read_manifest(tmp_path / "manifest.jsonl")[0].language == "sw"
    write(tmp_path / "transcripts.tsv", "path\ttext\na.wav\thello\nb.wav\n")
    with pytest.raises(ManifestError, match=r"transcripts\.tsv:3: no path and text"):
        prepare(tmp_path, out=tmp_path)
    write(tmp_path / "cv" / "train.tsv", "id\tsentence\n1\thello\n")
    (tmp_path / "cv" / "clips").mkdir()
    with pytest.raises(ManifestError, match=r"train\.tsv:1: no column \['path'\]"):
        prepare(tmp_path / "cv", out=tmp_path)
