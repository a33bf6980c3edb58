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
    decoder: Literal["auto", "onnx", "gguf"] = "auto",
    threads: int | None = None,
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
        decoder: Which decoder of the bundle to use.
        threads: CPU threads; by default all cores.
        seed: Seed of noise and bootstrap.
        quiet: No progress on stderr.
    """
    from linnet.compare import compare
    from linnet.evaluate import evaluate as measure
    from linnet.progress import task_bar
    from linnet.report import Report, write_predictions, write_report
    from linnet.runtime.loader import load_model

    for target in (json, predictions):  # before the work, not after it
        if target is not None and not target.resolve().parent.is_dir():
            raise ConfigError(f"There is no folder {target.parent} to write {target.name} to; make it first.")
    def measured(name: str, cleaning: Literal["none", "spectral_subtraction"]) -> Report:
        with as_bundle(name) as bundle:
            recognizer = load_model(bundle, decoder=decoder, threads=threads)
            try:
                with task_bar("evaluate", quiet=quiet) as show:
                    return measure(
                        recognizer,
                        manifest,
                        noise=noise,
                        snr_db=snr_db,
                        damage=damage,
                        front_end=cleaning,
                        seed=seed,
                        language=language,
                        corpora=corpora,
                        limit=limit,
                        progress=show,
                    )
            finally:
                recognizer.close()

    report = measured(model, front_end)
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
