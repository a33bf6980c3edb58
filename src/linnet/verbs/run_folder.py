"""Run folders behind verbs that want bundles, and the extra that training needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from linnet.bundle import Bundle

FAMILIES = ("qwen3_asr", "bsq", "wav2vec2", "avsr")


@contextmanager
def as_bundle(model: str) -> Iterator[str]:
    """A bundle's name or path as it is; a run folder as a temporary bundle at full precision."""
    import tempfile

    from linnet.info import kind_of

    if kind_of(Path(model)) != "run":
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
        run, target = Path(model), Path(folder) / "bundle"
        which = "best" if (run / "checkpoints" / "best").is_dir() else "last"
        export_run_folder(run, target, encoder="fp32", decoders={"onnx": "fp32"}, name=None, checkpoint=which)
        yield str(target)


def export_run_folder(
    run: Path, out: Path, *, encoder: str, decoders: dict[str, str], name: str | None, checkpoint: str
) -> Bundle:
    """Bundle of a run folder by its family's `export_run`; families without a decoder take `encoder` as precision."""
    family = _family(run)
    # Here and not in linnet.export: that must not know linnet.models.
    with needs_torch("Exporting a run folder"):
        module = import_module(f"linnet.models.{family}.export")
    precision: dict[str, Any] = (
        {"encoder": encoder, "decoders": decoders} if family == "qwen3_asr" else {"precision": encoder}
    )
    bundle: Bundle = module.export_run(run, out, name=name, checkpoint=checkpoint, **precision)
    return bundle


def export_run_adapter(run: Path, out: Path, *, checkpoint: str) -> Path:
    """The adapter of a run folder as one file."""
    family = _family(run)
    with needs_torch("Exporting a run folder"):
        module = import_module(f"linnet.models.{family}.export")
    if not hasattr(module, "export_adapter"):
        raise ConfigError(f"Runs of family {family} have no adapter; give a folder to write a bundle.")
    written: Path = module.export_adapter(run, out, checkpoint=checkpoint)
    return written


def _family(run: Path) -> str:
    family = json.loads((run / "config.json").read_text(encoding="utf-8")).get("family")
    if family not in FAMILIES:
        raise ConfigError(
            f"{run / 'config.json'} is of family {family!r}; accepted: {', '.join(FAMILIES)}. Export it with the "
            "version of Linnet that trained it."
        )
    return str(family)


@contextmanager
def needs_torch(what: str) -> Iterator[None]:
    """Say which extra is missing if an import of the training half fails for want of it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name in {"torch", "accelerate", "safetensors"}:
            raise MissingExtraError(what, "train", error.name) from error
        raise
