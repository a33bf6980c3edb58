"""`linnet info`: what a bundle, run folder, checkpoint, manifest, recording or `.bsq` file is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from linnet.bundle import DESCRIPTION, read_bundle
from linnet.errors import CheckpointError
from linnet.manifest import Utterance, read_manifest
from linnet.runtime.loader import resolve

Kind = Literal["bundle", "run", "checkpoint", "manifest", "codes", "audio", "unknown"]


def describe(name_or_path: str, *, as_json: bool = False) -> str:
    """The description as aligned lines, or as one JSON object; LinnetError if there is nothing readable there."""
    facts = inspect(name_or_path)
    if as_json:
        return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    lines = [(key.replace("_", " "), _text(value)) for key, value in facts.items() if value not in (None, {}, [], "")]
    width = max(len(key) for key, _ in lines)
    return "".join(f"{key.ljust(width)}  {value}\n" for key, value in lines)


def inspect(name_or_path: str) -> dict[str, Any]:
    """The same as JSON values; `kind` says what it is."""
    path = Path(name_or_path)
    kind = kind_of(path)
    if kind == "run":
        return {"kind": kind} | _run(path)
    if kind == "checkpoint":
        return {"kind": kind} | _checkpoint(path)
    if kind == "manifest":
        return {"kind": kind} | _manifest(path)
    if kind == "codes":
        return {"kind": kind} | _codes(path)
    if kind == "audio":
        return {"kind": kind} | _audio(path)
    return {"kind": "bundle"} | _bundle(resolve(name_or_path))  # by name, or an error that says what would do


def kind_of(path: Path) -> Kind:
    """What lies at a path, from the names of the files alone; "unknown" also if nothing does."""
    if path.is_file():
        return {".jsonl": "manifest", ".bsq": "codes"}.get(path.suffix, "audio")  # type: ignore[return-value]
    if (path / DESCRIPTION).is_file():
        return "bundle"
    if (path / "config.json").is_file():
        if (path / "checkpoints").is_dir() or (path / "metrics.jsonl").is_file():
            return "run"
        if any(path.glob("*.safetensors")):
            return "checkpoint"
    return "unknown"


def _bundle(folder: Path) -> dict[str, Any]:
    bundle = read_bundle(folder)
    return {
        "path": str(folder),
        "name": bundle.name,
        "family": bundle.family,
        "size_mb": round(bundle.size_bytes / 1e6, 2),
        "precision": bundle.precision,
        "sample_rate_hz": bundle.sample_rate_hz,
        "languages": list(bundle.languages),
        "model": bundle.model,
        "files": {file.name: file.size_bytes for file in bundle.files},
        "provenance": bundle.provenance,
        "parity": bundle.parity,
    }


def _run(folder: Path) -> dict[str, Any]:
    """Read without torch; `linnet.train.run_folder` is what writes these files."""
    config = _json(folder / "config.json")
    lines = _lines(folder / "metrics.jsonl")
    return {
        "path": str(folder),
        "family": config.get("family"),
        "steps": f"{lines[-1].get('step', 0) if lines else 0} of {config.get('steps')}",
        "checkpoints": sorted(found.parent.name for found in folder.glob("checkpoints/*/model.safetensors")),
        "last_log": lines[-1] if lines else None,
        "meta": _json(folder / "meta.json") if (folder / "meta.json").is_file() else None,
        "config": config,
    }


def _checkpoint(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    return {
        "path": str(folder),
        "architecture": config.get("architectures") or config.get("model_type"),
        "size_mb": round(sum(file.stat().st_size for file in weights) / 1e6, 2),
        "files": {file.name: file.stat().st_size for file in weights},
        "next": f"linnet export {folder} BUNDLE",
    }


def _manifest(path: Path) -> dict[str, Any]:
    utterances = read_manifest(path)
    corpora = dict.fromkeys(utterance.corpus for utterance in utterances)
    return {
        "path": str(path),
        **_summary(utterances),
        "missing_files": sum(not utterance.audio_path.is_file() for utterance in utterances),
        "corpora": {
            corpus or "(unnamed)": _summary([one for one in utterances if one.corpus == corpus]) for corpus in corpora
        },
    }


def _summary(utterances: Sequence[Utterance]) -> dict[str, Any]:
    return {
        "utterances": len(utterances),
        "with_text": sum(utterance.text is not None for utterance in utterances),
        "audio_s": round(sum(utterance.duration_s for utterance in utterances), 1),
        "speakers": len({utterance.speaker for utterance in utterances} - {None}),
        "languages": dict(Counter(utterance.language or "(none)" for utterance in utterances)),
    }


def _audio(path: Path) -> dict[str, Any]:
    from linnet.audio import audio_info

    found = audio_info(path)
    return {
        "path": str(path),
        "format": found.format,
        "duration_s": None if found.duration_s is None else round(found.duration_s, 3),
        "sample_rate_hz": found.sample_rate_hz,
        "channels": found.channels,
        "size_bytes": path.stat().st_size,
    }


def _codes(path: Path) -> dict[str, Any]:
    from linnet.codes import Codes

    codes, size_bytes = Codes.load(path), path.stat().st_size
    return {
        "path": str(path),
        "model": codes.model,
        "fingerprint": codes.fingerprint,
        "duration_s": round(codes.duration_s, 3),
        "sample_rate_hz": codes.sample_rate_hz,
        "tokens": len(codes.ids),
        "bits_per_token": codes.bits,
        "nominal_bits_per_s": codes.nominal_bits_per_s,
        "size_bytes": size_bytes,
        "bits_per_s": round(8 * size_bytes / max(codes.duration_s, 1e-9), 1),
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); restore it.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, expected an object; restore it.")
    return data


def _lines(path: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl; an incomplete last line of a run that is being written is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    records = []
    for line in text.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(item)}" if not isinstance(item, dict) else f"{key} ({_text(item)})"
                         for key, item in value.items())  # fmt: skip
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
