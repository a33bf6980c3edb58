"""wav2vec 2.0 against transformers: training steps, masks and negatives, int8 inference, memory; in one run.

    python benchmarks/wav2vec2.py --repeats 5 --threads 1

Both sides get the same random weights (base size), the same batch and the same number of threads, and take turns, so
that whatever else the machine does falls on both. Reported are minima of processor time over the repeats (wall time is
there, too; with one thread and an idle machine they are the same) and the ratio transformers / Linnet. Results go to
stdout and results/wav2vec2_benchmark.json; parts that are not named with --parts keep their earlier figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linnet.models.wav2vec2.checkpoint import load_ctc, load_pretraining, load_weights
from linnet.models.wav2vec2.config import Regularisation
from linnet.models.wav2vec2.masking import masked_positions, sample_negatives, span_mask
from linnet.models.wav2vec2.model import Wav2Vec2ForCTC, normalise
from linnet.models.wav2vec2.pretraining import Wav2Vec2ForPreTraining
from linnet.models.wav2vec2.task import ctc_loss
from linnet.runtime.wav2vec2_vocabulary import vocabulary_of
from linnet.train.run_folder import environment

ROOT = Path(__file__).parents[1]
STEPS = ("pretraining", "pretraining_layer_norm", "fine_tuning", "fine_tuning_layer_norm")
PARTS = (*STEPS, "masks", "inference", "memory")
CLIPS, CLIP_S = 2, 5.0
CLASSES = 32
SIZES = ((4, 249), (16, 499), (64, 749))


def timed(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Turn by turn, after one round that does not count; minima in milliseconds."""
    found: dict[str, list[tuple[float, float]]] = {"linnet": [], "transformers": []}
    for round_ in range(repeats + 1):
        for name, call in (("linnet", ours), ("transformers", theirs)):
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            if round_:
                found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu_ms = {name: 1000 * min(cpu for cpu, _ in times) for name, times in found.items()}
    wall_ms = {name: 1000 * min(wall for _, wall in times) for name, times in found.items()}
    return {
        "cpu_ms": {name: round(value, 2) for name, value in cpu_ms.items()},
        "wall_ms": {name: round(value, 2) for name, value in wall_ms.items()},
        "cpu_ratio": round(cpu_ms["transformers"] / cpu_ms["linnet"], 2),
        "wall_ratio": round(wall_ms["transformers"] / wall_ms["linnet"], 2),
        "repeats": repeats,
    }


def official(folder: Path, kind: str, **variant: Any) -> Any:
    """transformers' model with fresh weights, also written to `folder` for ours to load; its usual dropout is on."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(vocab_size=CLASSES, layerdrop=0.0, ctc_loss_reduction="sum", **variant)
    model = getattr(transformers, f"Wav2Vec2For{kind}")(config)
    model.save_pretrained(folder)
    return model.train()


# The second published variant (large-lv60, XLSR), here at the size of base.
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}

# What transformers' configuration has by default, in our names.
SAME = Regularisation(
    dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, feature_dropout=0.0, final_dropout=0.1, mask_time=0.05
)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    samples = torch.randn(CLIPS, int(CLIP_S * 16_000))
    return samples, torch.full((CLIPS,), samples.shape[1])


def pretraining(repeats: int, **variant: Any) -> dict[str, Any]:
    """Masks, negatives, forward, backward, AdamW."""
    from transformers.models.wav2vec2 import modeling_wav2vec2 as modeling

    with tempfile.TemporaryDirectory() as folder:
        theirs = official(Path(folder), "PreTraining", **variant)
        config = load_pretraining(Path(folder)).config
        ours = Wav2Vec2ForPreTraining(config, SAME, penalty_weight=0.0).train()
        ours.load_state_dict(load_weights(Path(folder), config, parts=("quantizer",)))
    samples, lengths = batch()
    frames = config.frames(samples.shape[1])
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in (ours, theirs)]

    def step_ours() -> None:
        mask = span_mask(torch.full((CLIPS,), frames), frames, share=0.65, length=10, at_least=2)
        losses = ours(samples, lengths, mask)
        (losses.loss * losses.masked).backward()
        optimizers[0].step()
        optimizers[0].zero_grad()

    def step_theirs() -> None:
        mask = modeling._compute_mask_indices((CLIPS, frames), 0.65, 10, min_masks=2)
        negatives = modeling._sample_negative_indices((CLIPS, frames), 100, mask)
        theirs(
            samples, mask_time_indices=torch.from_numpy(mask), sampled_negative_indices=torch.from_numpy(negatives)
        ).loss.backward()
        optimizers[1].step()
        optimizers[1].zero_grad()

    return timed(step_ours, step_theirs, repeats) | {"batch": f"{CLIPS} × {CLIP_S:g} s", "model": "base"}


def fine_tuning(repeats: int, **variant: Any) -> dict[str, Any]:
    """Forward, CTC, backward, AdamW; feature encoder frozen."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = official(Path(folder), "CTC", **variant)
        config = load_ctc(Path(folder)).config
        ours = Wav2Vec2ForCTC(config, SAME).train()
        ours.load_state_dict(load_weights(Path(folder), config, parts=("lm_head",)))
    theirs.freeze_feature_encoder()
    ours.wav2vec2.feature_extractor.requires_grad_(False)
    samples, lengths = batch()
    labels = torch.randint(1, CLASSES, (CLIPS, 60))
    optimizers = [
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
        for model in (ours, theirs)
    ]

    def step_ours() -> None:
        logits, frames = ours(samples, lengths)
        ctc_loss(logits, frames, list(labels), blank=0)[0].backward()
        optimizers[0].step()
        optimizers[0].zero_grad()

    def step_theirs() -> None:
        theirs(samples, labels=labels).loss.backward()
        optimizers[1].step()
        optimizers[1].zero_grad()

    return timed(step_ours, step_theirs, repeats) | {"batch": f"{CLIPS} × {CLIP_S:g} s", "model": "base"}


def masks(repeats: int) -> dict[str, Any]:
    """Masks and 100 negatives of batches of three sizes; the figures at the top level are those of 16 clips of 10 s."""
    found = {f"{clips} × {frames / 50:.0f} s": masks_of(clips, frames, repeats) for clips, frames in SIZES}
    return found["16 × 10 s"] | {"by_size": found}


def masks_of(clips: int, frames: int, repeats: int) -> dict[str, Any]:
    """One size: both together, and each alone."""
    from transformers.models.wav2vec2 import modeling_wav2vec2 as modeling

    lengths = torch.full((clips,), frames)

    def our_masks() -> Tensor:
        return span_mask(lengths, frames, share=0.65, length=10, at_least=2)

    def their_masks() -> np.ndarray:
        return modeling._compute_mask_indices((clips, frames), 0.65, 10, min_masks=2)

    def our_negatives(mask: Tensor) -> None:
        positions, counts = masked_positions(mask)
        sample_negatives(counts, positions.shape[1], 100)

    def their_negatives(mask: np.ndarray) -> None:
        modeling._sample_negative_indices((clips, frames), 100, mask)

    mask = our_masks()
    return timed(lambda: our_negatives(our_masks()), lambda: their_negatives(their_masks()), 20 * repeats) | {
        "masks_alone": timed(our_masks, their_masks, 20 * repeats),
        "negatives_alone": timed(lambda: our_negatives(mask), lambda: their_negatives(mask.numpy()), 20 * repeats),
    }


def inference(repeats: int, threads: int) -> dict[str, Any]:
    """One clip of 10 s through our graphs, against transformers' default and eager attention."""
    import transformers

    from linnet.export.wav2vec2 import convert
    from linnet.models.wav2vec2.checkpoint import save_checkpoint
    from linnet.runtime.wav2vec2 import Wav2Vec2Recognizer

    vocabulary = vocabulary_of([("".join(chr(ord("a") + i) for i in range(26)) + " 01234", "en")])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        official(folder / "official", "CTC")
        model = load_ctc(folder / "official")
        vocabulary = type(vocabulary)((*vocabulary.labels[:CLASSES],) + ("",) * (CLASSES - len(vocabulary.labels)))
        save_checkpoint(folder / "checkpoint", model.state_dict(), model.config, vocabulary)
        eager = transformers.Wav2Vec2ForCTC.from_pretrained(folder / "official", attn_implementation="eager").eval()
        torch.manual_seed(2)
        wave = torch.randn(160_000)
        with torch.no_grad():
            expected = model(normalise(wave)[None])[0][0].log_softmax(-1).numpy()
        for precision in ("fp32", "int8", "int8-careful"):
            bundle = convert(folder / "checkpoint", folder / precision, precision=precision)
            recognizer = Wav2Vec2Recognizer(bundle, threads=threads)

            def ours(recognizer: Wav2Vec2Recognizer = recognizer) -> np.ndarray:
                return recognizer.log_probs(wave.numpy())

            @torch.inference_mode()
            def theirs() -> None:
                values = (wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7)
                eager(values[None]).logits.log_softmax(-1)

            figures = timed(ours, theirs, repeats)
            error = np.abs(ours() - expected)
            found[precision] = figures | {
                "size_bytes": bundle.size_bytes,
                "max_abs_error": round(float(error.max()), 6),
                "same_argmax": round(float((ours().argmax(1) == expected.argmax(1)).mean()), 4),
            }
            recognizer.close()
    return found | {"clip_s": 10.0, "transformers": f"{transformers.__version__} eager, fp32"}


def memory() -> dict[str, Any]:
    """Peak memory of one fine-tuning step of base on 2 clips of 10 s, in processes of their own."""
    found = {}
    for checkpointing in (False, True):
        code = (
            "import torch\n"
            "from linnet.models.wav2vec2.model import Wav2Vec2ForCTC, initialise\n"
            "from linnet.runtime.wav2vec2_config import Wav2Vec2Config\n"
            "torch.set_num_threads(1)\n"
            "model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32)).train()\n"
            "initialise(model)\n"
            "model.wav2vec2.feature_extractor.requires_grad_(False)\n"
            f"model.wav2vec2.encoder.gradient_checkpointing = {checkpointing}\n"
            "model(torch.randn(2, 160000))[0].square().mean().backward()\n"
            # ru_maxrss of a child would count what its parent held when it was started.
            "lines = open('/proc/self/status').read().splitlines()\n"
            "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found["checkpointing" if checkpointing else "plain"] = round(int(ran.stdout) / 1024)
    return {"peak_mib": found, "batch": "2 × 10 s", "model": "base"}


def main() -> None:
    """Measure the parts asked for, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "wav2vec2_benchmark.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    for part in options.parts:
        if part == "inference":
            report[part] = inference(options.repeats, options.threads)
        elif part == "memory":
            report[part] = memory()
        elif part == "masks":
            report[part] = masks(options.repeats)
        else:
            step = pretraining if part.startswith("pretraining") else fine_tuning
            report[part] = step(options.repeats, **(LAYER_NORM if part.endswith("layer_norm") else {}))
        report[part] |= {"threads": options.threads, "environment": environment()}
        sys.stderr.write(f"{part}: done\n")
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
