"""`linnet transcribe`: audio → text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linnet.verbs.terminal import say

if TYPE_CHECKING:
    from linnet.runtime.base import Recognizer


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
    modality: Literal["auto", "audio", "video", "both"] = "auto",
    threads: int | None = None,
    device: Literal["cpu", "cuda", "directml", "coreml"] = "cpu",
    gpu_layers: int = 0,
    live: bool = False,
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
        modality: What an audio-visual model uses: auto (what the file has), audio, video, or both.
        threads: CPU threads; by default all cores.
        device: Where the encoder runs; refused with the reason if its self-test differs from the CPU.
        gpu_layers: Layers of a GGUF decoder on the GPU, -1 for all; refused likewise.
        live: Transcribe while somebody speaks: the microphone, or raw PCM (s16le, mono, 16 kHz) with - for stdin.
        json: Print one JSON line per recording (text, segments, timings, speed) instead of the text.
        quiet: No progress on stderr, and with --live no partial texts.
    """
    from linnet.runtime.base import with_modality
    from linnet.runtime.loader import load_model
    from linnet.transcribe import transcribe_files

    def load() -> Recognizer:
        return load_model(
            model, decoder=decoder, threads=threads, attention=attention, device=device, gpu_layers=gpu_layers
        )

    if live:
        if audio not in ((), ("-",)) or format != "txt" or output_dir is not None:
            say(
                "linnet transcribe: --live takes the microphone, or - for PCM on stdin, and writes lines to stdout; "
                "leave out files, --format and --output-dir. --json gives times."
            )
            return 2
        from linnet.live import transcribe_live

        return transcribe_live(load=load, stdin=bool(audio), language=language, context=context, json=json, quiet=quiet)
    if not audio:
        say("linnet transcribe: name files, folders, globs, or - for stdin. Try: linnet transcribe --help")
        return 2
    return transcribe_files(
        audio,
        load=lambda: with_modality(load(), modality),
        format=format,
        output_dir=output_dir,
        language=language,
        context=context,
        json=json,
        quiet=quiet,
    )
