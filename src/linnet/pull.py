"""`linnet pull`: a model's name or a checkpoint folder → a verified bundle in the cache, found by its name ever after.

    $LINNET_HOME (~/.cache/linnet)
      checkpoints/Qwen--Qwen3-ASR-0.6B/   what is being downloaded; deleted when the bundle is there
      models/qwen3-asr-0.6b/              the bundle; appears in one step, complete and verified

Whatever interrupts it, there is either no model of that name (or still the older one), and the same command goes on
where the download stopped, or there is a whole one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnet.bundle import DESCRIPTION, Bundle, read_bundle, verify_files
from linnet.errors import BundleError, CheckpointError, ConfigError, ExportError
from linnet.export.folder import sweep
from linnet.export.qwen3_aligner import convert_aligner, is_aligner
from linnet.export.qwen3_asr import check_choices, convert
from linnet.export.qwen3_asr_checkpoint import read_config
from linnet.export.verb import decoders_by_kind
from linnet.export.verify import check_conversion
from linnet.hub.download import download
from linnet.hub.repository import NAME, Hub, Repository, open_repository
from linnet.runtime.loader import EMBEDDED, models_folder

Progress = Callable[[str, float, float], None]
"""progress(stage, done, total): "download" in bytes, "convert" and "verify" in parts."""
FULL_NAMES: Mapping[str, str] = {
    name.lower(): f"Qwen/{name}" for name in ("Qwen3-ASR-0.6B", "Qwen3-ASR-1.7B", "Qwen3-ForcedAligner-0.6B")
}


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What `pull` did."""

    bundle: Bundle
    new: bool
    """False: the model was there already, made of the same checkpoint with the same precisions."""
    checkpoint: Path | None
    """The checkpoint's folder, if it was kept."""


def pull(
    name_or_folder: str,
    *,
    source: str = "hf",
    encoder: str = "int8",
    decoder: Sequence[str] = ("int8",),
    name: str | None = None,
    keep_checkpoint: bool = False,
    force: bool = False,
    verified: bool = True,
    progress: Progress | None = None,
) -> Pulled:
    """Download (or read), convert, verify and register a model; no network for a folder.

    `source` is "hf", "modelscope", or a folder that holds checkpoints under their names. `name` is the one to register
    (default: the model's, in lower case); one that is taken by another model needs `force`. `verified=False` skips the
    comparison with the checkpoint. Raises DownloadError, CheckpointError, ExportError, ConfigError or
    MissingExtraError; then nothing is registered.
    """
    decoders = decoders_by_kind(decoder)
    check_choices(encoder, decoders)
    out = models_folder() / _registered_name(name, name_or_folder)
    folder, repository = _find(name_or_folder, source)
    show = progress or (lambda stage, done, total: None)
    with _alone(out):
        sweep(out)
        origin = _origin(folder, repository, source)
        if (there := _present(out, origin, encoder, decoders, force)) is not None:
            return Pulled(bundle=there, new=False, checkpoint=None)
        if repository is not None:
            folder = _checkpoints() / repository.name.replace("/", "--")
            _download(repository, folder, lambda done, total: show("download", done, total))
        assert folder is not None
        bundle = _convert(folder, out, encoder, decoders, origin, verified, show)
        if repository is None or keep_checkpoint:
            return Pulled(bundle=bundle, new=True, checkpoint=folder)
        shutil.rmtree(folder)
        return Pulled(bundle=bundle, new=True, checkpoint=None)


def _find(name_or_folder: str, source: str) -> tuple[Path | None, Repository | None]:
    """The checkpoint's folder on this machine, or its repository on a hub."""
    path = Path(name_or_folder).expanduser()
    if path.is_dir():
        return _checkpoint_folder(path), None
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file{_foreign(path)}. Give the folder of a Qwen3-ASR checkpoint (config.json, safetensors, "
            "tokenizer), or a name as Qwen/Qwen3-ASR-0.6B."
        )
    full = FULL_NAMES.get(name_or_folder.lower(), name_or_folder)
    if source in ("hf", "modelscope"):
        if not NAME.fullmatch(full):
            raise ConfigError(
                f"{name_or_folder!r} is neither a folder nor a model's name; accepted: a checkpoint folder, "
                f"organisation/model, or one of {', '.join(FULL_NAMES)}."
            )
        hub: Hub = "hf" if source == "hf" else "modelscope"
        return None, open_repository(full, hub)
    root = Path(source).expanduser()
    if not root.is_dir():
        raise ConfigError(f"--source {source} is no folder; accepted: hf, modelscope, or a folder of checkpoints.")
    for candidate in (root / full, root / full.rpartition("/")[2], root):
        if (candidate / "config.json").is_file():
            return candidate, None
    raise CheckpointError(
        f"{root} holds no checkpoint {full}: neither {root / full} nor {root / full.rpartition('/')[2]} has a "
        "config.json. Download it there, or choose another source."
    )


def _checkpoint_folder(path: Path) -> Path:
    if (path / DESCRIPTION).is_file():
        raise ConfigError(f"{path} is a bundle already; use it as it is: --model {path}")
    if not (path / "config.json").is_file():
        found = sorted(entry.name for entry in path.iterdir())
        gguf = next((entry for entry in found if entry.endswith(".gguf")), None)
        raise CheckpointError(
            f"{path} has no config.json{_foreign(path / gguf) if gguf else ''}; it has "
            f"{', '.join(found[:6]) or 'nothing'}. Give the folder of a Qwen3-ASR checkpoint: "
            "config.json, safetensors, tokenizer."
        )
    return path


def _foreign(path: Path) -> str:
    if path.suffix.lower() != ".gguf":
        return ""
    return f", and a GGUF from elsewhere ({path.name}) is half a model: the audio encoder is not in it"


def _registered_name(name: str | None, name_or_folder: str) -> str:
    wanted = name if name is not None else Path(name_or_folder).expanduser().resolve().name.lower()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", wanted) or wanted == EMBEDDED:
        raise ConfigError(
            f"{wanted!r} cannot be a model's name; accepted: letters, digits, dot, dash and underscore, and not "
            f"{EMBEDDED!r}, which is embedded. Choose one with --name."
        )
    return wanted


def _origin(folder: Path | None, repository: Repository | None, source: str) -> dict[str, Any]:
    """Where the weights come from, for the bundle's provenance."""
    if repository is None:
        assert folder is not None
        return {"source": "folder", "checkpoint": folder.resolve().name}
    origin = {"source": source, "checkpoint": repository.name, "revision": repository.revision}
    checksums = {file.name: file.sha256 for file in repository.weights if file.sha256}
    return origin | {"sha256": checksums} | ({"licence": repository.licence} if repository.licence else {})


def _present(
    out: Path, origin: Mapping[str, Any], encoder: str, decoders: Mapping[str, str], force: bool
) -> Bundle | None:
    """The bundle that is there already, if it is the one wanted; ConfigError if its place is taken by another."""
    if force or not (out / DESCRIPTION).is_file():
        return None
    try:
        there = read_bundle(out)
        verify_files(there)
    except BundleError:
        return None  # altered or damaged since: made anew
    precision = {"encoder": encoder} | {f"decoder.{kind}": choice for kind, choice in decoders.items()}
    same_origin = origin["source"] != "folder" and all(there.provenance.get(key) == origin[key] for key in origin)
    if same_origin and there.precision == precision:
        return there
    raise ConfigError(
        f"There is a model {out.name!r} already ({', '.join(there.precision.values())}, from "
        f"{there.provenance.get('checkpoint')}). Choose another name with --name, or replace it with --force."
    )


def _download(repository: Repository, folder: Path, show: Callable[[float, float], None]) -> None:
    """Small files first: an architecture that is not ours costs no gigabytes."""
    sizes = sum(file.size_bytes for file in repository.small), repository.size_bytes
    download(repository.small, folder, token=repository.token, progress=lambda done, total: show(done, sizes[1]))
    read_config(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(
            f"{repository.name} has no tokenizer (tokenizer.json, or vocab.json with merges.txt); name the original "
            "checkpoint."
        )
    download(
        repository.weights, folder, token=repository.token, progress=lambda done, total: show(sizes[0] + done, sizes[1])
    )


def _convert(
    folder: Path,
    out: Path,
    encoder: str,
    decoders: Mapping[str, str],
    origin: Mapping[str, Any],
    verified: bool,
    show: Progress,
) -> Bundle:
    parts = iter(range(2 + len(decoders)))

    def check(bundle: Bundle) -> dict[str, Any]:
        show("verify", 0, 1)
        return check_conversion(bundle, folder)

    try:
        if is_aligner(folder):  # a recogniser's comparison does not fit it
            return convert_aligner(
                folder, out, encoder=encoder, decoders=decoders, name=out.name, provenance=origin, overwrite=True
            )
        return convert(
            folder,
            out,
            encoder=encoder,
            decoders=decoders,
            name=out.name,
            provenance=origin,
            overwrite=True,
            progress=lambda part: show("convert", next(parts, 0), 2 + len(decoders)),
            check=check if verified else None,
        )
    except (CheckpointError, ExportError) as problem:
        if folder.is_relative_to(_checkpoints()):
            problem.args = (f"{problem} The download is kept in {folder}: another try does not need it again.",)
        raise


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other processes from pulling the same name; the operating system forgets the lock with the process."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.parent / f".{out.name}.lock", "a+b") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as taken:
            raise ConfigError(f"Another process is pulling {out.name!r} right now; wait for it.") from taken
        yield


def _checkpoints() -> Path:
    return models_folder().parent / "checkpoints"
