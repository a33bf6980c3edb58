"""Run folder → bundle: the trained weights as one ONNX graph, compared with torch before anybody uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linnet.bundle import Bundle, read_bundle, write_bundle
from linnet.data.corpora.grid import GRAMMAR
from linnet.errors import CheckpointError, ExportError
from linnet.export.avsr import PRECISIONS, write_avsr
from linnet.export.folder import check_target, written_whole
from linnet.models.avsr.model import AVSR
from linnet.models.avsr.task import SHAPE_FILE, VOCABULARY_FILE
from linnet.runtime.avsr_config import AVSRConfig, Vocabulary
from linnet.runtime.providers import session_options
from linnet.train.run_folder import RunFolder

GRAPH = "avsr.onnx"
# fp32: the same sums in another order. int8: measured on trained models (docs/avsr.md), ten times that refused.
_TOLERANCE = {"fp32": 1e-3, "int8": 3.0, "int8-careful": 1.0}
_LENGTHS = ((151, 38), (90, 0), (0, 23), (33, 51))  # mel frames and pictures: both, either, unequal


def export_run(
    run: Path, out: Path, *, precision: str = "fp32", name: str | None = None, checkpoint: str = "best"
) -> Bundle:
    """Convert checkpoints/<checkpoint> of a run folder and verify the result against torch.

    `precision`: fp32, int8 or int8-careful. The bundle's `parity` holds the largest differences of log-probabilities
    over clips of several lengths with both streams and with one. Raises CheckpointError, ExportError (also if the
    differences are too large; nothing is left behind then).
    """
    if precision not in PRECISIONS:
        raise ExportError(f"Precision {precision!r} is not offered; accepted: {', '.join(PRECISIONS)}.")
    check_target(out)
    folder = RunFolder(run)
    weights, state = folder.load(checkpoint)
    config = folder.config()
    shape, vocabulary = read_assets(run)
    model = AVSR(shape, vocabulary).eval()
    model.load_state_dict(weights)
    with written_whole(out, source=run) as work:
        write_avsr(
            {key: value.float().numpy() for key, value in weights.items()}, shape, work / GRAPH, precision=precision
        )
        parity = compare(model, work / GRAPH)
        if parity["max_abs_difference"] > _TOLERANCE[precision]:
            raise ExportError(
                f"The graph differs from the model by {parity['max_abs_difference']:.3g} in log-probability, more than "
                f"{_TOLERANCE[precision]} at {precision}. Export at another precision."
            )
        write_bundle(
            work,
            name=name or run.resolve().name,
            family="avsr",
            model=_description(shape, vocabulary, config),
            features=shape.features,
            precision={"avsr.onnx": precision},
            languages=["en"],
            provenance={"run": {"step": state["step"], "seed": config["seed"], **folder.meta()}},
            parity=parity,
        )
    return read_bundle(out, verify=False)


def read_assets(run: Path) -> tuple[AVSRConfig, Vocabulary]:
    """Shape and vocabulary that training wrote; CheckpointError if they are not there."""
    try:
        shape = json.loads((run / SHAPE_FILE).read_text())
        symbols = json.loads((run / VOCABULARY_FILE).read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{run} is not a run folder of this family: it has no {Path(error.filename).name}."
        ) from None
    return AVSRConfig.from_dict(shape), Vocabulary(tuple(symbols))


@torch.no_grad()
def compare(model: AVSR, graph: Path) -> dict[str, Any]:
    """Largest and mean absolute difference of log-probabilities, torch against ONNX Runtime, in one uneven batch."""
    import onnxruntime as ort

    shape, rng = model.config, np.random.default_rng(0)
    mel_frames = np.array([mel for mel, _ in _LENGTHS])
    video_frames = np.array([pictures for _, pictures in _LENGTHS])
    mel = rng.normal(0.3, 0.5, (len(_LENGTHS), shape.n_mels, mel_frames.max())).astype(np.float32)
    smooth = rng.integers(0, 256, (len(_LENGTHS), video_frames.max(), 4, 4))
    video = np.kron(smooth, np.ones((1, 1, shape.video_px // 4, shape.video_px // 4), int)).astype(np.uint8)
    expected = model(*(torch.from_numpy(array) for array in (mel, mel_frames, video, video_frames)))
    session = ort.InferenceSession(str(graph), session_options(None), providers=["CPUExecutionProvider"])
    log_probs, lengths = session.run(
        None, {"mel": mel, "mel_frames": mel_frames, "video": video, "video_frames": video_frames}
    )
    if lengths.tolist() != expected.lengths.tolist():
        raise ExportError(
            f"The graph answers {lengths.tolist()} steps where the model has {expected.lengths.tolist()}."
        )
    valid = [
        np.abs(log_probs[row, :length] - expected.log_probs[row, :length].numpy()) for row, length in enumerate(lengths)
    ]
    differences = np.concatenate([difference.ravel() for difference in valid])
    return {
        "max_abs_difference": float(differences.max()),
        "mean_abs_difference": float(differences.mean()),
        "clips": len(_LENGTHS),
    }


def _description(shape: AVSRConfig, vocabulary: Vocabulary, config: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "shape": shape.to_dict(),
        "vocabulary": list(vocabulary.symbols),
        "crop": config.get("crop", "auto"),
        "streams": [
            stream for stream, dropped in (("audio", "drop_audio"), ("video", "drop_video")) if config[dropped] < 1
        ],
    }
    if config.get("grammar") == "grid":
        described["grammar"] = [list(row) for row in GRAMMAR]
    return described
