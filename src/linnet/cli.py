"""The command line: one function per verb, heavy imports inside, answers on stdout, everything else on stderr.

A verb's parameters are its options: tyro turns signature and docstring into parser and help; what stands before the
slash is positional. A verb returns the exit code: 0 all went well, 1 something failed (named on stderr). Besides, 2
means that the command line was wrong, 130 that it was interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_origin, get_type_hints

import linnet
from linnet.errors import ConfigError, LinnetError, MissingExtraError

if TYPE_CHECKING:
    from linnet.bundle import Bundle

HELP = """\
linnet {version}: speech recognition that fits small machines

usage: linnet VERB [options]        linnet VERB --help tells more

  transcribe  audio → text: files, folders, globs or stdin; works offline with the embedded nano model
  evaluate    word and character error rates of a model on a manifest, clean and in noise
  prepare     folders and published corpora → manifests
  train       train a preset on manifests
  export      run folder or Qwen3-ASR checkpoint → bundle, without torch where no training is involved
  info        what a bundle, run folder, checkpoint, manifest or audio file is
  doctor      what is installed, what is missing, and a 3-second transcription

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
        _say(f"linnet {verb}: {error}")
        code = 1
    except KeyboardInterrupt:
        _say("interrupted")
        code = 130
    except BrokenPipeError:  # the reader of our stdout went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        code = 1
    raise SystemExit(code)


def _run(verb: str, arguments: list[str]) -> int:
    if verb in {"-h", "--help", "help"}:
        sys.stdout.write(HELP.format(version=linnet.__version__))
        return 0
    if verb in {"-V", "--version"}:
        sys.stdout.write(f"linnet {linnet.__version__}\n")
        return 0
    if verb not in VERBS:
        _say(f"linnet: there is no verb '{verb}'; accepted: {', '.join(VERBS)}. Try: linnet --help")
        return 2
    if verb == "train":
        return train(arguments)
    import tyro

    _name_positionals(VERBS[verb])
    return tyro.cli(VERBS[verb], prog=f"linnet {verb}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))


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


def transcribe(
    audio: tuple[str, ...],
    /,
    model: str = "nano",
    format: Literal["txt", "srt", "vtt", "tsv", "json", "verbose_json"] = "txt",
    output_dir: Path | None = None,
    language: str | None = None,
    context: str = "",
    decoder: Literal["auto", "onnx", "gguf"] = "auto",
    attention: Literal["windowed", "full"] = "windowed",
    threads: int | None = None,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Turn speech into text. The text goes to stdout, progress and errors to stderr.

    One recording prints its text; several, a folder or a glob print "path: text" lines, each recording once. One bad
    file does not stop the others: it is reported, and the exit code is 1.

    Args:
        audio: Files, folders (searched for audio), quoted globs, or - for stdin.
        model: nano (embedded), a bundle folder, or the name of a pulled model.
        format: Output format of the transcript.
        output_dir: Write one file per recording here, and print the paths of these files instead of text.
        language: Force a language (code or name, e.g. zh); by default the model detects it.
        context: Names and words likely to occur, as plain text.
        decoder: Which decoder of the bundle to use.
        attention: Encoder attention: windowed (8 s, default) or full.
        threads: CPU threads; by default all cores.
        json: Print one JSON line per recording (text, segments, timings, speed) instead of the text.
        quiet: No progress on stderr.
    """
    from linnet.runtime.loader import load_model
    from linnet.transcribe import transcribe_files

    if not audio:
        _say("linnet transcribe: name files, folders, globs, or - for stdin. Try: linnet transcribe --help")
        return 2
    return transcribe_files(
        audio,
        load=lambda: load_model(model, decoder=decoder, threads=threads, attention=attention),
        format=format,
        output_dir=output_dir,
        language=language,
        context=context,
        json=json,
        quiet=quiet,
    )


def evaluate(
    model: str,
    manifest: Path,
    /,
    noise: str | None = None,
    snr_db: tuple[float, ...] = (),
    json: Path | None = None,
    predictions: Path | None = None,
    language: str | None = None,
    corpora: tuple[str, ...] = (),
    limit: int | None = None,
    decoder: Literal["auto", "onnx", "gguf"] = "auto",
    threads: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> int:
    """Measure word and character error rates, with 95 % bootstrap intervals and speed, per corpus.

    Args:
        model: nano, a bundle folder, a run folder, or the name of a pulled model.
        manifest: JSONL manifest with audio_filepath, duration and text.
        noise: white, pink, brown, hum, babble (other utterances of the manifest), or a noise manifest.
        snr_db: Signal-to-noise ratios to test beside clean speech.
        json: Write the full report here.
        predictions: Write reference and hypothesis of every utterance here (JSONL).
        language: Force this language instead of detecting it.
        corpora: Only these corpora of the manifest.
        limit: Only the first N utterances of each corpus.
        decoder: Which decoder of the bundle to use.
        threads: CPU threads; by default all cores.
        seed: Seed of noise and bootstrap.
        quiet: No progress on stderr.
    """
    from linnet.evaluate import evaluate as measure
    from linnet.progress import task_bar
    from linnet.report import write_predictions, write_report
    from linnet.runtime.loader import load_model

    for target in (json, predictions):  # before the work, not after it
        if target is not None and not target.resolve().parent.is_dir():
            raise ConfigError(f"There is no folder {target.parent} to write {target.name} to; make it first.")
    with _as_bundle(model) as bundle:
        recognizer = load_model(bundle, decoder=decoder, threads=threads)
        try:
            with task_bar("evaluate", quiet=quiet) as show:
                report = measure(
                    recognizer,
                    manifest,
                    noise=noise,
                    snr_db=snr_db,
                    seed=seed,
                    language=language,
                    corpora=corpora,
                    limit=limit,
                    progress=show,
                )
        finally:
            recognizer.close()
    sys.stdout.write(report.table())
    if json is not None:
        write_report(report, json)
    if predictions is not None:
        write_predictions(report, predictions)
    for failed in report.failures:
        _say(f"linnet evaluate: {failed.id}: {failed.error}")
    return 1 if report.failures else 0


def prepare(
    source: Path,
    out: Path,
    /,
    corpus: Literal["auto", "folder", "librispeech", "common_voice", "aishell"] = "auto",
    language: str | None = None,
    min_duration_s: float = 0.1,
    max_duration_s: float = 3600.0,
) -> int:
    """Write JSONL manifests for a folder of recordings or a published corpus.

    Recordings that cannot be read are named and left out; the exit code is still 0.

    Args:
        source: Folder of audio (transcripts beside it as .txt or .lab, or transcripts.tsv), or a corpus folder.
        out: Folder for the manifests, or the name of one that ends in .jsonl.
        corpus: Layout of the folder; auto looks at it.
        language: ISO code to write into the manifest instead of what the corpus says.
        min_duration_s: Leave out shorter recordings.
        max_duration_s: Leave out longer recordings.
    """
    from linnet.data.prepare import prepare as make_manifests
    from linnet.progress import task_bar

    with task_bar("prepare") as show:
        report = make_manifests(
            source,
            out=out,
            corpus=corpus,
            language=language,
            min_duration_s=min_duration_s,
            max_duration_s=max_duration_s,
            progress=show,
        )
    _say(report.table())
    sys.stdout.write("".join(f"{manifest.path}\n" for manifest in report.manifests))
    return 0


def train(arguments: list[str]) -> int:
    """Train a preset: its dataclass is the command line, so it parses for itself."""
    from linnet.models.presets import PRESETS

    if not arguments or arguments[0] in {"-h", "--help"}:
        lines = [f"  {name:16}{preset.summary}\n" for name, preset in PRESETS.items()]
        usage = "usage: linnet train PRESET [options]        linnet train PRESET --help tells more\n\n"
        (sys.stdout if arguments else sys.stderr).write(usage + "".join(lines))
        return 0 if arguments else 2
    name = arguments[0]
    if name not in PRESETS:
        raise ConfigError(f"There is no preset '{name}'; accepted: {', '.join(PRESETS)}.")
    import tyro

    config = tyro.cli(
        type(PRESETS[name]),
        default=PRESETS[name],
        prog=f"linnet train {name}",
        description=f"{type(PRESETS[name]).__doc__}\n\n{name}: {PRESETS[name].summary}.\n"
        "Add --resume to go on with an interrupted run.",
        args=[argument for argument in arguments[1:] if argument != "--resume"],
    )
    with _needs_torch("Training"):
        from linnet.train.trainer import fit
    run = fit(config, resume="--resume" in arguments)
    sys.stdout.write(f"{run.path}\n")
    return 0


def export(
    source: Path,
    out: Path,
    /,
    encoder: Literal["fp32", "int8", "int8_blocks"] = "int8",
    decoder: tuple[str, ...] = ("int8",),
    name: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
) -> int:
    """Convert a run folder or a Qwen3-ASR checkpoint folder (safetensors) into a bundle.

    Args:
        source: Run folder of `linnet train`, or checkpoint folder with config.json and safetensors.
        out: Bundle folder to write; it must not exist yet.
        encoder: Precision of the encoder; int8_blocks is the careful one. Four bits break recognition: not offered.
        decoder: Decoders to include: fp32, int8, int4 (ONNX), f16, q8_0, q4_k_m (GGUF); one of each kind at most.
        name: Name stored in the bundle; by default the folder's.
        checkpoint: Which checkpoint of a run folder.
    """
    from linnet.export import verb
    from linnet.info import kind_of
    from linnet.progress import task_bar

    with task_bar("export") as show:
        if kind_of(source) == "run":
            decoders = verb.decoders_by_kind(decoder)
            bundle = _export_run(source, out, encoder=encoder, decoders=decoders, name=name, checkpoint=checkpoint)
        else:
            bundle = verb.export(source, out, encoder=encoder, decoder=decoder, name=name, progress=show)
    sys.stdout.write(f"{bundle.path}\n")
    return 0


def info(path: str, /, json: bool = False) -> int:
    """Describe a bundle, run folder, checkpoint, manifest or audio file.

    Args:
        path: nano, a pulled model's name, or a path.
        json: Print JSON.
    """
    from linnet.info import describe

    sys.stdout.write(describe(path, as_json=json))
    return 0


def doctor(json: bool = False) -> int:
    """Check this machine: versions, CPU features, decoders, extras, and a 3-second transcription.

    Args:
        json: Print JSON.
    """
    from linnet.doctor import examine

    found = examine()
    sys.stdout.write(found.to_json() if json else found.text())
    return 0 if found.healthy else 1


VERBS: dict[str, Callable[..., int]] = {
    "transcribe": transcribe,
    "evaluate": evaluate,
    "prepare": prepare,
    "train": train,
    "export": export,
    "info": info,
    "doctor": doctor,
}


@contextmanager
def _as_bundle(model: str) -> Iterator[str]:
    """A bundle's name or path as it is; a run folder as a temporary bundle at full precision."""
    import tempfile

    from linnet.info import kind_of

    if kind_of(Path(model)) != "run":
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
        run, target = Path(model), Path(folder) / "bundle"
        which = "best" if (run / "checkpoints" / "best").is_dir() else "last"
        _export_run(run, target, encoder="fp32", decoders={"onnx": "fp32"}, name=None, checkpoint=which)
        yield str(target)


def _export_run(
    run: Path, out: Path, *, encoder: str, decoders: dict[str, str], name: str | None, checkpoint: str
) -> Bundle:
    # Here and not in linnet.export: that must not know linnet.models.
    with _needs_torch("Exporting a run folder"):
        from linnet.models.qwen3_asr.export import export_run
    return export_run(run, out, encoder=encoder, decoders=decoders, name=name, checkpoint=checkpoint)


@contextmanager
def _needs_torch(what: str) -> Iterator[None]:
    """Say which extra is missing if an import of the training half fails for want of it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name in {"torch", "accelerate", "safetensors"}:
            raise MissingExtraError(what, "train", error.name) from error
        raise


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    main()
