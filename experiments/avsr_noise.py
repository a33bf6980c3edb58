"""Does seeing help where hearing fails? Audio-only, video-only and four fusions from clean to −10 dB, three seeds.

    python experiments/avsr_noise.py --work runs/avsr-noise
    python experiments/avsr_noise.py --work runs/avsr-noise --grid DATA   # real GRID clips too (av.*.jsonl)

Six systems share the `avsr-tiny` network and recipe; they differ in the fusion, and in what is left out: `audio` trains
without pictures (drop_video=1), `video` without sound. Babble is made of other utterances of the same test set, white
noise is drawn anew; speakers of the test set are in no training set, so no voice of the babble was heard before either.
Every system hears the same mixtures. The synthetic corpus is written first (needs espeak-ng); real clips are few, so
there the systems start from those trained on synthetic mouths.

Everything finished is kept: run the same command again to go on. The results file says which part of the grid exists.
`--systems`, `--seeds`, `--snr-db` and `--noises` take parts of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linnet.audio import SAMPLE_RATE_HZ, read_audio
from linnet.ctc import greedy
from linnet.data.av_dataset import AVExample
from linnet.data.corpora.talking_mouth import synthesize
from linnet.data.video import load_mouths
from linnet.environment import provenance
from linnet.features import log_mel
from linnet.manifest import Utterance, read_manifest
from linnet.metrics import bootstrap_interval, paired_bootstrap, wer
from linnet.models.avsr.config import AVSRTrainConfig
from linnet.models.avsr.task import AVSRTask
from linnet.models.presets import AVSR_TINY
from linnet.noise import mix_at_snr
from linnet.noise_source import make_source
from linnet.runtime.avsr_config import CLOCK_HZ, FUSIONS, Vocabulary
from linnet.train.run_folder import RunFolder
from linnet.train.trainer import fit

ROOT = Path(__file__).parents[1]
SYSTEMS = ("audio", "video", *FUSIONS)
SNR_DB = (20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
NOISES = ("babble", "white")
SPEAKERS, CLIPS, CORPUS_SEED = 20, 16, 0
STEPS, FINE_TUNING_STEPS = 400, 200


def main() -> None:
    """Train what is missing, score it, write the results."""
    options = arguments()
    torch.set_num_threads(options.threads)
    folder = options.work / "mouths"
    if not (folder / "test.jsonl").exists():
        synthesize(folder, speaker_count=SPEAKERS, clips=CLIPS, seed=CORPUS_SEED, workers=options.threads)
    corpora = {"talking_mouth": (folder, "")} | ({"grid": (options.grid, "av.")} if options.grid else {})
    for seed in options.seeds:  # whole seeds first: an interrupted grid compares systems, not seeds
        for corpus, (data, prefix) in corpora.items():
            for system in options.systems:
                run = train(system, seed, corpus, data / f"{prefix}train.jsonl", data / f"{prefix}dev.jsonl", options)
                score(run, system, seed, corpus, data / f"{prefix}test.jsonl", options)
                write(options.work, options.out)


def train(system: str, seed: int, corpus: str, train_on: Path, dev: Path, options: argparse.Namespace) -> Path:
    """The run folder of one system, trained if it is not finished."""
    run = options.work / corpus / f"{system}-{seed}"
    if (run / "finished").exists():
        return run
    config: AVSRTrainConfig = replace(
        AVSR_TINY,
        run_dir=run,
        seed=seed,
        shape=replace(AVSR_TINY.shape, fusion=system if system in FUSIONS else "simple"),
        train_manifests=(train_on,),
        dev_manifests=(dev,),
        dev_utterances=24,
        steps=options.steps,
        warmup_steps=options.steps // 10,
        ramp_epochs=3,
        batch_audio_s=24.0,
        patience=0,
        plateau_lr_ratio=1.0,
        validate_every=100,
        save_every=100,
        threads=options.threads,
    )
    if system in ("audio", "video"):
        # Neither stream is ever mixed with the other, so the loss of that stream alone would count twice.
        config = replace(
            config,
            drop_audio=float(system == "video"),
            drop_video=float(system == "audio"),
            stream_ctc_weight=0.0,
        )
    if corpus == "grid":
        config = replace(
            config,
            init_from=options.work / "talking_mouth" / f"{system}-{seed}",
            steps=options.fine_tuning_steps,
            warmup_steps=20,
            learning_rate=1e-3,
            ramp_epochs=0,
        )
    say(f"train {corpus} {system} seed {seed}")
    fit(config, resume=run.exists(), quiet=True)
    (run / "finished").write_text("")
    return run


def score(run: Path, system: str, seed: int, corpus: str, manifest: Path, options: argparse.Namespace) -> None:
    """Word errors of every test utterance in every condition and with every stream that the system has."""
    target = run / "scores.json"
    scores: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    utterances = [utterance for utterance in read_manifest(manifest) if utterance.text]
    conditions = [("clean", None), *((noise, level) for noise in options.noises for level in options.snr_db)]
    missing = [condition for condition in conditions if name_of(*condition) not in scores]
    if not missing:
        return
    task = bare_task(run)
    model = task.build_model()
    weights, _ = RunFolder(run).load("best")
    model.load_state_dict(weights)
    model.eval()
    mouths = load_mouths(utterances, options.work / "cache", size_px=AVSR_TINY.shape.video_px)
    streams = {"audio": ["audio"], "video": ["video"]}.get(system, ["both", "audio", "video"])
    for noise, level in missing:
        heard = sounds(utterances, noise, level)
        found: dict[str, Any] = {}
        for stream in streams:
            if stream == "video" and level is not None:
                continue  # what is seen does not depend on the noise
            texts = transcribe(task, model, heard, mouths, stream)
            rates = [wer([u.text or ""], [text], language="en") for u, text in zip(utterances, texts, strict=True)]
            found[stream] = {"errors": [rate.errors for rate in rates], "words": [rate.words for rate in rates]}
        scores[name_of(noise, level)] = found
    target.write_text(json.dumps(scores))
    say(f"score {corpus} {system} seed {seed}")


def bare_task(run: Path) -> AVSRTask:
    """The task's network and collation without its data."""
    saved = json.loads((run / "config.json").read_text())
    task = AVSRTask.__new__(AVSRTask)
    task.config = replace(AVSR_TINY, run_dir=run, shape=replace(AVSR_TINY.shape, fusion=saved["shape"]["fusion"]))
    task.vocabulary = Vocabulary()
    return task


def sounds(utterances: Sequence[Utterance], noise: str, level: float | None) -> list[np.ndarray]:
    """Log-mels of the test set in one condition, the same for every system."""
    source = None if level is None else make_source(noise, utterances, rate_hz=SAMPLE_RATE_HZ, seed=0)
    mels = []
    for utterance in utterances:
        samples = read_audio(utterance.audio_path)
        if source is not None and level is not None:
            laid = source.noise_for(utterance, samples.size)
            rng = source.generator(utterance, "offset")
            samples = mix_at_snr(samples, laid, level, rate_hz=SAMPLE_RATE_HZ, rng=rng).mixed
        mels.append(log_mel(samples, AVSR_TINY.shape.features))
    return mels


@torch.no_grad()
def transcribe(task: AVSRTask, model: Any, mels: Sequence[np.ndarray], mouths: Any, stream: str) -> list[str]:
    """Greedy answers."""
    texts = []
    for start in range(0, len(mels), 16):
        rows = range(start, min(start + 16, len(mels)))
        batch = task.collate([
            AVExample(
                mels[row] if stream != "video" else mels[row][:, :0],
                mouths[row] if stream != "audio" else mouths[row][:0],
                [1],
            )
            for row in rows
        ])  # fmt: skip
        out = model(batch.mel, batch.mel_frames, batch.video, batch.video_frames)
        for log_probs, length in zip(out.log_probs.numpy(), out.lengths.tolist(), strict=True):
            found = greedy(log_probs[:length], frame_s=1 / CLOCK_HZ) if length else None
            texts.append(task.vocabulary.decode(found.tokens) if found else "")
    return texts


def write(work: Path, out: Path) -> None:
    """Means over seeds with 95 % bootstrap intervals over utterances, and each fusion against audio alone."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(work.glob("*/*-*/scores.json")):
        system, seed = file.parent.name.rsplit("-", 1)
        found.setdefault(file.parent.parent.name, {}).setdefault(system, {})[int(seed)] = json.loads(file.read_text())
    rows = []
    for corpus, systems in found.items():
        for system in [name for name in SYSTEMS if name in systems]:
            seeds = systems[system]
            for condition in conditions_of(seeds):
                for stream in seeds[min(seeds)].get(condition, {}):
                    have = [scores[condition][stream] for scores in seeds.values() if condition in scores]
                    rows.append({
                        "corpus": corpus, "system": system, "stream": stream, "condition": condition,
                        "seeds": len(have), **summary(have),
                        **against_audio(have, systems.get("audio", {}), seeds, condition, stream),
                    })  # fmt: skip
    complete = {
        corpus: {system: sorted(seeds) for system, seeds in systems.items()} for corpus, systems in found.items()
    }
    full = all(len(seeds) == 3 for systems in complete.values() for seeds in systems.values()) and all(
        set(systems) == set(SYSTEMS) for systems in complete.values()
    )
    report = {
        "what": "word error rates by system and condition; intervals: 95 % bootstrap over utterances, seeds pooled",
        "complete": full,
        "grid": complete,
        "steps": {
            corpus: json.loads(next((work / corpus).glob("*-*/config.json")).read_text())["steps"] for corpus in found
        },
        "corpus": {"speakers": SPEAKERS, "clips": CLIPS, "seed": CORPUS_SEED, "style": "grid"},
        "rows": rows,
        "provenance": {**provenance(), "torch": torch.__version__},
    }
    out.write_text(json.dumps(report, indent=1) + "\n")


def summary(have: Sequence[dict[str, list[int]]]) -> dict[str, float]:
    """Pooled error rate, its interval, and the words of the test set."""
    errors = np.sum([one["errors"] for one in have], axis=0)
    words = np.sum([one["words"] for one in have], axis=0)
    low, high = bootstrap_interval(errors, words)
    return {
        "wer": float(errors.sum() / words.sum()),
        "low": low,
        "high": high,
        "test_words": sum(have[0]["words"]),
    }


def against_audio(
    have: Sequence[dict[str, list[int]]],
    audio: dict[int, dict[str, Any]],
    seeds: dict[int, Any],
    condition: str,
    stream: str,
) -> dict[str, Any]:
    """Difference to the audio-only system on the same utterances and seeds; negative: fewer errors."""
    shared = [seed for seed in seeds if condition in audio.get(seed, {}) and condition in seeds[seed]]
    if stream != "both" or not shared:
        return {}
    ours = np.sum([seeds[seed][condition]["both"]["errors"] for seed in shared], axis=0)
    theirs = np.sum([audio[seed][condition]["audio"]["errors"] for seed in shared], axis=0)
    words = np.sum([audio[seed][condition]["audio"]["words"] for seed in shared], axis=0)
    found = paired_bootstrap(ours, theirs, words)
    return {"minus_audio": found.difference, "minus_audio_low": found.low, "minus_audio_high": found.high}


def conditions_of(seeds: dict[int, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(condition for scores in seeds.values() for condition in scores))


def name_of(noise: str, level: float | None) -> str:
    return noise if level is None else f"{noise} {level:g} dB"


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus, runs and scores")
    parser.add_argument("--grid", type=Path, help="folder with av.train.jsonl, av.dev.jsonl and av.test.jsonl")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--noises", nargs="+", default=NOISES)
    parser.add_argument("--snr-db", nargs="+", type=float, default=SNR_DB)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--fine-tuning-steps", type=int, default=FINE_TUNING_STEPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "avsr_noise.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
