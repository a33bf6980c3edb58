"""The `linnet` command: finds the verb and runs it. Answers go to stdout, everything else to stderr.

Each verb is a function in `linnet/verbs/<verb>.py`. Its parameters are its options: tyro turns signature and docstring
into parser and help; what stands before the slash is positional. A verb returns the exit code: 0 all went well, 1
something failed (named on stderr). Besides, 2 means that the command line was wrong, 130 that it was interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, get_origin, get_type_hints

import linnet
from linnet.errors import LinnetError
from linnet.verbs.terminal import say

VERBS = {
    "transcribe": "audio → text: files, folders, globs or stdin; works offline with the embedded nano model",
    "evaluate": "word and character error rates of a model on a manifest, clean and in noise",
    "prepare": "folders and published corpora → manifests",
    "train": "train a preset on manifests",
    "lm": "text → n-gram language model, for bundles of wav2vec2",
    "export": "run folder or Qwen3-ASR checkpoint → bundle, without torch where no training is involved",
    "serve": "an OpenAI-compatible HTTP API, live transcription, and a page in the browser",
    "pull": "a model's name or a checkpoint folder → a verified bundle in the cache, ready for --model",
    "verify": "whether a bundle is whole, and what its precision costs against the original",
    "encode": "audio → tokens in a .bsq file, by an audio tokenizer",
    "decode": "tokens in a .bsq file → audio",
    "info": "what a bundle, run folder, checkpoint, manifest, .bsq or audio file is",
    "doctor": "what is installed, what is missing, and a 3-second transcription",
}

HELP = """\
linnet {version}: speech recognition that fits small machines

usage: linnet VERB [options]        linnet VERB --help tells more

{verbs}

  linnet transcribe talk.m4a --format srt --output-dir subtitles
  linnet evaluate nano test.jsonl --noise babble --snr-db 20 10 0
  linnet train nano --train-manifests train.jsonl --dev-manifests dev.jsonl --run-dir runs/mine
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `linnet` command; always ends in SystemExit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = arguments[0] if arguments else "--help"
    if isinstance(sys.stdout, io.TextIOWrapper):  # transcripts and file names, whatever the locale says
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        try:
            code = _run(verb, arguments[1:])
        finally:
            sys.stdout.flush()  # here and not at exit, so that a reader who left is noticed below
    except LinnetError as error:
        say(f"linnet {verb}: {error}")
        code = 1
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    except BrokenPipeError:  # the reader of our stdout went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        code = 1
    raise SystemExit(code)


def _run(verb: str, arguments: list[str]) -> int:
    if verb in {"-h", "--help", "help"}:
        verbs = "\n".join(f"  {name:12}{summary}" for name, summary in VERBS.items())
        sys.stdout.write(HELP.format(version=linnet.__version__, verbs=verbs))
        return 0
    if verb in {"-V", "--version"}:
        sys.stdout.write(f"linnet {linnet.__version__}\n")
        return 0
    if verb not in VERBS:
        say(f"linnet: there is no verb '{verb}'; accepted: {', '.join(VERBS)}. Try: linnet --help")
        return 2
    function = verb_function(verb)
    if verb == "train":  # its options depend on the preset
        return function(arguments)
    import tyro

    _name_positionals(function)
    return tyro.cli(function, prog=f"linnet {verb}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))


def verb_function(verb: str) -> Callable[..., int]:
    """The function behind a verb: `linnet.verbs.<verb>.<verb>`."""
    function: Callable[..., int] = getattr(import_module(f"linnet.verbs.{verb}"), verb)
    return function


def _name_positionals(function: Callable[..., int]) -> None:
    """Have the help call positional arguments by their names; tyro would call them STR and PATH."""
    import inspect

    import tyro

    hints = get_type_hints(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            hint, name = hints[parameter.name], parameter.name.upper()
            metavar = f"{name} [{name} ...]" if get_origin(hint) is tuple else name
            hints[parameter.name] = Annotated[hint, tyro.conf.arg(metavar=metavar)]
    function.__annotations__.update(hints)


if __name__ == "__main__":
    main()
