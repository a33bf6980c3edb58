"""`linnet evaluate`: error rates of a model on a manifest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from linnet.errors import ConfigError
from linnet.verbs.run_folder import as_bundle
from linnet.verbs.terminal import say


def evaluate(
    model: str,
    manifest: Path,
    /,
    noise: tuple[str, ...] = (),
    snr_db: tuple[float, ...] = (),
    damage: tuple[str, ...] = (),
    front_end: Literal["none", "spectral_subtraction"] = "none",
    baseline: str | None = None,
    json: Path | None = None,
    predictions: Path | None = None,
    language: str | None = None,
    corpora: tuple[str, ...] = (),
    limit: int | None = None,
    modality: Literal["auto", "audio", "video", "both", "each"] = "auto",
    decoder: Literal["auto", "onnx", "gguf"] = "auto",
    beam_size: int | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda", "directml", "coreml"] = "cpu",
    gpu_layers: int = 0,
    seed: int = 0,
    quiet: bool = False,
) -> int:
    """Measure word and character error rates, with 95 % bootstrap intervals and speed, per corpus.

    Args:
        model: nano, a bundle folder, a run folder, or the name of a pulled model.
        manifest: JSONL manifest with audio_filepath, duration and text.
        noise: white, pink, brown, hum, babble (other utterances of the manifest), or noise manifests.
        snr_db: Signal-to-noise ratios to test beside clean speech, each with every noise.
        damage: reverb, telephone, gsm, opus, mp3, or manifests of room impulse responses, each tested beside noise.
        front_end: Cleans what the model hears; spectral_subtraction is the classical control.
        baseline: Compare with this model (without front end) on the same utterances and noises.
        json: Write the full report here.
        predictions: Write reference and hypothesis of every utterance here (JSONL).
        language: Force this language instead of detecting it.
        corpora: Only these corpora of the manifest.
        limit: Only the first N utterances of each corpus.
        modality: What an audio-visual model uses; each: both, audio and video, side by side.
        decoder: Which decoder of the bundle to use.
        beam_size: Answers searched for side by side: 1 is greedy and fastest; by default what the model advises.
        threads: CPU threads; by default all cores.
        device: Where the encoder runs; refused with the reason if its self-test differs from the CPU.
        gpu_layers: Layers of a GGUF decoder on the GPU, -1 for all; refused likewise.
        seed: Seed of noise and bootstrap.
        quiet: No progress on stderr.
    """
    from linnet.compare import compare
    from linnet.evaluate import evaluate as measure
    from linnet.progress import task_bar
    from linnet.report import Report, write_predictions, write_report
    from linnet.runtime.base import with_modality
    from linnet.runtime.loader import load_model

    for target in (json, predictions):  # before the work, not after it
        if target is not None and not target.resolve().parent.is_dir():
            raise ConfigError(f"There is no folder {target.parent} to write {target.name} to; make it first.")

    def measured(name: str, cleaning: Literal["none", "spectral_subtraction"], use: str = "auto") -> Report:
        noisy = use != "video"  # what is seen is the same in any noise
        with as_bundle(name) as bundle:
            recognizer = load_model(
                bundle, decoder=decoder, threads=threads, device=device, gpu_layers=gpu_layers, beam_size=beam_size
            )
            recognizer = with_modality(recognizer, use)
            try:
                with task_bar("evaluate", quiet=quiet) as show:
                    return measure(
                        recognizer,
                        manifest,
                        noise=noise if noisy else None,
                        snr_db=snr_db if noisy else (),
                        damage=damage if noisy else (),
                        front_end=cleaning,
                        seed=seed,
                        language=language,
                        corpora=corpora,
                        limit=limit,
                        progress=show,
                    )
            finally:
                recognizer.close()

    if modality == "each":
        from linnet.modalities import MODALITIES, modality_table, write_modalities

        if baseline is not None or predictions is not None:
            raise ConfigError("--modality each makes three reports; leave out --baseline and --predictions.")
        reports = {use: measured(model, front_end, use) for use in MODALITIES}
        sys.stdout.write(modality_table(reports))
        if json is not None:
            write_modalities(reports, json)
        failures = {(one.id, one.error) for report in reports.values() for one in report.failures}
        for name, error in sorted(failures, key=str):
            say(f"linnet evaluate: {name}: {error}")
        return 1 if failures else 0
    report = measured(model, front_end, modality)
    if baseline is not None:
        report = compare(report, measured(baseline, "none"))
    sys.stdout.write(report.table())
    if json is not None:
        write_report(report, json)
    if predictions is not None:
        write_predictions(report, predictions)
    for failed in report.failures:
        say(f"linnet evaluate: {failed.id}: {failed.error}")
    return 1 if report.failures else 0
