"""What the README tells a user to type runs as written, with recordings of `samples/` under the names it uses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import linnet
from linnet.audio import read_audio, write_audio
from linnet.manifest import read_manifest, write_manifest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
README = (ROOT / "README.md").read_text("utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading of second level, up to the next one."""
    (found,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return str(found)


def commands(markdown: str) -> list[str]:
    """The lines of the first shell block, without the remarks behind them."""
    block = re.findall(r"^```\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)[0]
    return [re.sub(r"\s+# .*", "", line) for line in block.splitlines()]


USE_IT = section(README, "Use it")
# These wait for a person; tests/e2e/test_serve.py and tests/test_live.py run them.
INTERACTIVE = {"linnet serve", "linnet transcribe --live"}
TIMEOUT_S = 120  # generous: it bounds a command that waits for somebody


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README speaks of but talk.mp3, and in bin/ a `linnet` that runs this source."""
    desk = tmp_path_factory.mktemp("desk")
    write_audio(desk / "clip.ogg", read_audio(SAMPLES / "en-adult.flac"), 16_000)
    (desk / "lectures").mkdir()
    for name in ("en-adult.flac", "en-jfk.flac"):
        shutil.copy(SAMPLES / name, desk / "lectures")
    # babble is made of three other utterances
    write_manifest(desk / "my-test.jsonl", read_manifest(SAMPLES / "samples.jsonl")[:4])
    command = desk / "bin/linnet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m linnet.cli "$@"\n')
    command.chmod(0o755)
    return desk


def run(command: str, desk: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    if "jq" in command and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    paths = [str(Path(linnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PATH": f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_the_first_command_gives_a_line_for_each_sample(desk: Path) -> None:
    """`pip install .` itself is what CI does in a new environment."""
    (line,) = commands(README)
    install, transcribe = line.split(" && ")
    assert install == "pip install ."
    done = run(transcribe, desk, ROOT)
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == sorted(
        f"samples/{path.name}" for path in SAMPLES.glob("*.flac")
    )


@pytest.mark.parametrize("command", [line for line in commands(USE_IT) if line.strip() not in INTERACTIVE])
def test_commands_of_use_it(desk: Path, command: str) -> None:
    speech = SAMPLES / ("zh-today.flac" if "--language zh" in command else "en-adult.flac")
    write_audio(desk / "talk.mp3", read_audio(speech), 16_000)
    done = run(command, desk, desk)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "Traceback" not in done.stderr
    if "--output-dir subs" in command:
        assert done.stdout.split() == ["subs/en-adult.srt", "subs/en-jfk.srt"]
        assert all(" --> " in (desk / name).read_text("utf-8") for name in done.stdout.split())
    if "jq .segments" in command:
        assert all(f'"{key}"' in done.stdout for key in ("text", "start_s", "end_s", "confidence"))
    if command.startswith("linnet evaluate"):
        assert "babble" in done.stdout and all(level in done.stdout for level in ("20", "10", "0"))


def test_every_verb_of_use_it_was_found() -> None:
    """So that a change of the README's layout does not leave the test above without commands."""
    assert set(commands(USE_IT)) >= INTERACTIVE
    assert {"transcribe", "evaluate", "doctor"} <= {word for line in commands(USE_IT) for word in line.split()}


def test_python_snippet(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"^```python\n(.*?)^```", USE_IT, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(desk)
    write_audio(desk / "talk.mp3", read_audio(SAMPLES / "en-adult.flac"), 16_000)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    text, *segments = capsys.readouterr().out.splitlines()
    assert text and segments
    assert all(re.fullmatch(r"\d+\.\d\d–\d+\.\d\d s \([01]\.\d\d\): .+", line) for line in segments), segments


def test_the_chinese_readme_has_the_same_commands() -> None:
    chinese = (ROOT / "README.zh-CN.md").read_text("utf-8")
    assert commands(section(chinese, "使用")) == commands(USE_IT)
