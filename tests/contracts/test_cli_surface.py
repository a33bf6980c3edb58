"""Verbs and options, frozen: scripts depend on them. A change here needs a line in CHANGELOG."""

from __future__ import annotations

import inspect
import re

import pytest

from linnet import cli

SURFACE = {
    "transcribe": (
        "AUDIO --model --format --output-dir --language --context --decoder --attention --beam-size --modality "
        "--threads --device --gpu-layers --word-timestamps --aligner --itn --resume --live --json --quiet"
    ),
    "evaluate": (
        "MODEL MANIFEST --noise --snr-db --damage --front-end --baseline --json --predictions --language "
        "--corpora --limit --modality --decoder --beam-size --threads --device --gpu-layers --seed --quiet"
    ),
    "prepare": "SOURCE OUT --corpus --language --min-duration-s --max-duration-s",
    "train": "",  # the options are the fields of the preset's dataclass
    "lm": "TEXT OUT --order --language --bundle --weight --word-bonus --beam-size",
    "export": "SOURCE OUT --encoder --decoder --adapter --name --checkpoint",
    "serve": (
        "BUNDLE --base --host --port --api-key --public-without-key --cors-origin --max-upload-mb --max-duration-s "
        "--max-queue --max-streams --decoder --attention --beam-size --threads --quiet"
    ),
    "pull": "MODEL --source --encoder --decoder --name --keep-checkpoint --force --skip-verify --quiet",
    "verify": "BUNDLE --against --audio --threads --json --quiet",
    "encode": "AUDIO OUT --model --coding --threads --json --quiet",
    "decode": "CODES OUT --model --vocoder --threads --quiet",
    "info": "PATH --json",
    "doctor": "--json",
}


def surface(verb: str) -> str:
    names = []
    for parameter in inspect.signature(cli.verb_function(verb)).parameters.values():
        option = "--" + parameter.name.replace("_", "-")
        names.append(parameter.name.upper() if parameter.kind is parameter.POSITIONAL_ONLY else option)
    return " ".join(names)


def test_the_verbs_are_these() -> None:
    assert list(cli.VERBS) == list(SURFACE)


@pytest.mark.parametrize("verb", [verb for verb in SURFACE if verb != "train"])
def test_options_are_these_and_help_explains_each(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert surface(verb) == SURFACE[verb]
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    shown = re.findall(r"^│ (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert [name for name in SURFACE[verb].split() if name.startswith("--")] == shown


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out, re.MULTILINE) == list(SURFACE)
