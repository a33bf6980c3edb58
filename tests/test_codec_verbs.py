"""`linnet encode` and `linnet decode`, with their bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import bsq_runs
from linnet import cli
from linnet.audio import read_audio, write_audio
from linnet.codes import Codes
from linnet.models.bsq.export import export_run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bsq")
    return export_run(bsq_runs.write_run(folder / "run", bsq_runs.model()), folder / "bundle").path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_recording_becomes_tokens_and_sound(
    bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens, sound = tmp_path / "a.bsq", tmp_path / "a.wav"
    assert run("encode", clip, tokens, "--model", bundle, "--json") == 0
    said = capsys.readouterr()
    figures = json.loads(said.out)
    assert figures["size_bytes"] == tokens.stat().st_size and figures["nominal_bits_per_s"] == 900
    assert "RTF" in said.err
    assert run("decode", tokens, sound, "--model", bundle, "--quiet") == 0
    assert capsys.readouterr() == (f"{sound}\n", "")
    assert len(read_audio(sound)) == len(read_audio(clip)) == Codes.load(tokens).samples


def test_info_describes_a_file_of_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Codes(np.arange(50), 18, 16_000, 16_000, 320, "m").save(tmp_path / "a.bsq", coding="packed")
    assert run("info", tmp_path / "a.bsq", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "codes" and facts["tokens"] == 50 and facts["nominal_bits_per_s"] == 900
    (tmp_path / "a.bsq").write_bytes(b"LBSQ")
    assert run("info", tmp_path / "a.bsq") == 1
    assert "shorter than its own header" in capsys.readouterr().err


def test_a_run_folder_is_a_model(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "a.wav", np.sin(np.arange(4000) / 10) / 2, 16_000)
    by_bundle, by_run = tmp_path / "bundle.bsq", tmp_path / "run.bsq"
    assert run("encode", tmp_path / "a.wav", by_bundle, "--model", bundle, "--quiet") == 0
    assert run("encode", tmp_path / "a.wav", by_run, "--model", bundle.parent / "run", "--quiet") == 0
    np.testing.assert_array_equal(Codes.load(by_run).ids, Codes.load(by_bundle).ids)


def test_bad_input_is_named_and_leaves_nothing(
    bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = tmp_path / "a.bsq"
    assert run("encode", clip, tokens, "--model", bundle, "--quiet") == 0
    (tmp_path / "cut.bsq").write_bytes(tokens.read_bytes()[:-3])
    (tmp_path / "noise.wav").write_bytes(b"no sound at all")
    write_audio(tmp_path / "sound.wav", np.zeros(4000), 16_000)
    cases = [
        (("encode", tmp_path / "none.wav", tmp_path / "x.bsq"), "There is no file"),
        (("encode", tmp_path / "noise.wav", tmp_path / "x.bsq"), "noise.wav"),
        (("encode", clip, tmp_path / "none" / "x.bsq"), "Cannot write"),
        (("decode", tmp_path / "none.bsq", tmp_path / "x.wav"), "Cannot read"),
        (("decode", tmp_path / "cut.bsq", tmp_path / "x.wav"), "damaged"),
        (("decode", tmp_path / "sound.wav", tmp_path / "x.wav"), "not a .bsq file"),
        (("decode", tokens, tmp_path / "x.xyz"), "the ending decides the format"),
    ]
    for arguments, message in cases:
        assert run(*arguments, "--model", bundle) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x.bsq").exists() and not (tmp_path / "x.wav").exists()
    assert run("encode", clip, tmp_path / "x.bsq", "--model", "nano") == 1
    assert "family 'bsq'" in capsys.readouterr().err
