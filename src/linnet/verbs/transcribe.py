"""`linnet transcribe`: audio → text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from linnet.results import Transcription
from linnet.verbs.terminal import say

if TYPE_CHECKING:
    from linnet.runtime.base import Recognizer
    from linnet.runtime.itn import InverseNormalizer

Finish = Callable[[str | BinaryIO, Transcription], Transcription]


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
    beam_size: int | None = None,
    modality: Literal["auto", "audio", "video", "both"] = "auto",
    threads: int | None = None,
    device: Literal["cpu", "cuda", "directml", "coreml"] = "cpu",
    gpu_layers: int = 0,
    word_timestamps: bool = False,
    aligner: str | None = None,
    itn: bool = False,
    resume: bool = False,
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
        beam_size: Answers searched for side by side: 1 is greedy and fastest; by default what the model advises.
        modality: What an audio-visual model uses: auto (what the file has), audio, video, or both.
        threads: CPU threads; by default all cores.
        device: Where the encoder runs; refused with the reason if its self-test differs from the CPU.
        gpu_layers: Layers of a GGUF decoder on the GPU, -1 for all; refused likewise.
        word_timestamps: Times of words, by the forced aligner; without it only segments have times, which is said.
        aligner: The aligner's name or bundle folder; by default qwen3-forcedaligner-0.6b (see linnet pull).
        itn: Write numbers, dates and amounts in digits (Chinese, English, Japanese; needs the extra [itn]).
        resume: With --output-dir, pass over recordings whose file is there and newer than they are.
        live: Transcribe while somebody speaks: the microphone, or raw PCM (s16le, mono, 16 kHz) with - for stdin.
        json: Print one JSON line per recording (text, segments, timings, speed) instead of the text.
        quiet: No progress on stderr, and with --live no partial texts.
    """
    from linnet.runtime.base import with_modality
    from linnet.runtime.loader import load_model
    from linnet.transcribe import transcribe_files

    def load() -> Recognizer:
        return load_model(
            model,
            decoder=decoder,
            threads=threads,
            attention=attention,
            device=device,
            gpu_layers=gpu_layers,
            beam_size=beam_size,
        )

    if live:
        files = audio not in ((), ("-",)) or format != "txt" or output_dir is not None
        if files or word_timestamps or resume:
            say(
                "linnet transcribe: --live takes the microphone, or - for PCM on stdin, and writes lines to stdout; "
                "leave out files, --format, --output-dir, --word-timestamps and --resume. --json gives times."
            )
            return 2
        from linnet.live import transcribe_live

        rewrite = _normalizer().text if itn else None
        return transcribe_live(
            load=load,
            stdin=bool(audio),
            language=language,
            context=context,
            rewrite=rewrite,
            json=json,
            quiet=quiet,
        )
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
        finish=_finish(word_timestamps, aligner, itn, threads),
        resume=resume,
        json=json,
        quiet=quiet,
    )


def _finish(word_timestamps: bool, aligner: str | None, itn: bool, threads: int | None) -> Finish | None:
    """What is done to every transcription before it is written; None if nothing is."""
    steps: list[Finish] = []
    if word_timestamps and (align := _aligner(aligner, threads)) is not None:
        steps.append(align)
    if itn:  # after the alignment, which needs the words as they are spoken
        rewrite = _normalizer()
        steps.append(lambda audio, transcription: rewrite(transcription))

    def finish(audio: str | BinaryIO, transcription: Transcription) -> Transcription:
        for step in steps:
            transcription = step(audio, transcription)
        return transcription

    return finish if steps else None


def _aligner(name: str | None, threads: int | None) -> Finish | None:
    """Times for the words that have none yet; None if no aligner was named and the usual one is not here."""
    from linnet.errors import BundleNotFoundError
    from linnet.runtime.aligner import DEFAULT, align_transcription, load_aligner

    try:
        aligner = load_aligner(name or DEFAULT, threads=threads)
    except BundleNotFoundError:
        if name is not None:
            raise
        say(
            "linnet transcribe: there is no aligner here, so segments have times but words do not. Get it with: "
            "linnet pull Qwen/Qwen3-ForcedAligner-0.6B"
        )
        return None

    def align(audio: str | BinaryIO, transcription: Transcription) -> Transcription:
        aligned = align_transcription(aligner, audio, transcription)
        untimed = sorted({one.language or "?" for one in aligned.segments if one.text and not one.has_word_times})
        if untimed:
            say(f"linnet transcribe: words have no times where the aligner does not know the language: {untimed}")
        return aligned

    return align


def _normalizer() -> InverseNormalizer:
    from linnet.runtime.itn import InverseNormalizer

    return InverseNormalizer()
