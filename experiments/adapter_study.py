"""What the adapter experiments share: train a grid of adapters on one base, test each on speech in held-out noise.

Every training and every test is a file of its own in the work folder, so an interrupted experiment goes on where it
stopped, and one that is stopped early still writes what it has (`complete: false`).

Tests: spoken digits (speakers known from training) and read sentences of unseen speakers, clean and in noises and
voices that training did not hear: character error rates, and the distance to the features of the clean clip.

    python experiments/adapter_study.py results/noise_robustness.json     # the tables of docs/adapters.md
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linnet.audio import read_audio
from linnet.damage import make_damage
from linnet.denoise import spectral_subtraction
from linnet.environment import provenance
from linnet.export.qwen3_asr_adapter import AdapterConfig, count_parameters
from linnet.features import WHISPER_128
from linnet.manifest import Utterance, read_manifest
from linnet.metrics import cer, paired_bootstrap
from linnet.models.presets import ADAPTER
from linnet.models.qwen3_asr.adapter_config import AdapterTrainConfig
from linnet.models.qwen3_asr.adapter_task import feature_loss
from linnet.models.qwen3_asr.adapters import add_adapters, base_only
from linnet.models.qwen3_asr.checkpoint import as_checkpoint, load_frozen, load_tokenizer
from linnet.models.qwen3_asr.model import Qwen3ASR
from linnet.noise import mix_at_snr
from linnet.noise_source import make_source
from linnet.runtime.encoder import clip_features
from linnet.runtime.prompt import build_prompt, parse_answer
from linnet.train.run_folder import RunFolder
from linnet.train.trainer import fit

RATE_HZ, TEST_SEED, SEEDS = 16_000, 7, (0, 1, 2)
DIGITS, SENTENCES = "fsdd", "speechocean762"
EVERY = {DIGITS: 5, SENTENCES: 20}  # every n-th test utterance: 50 of each
TRAIN_EVERY = {DIGITS: 10, SENTENCES: 5}
NOISES = {"babble": (10.0, 0.0), "white": (0.0,)}
RECORDED_SNR_DB = (0.0,)
ANSWER_TOKENS = {DIGITS: 16, SENTENCES: 48}


@dataclass(frozen=True)
class System:
    """One adapter to train: a name for tables, its configuration and loss."""

    name: str
    adapter: AdapterConfig
    loss: str = "feature"
    steps: int = 600
    control: str | None = None
    """The system with the same parameters and less of an idea, against which it is compared."""


@dataclass(frozen=True)
class Clip:
    """A test utterance in one condition: log-mel [128, F] as heard, and clean."""

    corpus: str
    condition: str
    utterance: str
    text: str
    heard: np.ndarray
    clean: np.ndarray


def options(description: str | None, results: str) -> argparse.Namespace:
    """The command line of every adapter experiment."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="run folder or checkpoint of a small recogniser")
    parser.add_argument("--data", type=Path, required=True, help="folder with train, test and noise manifests")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs, caches and tests")
    parser.add_argument("--results", type=Path, default=Path(results))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    return parser.parse_args()


def study(
    args: argparse.Namespace, systems: Sequence[System], *, subtraction: bool = False, **about: Any
) -> dict[str, Any]:
    """Train and test every system with every seed; write and return the results after each one.

    `subtraction` adds the base behind spectral subtraction, which learns nothing.
    """
    torch.set_num_threads(1)
    with as_checkpoint(args.base) as folder:
        asr, tokenizer = load_frozen(folder, dtype=torch.float32), load_tokenizer(folder)
    clips = test_clips(args.data, args.work)
    base = tested(args.work / "tests" / "base.json", copy.deepcopy(asr), tokenizer, clips)
    subtracted: list[dict[str, Any]] = []
    if subtraction:
        cleaned = test_clips(args.data, args.work, front_end=True)
        answers = tested(args.work / "tests" / "spectral_subtraction.json", copy.deepcopy(asr), tokenizer, cleaned)
        subtracted = compared("spectral subtraction", base, [answers])
    rows: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, Any]]] = {system.name: [] for system in systems}
    result: dict[str, Any] = {}
    for seed in args.seeds:
        for system in systems:
            run, fingerprint = trained(args, system, seed)
            adapted = copy.deepcopy(asr)
            add_adapters(adapted, system.adapter)
            weights = {name.removeprefix("asr."): weight for name, weight in run.load("last")[0].items()}
            adapted.load_state_dict(weights, strict=False)
            answers = tested(args.work / "tests" / f"{run.path.name}.json", adapted, tokenizer, clips)
            found[system.name].append(answers)
            rows = [row for one in systems if found[one.name] for row in compared(one.name, base, found[one.name])]
            result = {
                "complete": all(len(tests) == len(args.seeds) for tests in found.values()),
                "seeds_done": {name: len(tests) for name, tests in found.items()},
                "systems": [described(one, asr) for one in systems],
                "base": {"path": args.base.name, "fingerprint": fingerprint, **base_state(args.base)},
                "training": {"utterances": TRAIN_EVERY, "updates": systems[0].steps, "variants": 2},
                "rows": rows + subtracted,
                "against_control": [
                    {"control": one.control, **row}
                    for one in systems
                    if one.control and found[one.name] and found[one.control]
                    for row in compared(one.name, averaged(found[one.control]), found[one.name])
                ],
                **about,
                "provenance": provenance(),
            }
            args.results.parent.mkdir(parents=True, exist_ok=True)
            args.results.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            print(f"{system.name} seed {seed}: " + summary(rows, system.name), flush=True)
    return result


def described(system: System, asr: Qwen3ASR) -> dict[str, Any]:
    """A system's configuration and size."""
    return {**dataclasses.asdict(system), "parameters": count_parameters(system.adapter, asr.config)}


def base_state(base: Path) -> dict[str, Any]:
    """How long the base was trained, if it is a run folder."""
    return {"step": RunFolder(base).load("best")[1]["step"]} if (base / "checkpoints").is_dir() else {}


def trained(args: argparse.Namespace, system: System, seed: int) -> tuple[RunFolder, str]:
    """The finished run of a system, trained now if it is not there, and the fingerprint of its base."""
    key = f"{system.adapter}{system.loss}{system.steps}{args.base}{seed}"
    run_dir = args.work / "runs" / f"{system.adapter.mode}-{hashlib.sha256(key.encode()).hexdigest()[:8]}-{seed}"
    run = RunFolder(run_dir)
    if not (run.has("last") and run.load("last")[1]["step"] == system.steps):
        config: AdapterTrainConfig = replace(
            ADAPTER,
            base=args.base,
            adapter=system.adapter,
            loss=system.loss,
            backbone="fp32",
            text="spoken",
            train_manifests=(train_manifest(args.data, args.work),),
            noise_manifests=(args.data / "noise.train.jsonl",),
            cached_variants=2,
            batch_audio_s=20.0,
            learning_rate=2e-3,
            steps=system.steps,
            warmup_steps=system.steps // 10,
            validate_every=system.steps,
            save_every=system.steps,
            log_every=50,
            threads=1,
            seed=seed,
            run_dir=run_dir,
        )
        fit(config, resume=run_dir.exists(), quiet=True)
    return run, json.loads((run_dir / "adapter.json").read_text())["base"]


def train_manifest(data: Path, work: Path) -> Path:
    """A few hundred training utterances."""
    path = work / "train.jsonl"
    if not path.exists():
        from linnet.manifest import write_manifest

        everything = read_manifest(data / "train.jsonl")
        chosen = [u for corpus, n in TRAIN_EVERY.items() for u in [u for u in everything if u.corpus == corpus][::n]]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, chosen)
    return path


def test_clips(data: Path, work: Path, *, front_end: bool = False) -> list[Clip]:
    """Test utterances in every condition, made once; with `front_end` as spectral subtraction leaves them."""
    path = work / ("test-clips-cleaned.npz" if front_end else "test-clips.npz")
    if not path.exists():
        everything = read_manifest(data / "test.jsonl")
        clips = []
        for corpus, step in EVERY.items():
            same = [utterance for utterance in everything if utterance.corpus == corpus]
            for utterance in same[::step]:
                clips += in_conditions(utterance, same, data, front_end=front_end)
        arrays = {f"{i}.{name}": getattr(clip, name) for i, clip in enumerate(clips) for name in ("heard", "clean")}
        facts = [[clip.corpus, clip.condition, clip.utterance, clip.text] for clip in clips]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, facts=np.array(json.dumps(facts)), **arrays)
    with np.load(path) as stored:
        return [
            Clip(*fact, stored[f"{i}.heard"], stored[f"{i}.clean"])
            for i, fact in enumerate(json.loads(str(stored["facts"])))
        ]


def in_conditions(utterance: Utterance, voices: Sequence[Utterance], data: Path, *, front_end: bool) -> list[Clip]:
    """One utterance clean, in each noise at each level, and in a room."""
    speech = read_audio(utterance.audio_path, sample_rate_hz=RATE_HZ)
    heard = {"clean": speech}
    sources = [(make_source(kind, voices, rate_hz=RATE_HZ, seed=TEST_SEED), levels) for kind, levels in NOISES.items()]
    recorded = make_source(data / "noise.test.jsonl", voices, rate_hz=RATE_HZ, seed=TEST_SEED)
    for source, levels in [*sources, (recorded, RECORDED_SNR_DB)]:
        noise = source.noise_for(utterance, speech.size)
        name = "recorded" if source is recorded else source.name
        for level in levels:
            rng = source.generator(utterance, "offset")
            heard[f"{name} {level:g} dB"] = mix_at_snr(speech, noise, level, rate_hz=RATE_HZ, rng=rng).mixed
    room = make_damage("reverb", rate_hz=RATE_HZ, seed=TEST_SEED)
    heard["reverb"] = room.apply(utterance, speech)
    clean = clip_features(speech, WHISPER_128)
    if front_end:
        heard = {name: spectral_subtraction(samples, rate_hz=RATE_HZ) for name, samples in heard.items()}
    return [
        Clip(utterance.corpus or "", condition, utterance.id or str(utterance.audio_path), utterance.text or "",
             clip_features(samples, WHISPER_128), clean)
        for condition, samples in heard.items()
    ]  # fmt: skip


def tested(path: Path, asr: Qwen3ASR, tokenizer: Any, clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Per clip: character errors and the distance to the clean features; kept in `path`."""
    if not path.exists():
        records: list[dict[str, Any]] = []
        for corpus, condition in dict.fromkeys((clip.corpus, clip.condition) for clip in clips):
            chosen = [clip for clip in clips if (clip.corpus, clip.condition) == (corpus, condition)]
            with torch.no_grad():
                heard = asr.audio_tower([torch.from_numpy(clip.heard) for clip in chosen])
                with base_only(asr):
                    target = asr.audio_tower([torch.from_numpy(clip.clean) for clip in chosen])
            texts = decoded(asr, tokenizer, heard, max_new_tokens=ANSWER_TOKENS[corpus])
            for clip, ours, theirs, text in zip(chosen, heard, target, texts, strict=True):
                found = cer([clip.text], [text], language="en")
                records.append({
                    "corpus": corpus, "condition": condition, "utterance": clip.utterance,
                    "distance": float(feature_loss(ours, theirs)),
                    "errors": found.errors, "characters": found.words,
                })  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(records))
    loaded: list[dict[str, Any]] = json.loads(path.read_text())
    return loaded


def decoded(asr: Qwen3ASR, tokenizer: Any, audio: Sequence[Tensor], *, max_new_tokens: int) -> list[str]:
    """Greedy answers from encoder outputs that are already there."""
    prompts = [build_prompt(tokenizer, len(one)).ids for one in audio]
    answers = asr.answer(audio, prompts, max_new_tokens=max_new_tokens)
    return [parse_answer(tokenizer.decode(answer, skip_special_tokens=False)).text for answer in answers]


def compared(name: str, base: list[dict[str, Any]], seeds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows per corpus and condition: means over seeds, and the paired difference to `base` (or a control) with its
    interval."""
    rows = []
    for corpus, condition in dict.fromkeys((one["corpus"], one["condition"]) for one in base):

        def chosen(records: list[dict[str, Any]], where: tuple[str, str] = (corpus, condition)) -> list[dict[str, Any]]:
            return [one for one in records if (one["corpus"], one["condition"]) == where]

        ours, theirs = [chosen(records) for records in seeds], chosen(base)
        characters = np.array([one["characters"] for one in theirs])
        errors = np.array([[one["errors"] for one in records] for records in ours])
        base_errors = np.array([one["errors"] for one in theirs])
        # An utterance is the unit of the bootstrap; its errors are the mean over seeds.
        found = paired_bootstrap(errors.mean(0), base_errors, characters, seed=TEST_SEED)
        row: dict[str, Any] = {
            "system": name, "corpus": corpus, "condition": condition, "utterances": len(theirs), "seeds": len(ours),
            "distance": [float(np.mean([one["distance"] for one in records])) for records in ours],
            "base_distance": float(np.mean([one["distance"] for one in theirs])),
            "cer": [float(one.sum() / characters.sum()) for one in errors],
            "base_cer": float(base_errors.sum() / characters.sum()),
            "difference": found.difference, "low": found.low, "high": found.high,
        }  # fmt: skip
        rows.append(row)
    return rows


def averaged(seeds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Tests of several seeds as one: means of errors and distances per clip."""
    return [
        {**same[0]} | {key: float(np.mean([one[key] for one in same])) for key in ("errors", "distance")}
        for same in zip(*seeds, strict=True)
    ]


def summary(rows: Sequence[dict[str, Any]], name: str) -> str:
    """One line for the terminal."""
    own = [row for row in rows if row["system"] == name]
    return "  ".join(f"{row['condition']} {100 * np.mean(row['cer']):.0f}({100 * row['base_cer']:.0f})" for row in own)


def table(result: dict[str, Any], corpus: str) -> str:
    """Markdown: CER in % per system and condition, in brackets the difference to the base and its interval in points;
    the last column is the mean distance to the clean features over all damaged conditions."""
    rows = [row for row in result["rows"] if row["corpus"] == corpus]
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    sizes = {one["name"]: f"{one['parameters']:,}" for one in result["systems"]}

    def line(name: str, cells: Sequence[str], distances: Sequence[float]) -> str:
        return "| " + " | ".join([name, sizes.get(name, "–"), *cells, f"{np.mean(distances):.3f}"]) + " |"

    first = [next(row for row in rows if row["condition"] == condition) for condition in conditions]
    out = ["| system | parameters | " + " | ".join(conditions) + " | distance |", "|---" * (len(conditions) + 3) + "|"]
    damaged = [row["base_distance"] for row in first if row["condition"] != "clean"]
    out.append(line("base", [f"{100 * row['base_cer']:.1f}" for row in first], damaged))
    for name in dict.fromkeys(row["system"] for row in rows):
        own = [next(r for r in rows if (r["system"], r["condition"]) == (name, c)) for c in conditions]
        cells = []
        for row in own:
            difference, low, high = (100 * row[key] for key in ("difference", "low", "high"))
            cells.append(f"{100 * np.mean(row['cer']):.1f} ({difference:+.1f} [{low:+.1f}, {high:+.1f}])")
        out.append(line(name, cells, [np.mean(r["distance"]) for r in own if r["condition"] != "clean"]))
    return "\n".join(out)


def report(path: Path) -> str:
    """The tables of a results file, how far its cells move between seeds, and the comparisons with controls."""
    result = json.loads(path.read_text())
    spans = [100 * (max(row["cer"]) - min(row["cer"])) for row in result["rows"] if row["seeds"] > 1]
    out = [f"{path}, seeds {result['seeds_done']}"]
    if spans:
        out.append(f"between seeds: {np.median(spans):.1f} points (median), {max(spans):.1f} (most)")
    for corpus in (DIGITS, SENTENCES):
        out += ["", corpus, table(result, corpus), ""]
        for row in result["against_control"]:
            if row["corpus"] == corpus:
                difference, low, high = (100 * row[key] for key in ("difference", "low", "high"))
                names = f"{row['system']} minus {row['control']}"
                out.append(f"{names}, {row['condition']}: {difference:+.1f} [{low:+.1f}, {high:+.1f}]")
    return "\n".join(out)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(report(Path(argument)))
