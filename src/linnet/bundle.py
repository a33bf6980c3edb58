"""The bundle: a folder that holds one model and `bundle.json`, the only thing training and runtime share.

    bundles/<name>/
      bundle.json      format_version, name, family, model, features, precision, languages, files, provenance, parity
      encoder.onnx …   every other file, listed in `files` with its size and SHA-256

Nothing in a bundle is executable and nothing is pickled. `bundle.json` is written last and atomically, so a folder
without it is never taken for a bundle. Names are relative, with forward slashes; one that leaves the folder is refused.

What is checked when: `read_bundle` compares every file's size, and the SHA-256 of files up to 64 MiB, so that opening a
bundle of gigabytes stays quick while graphs and vocabularies are always checked; `verify_files` hashes everything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from linnet.errors import BundleCorruptError, BundleError, BundleNotFoundError, BundleVersionError, ConfigError
from linnet.features import FeatureSpec

FORMAT_VERSION = 1
DESCRIPTION = "bundle.json"
HASH_ON_OPEN_BYTES = 64 << 20  # about 0.1 s of SHA-256 on a slow core

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """One file of a bundle."""

    name: str
    """Path relative to the bundle's folder, with forward slashes."""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle; its files exist and have the sizes that were written."""

    path: Path
    name: str
    family: str
    """Which runtime reads it: `qwen3_asr`, `qwen3_aligner`, `wav2vec2`, `bsq`, `avsr`."""
    model: dict[str, Any]
    """Numbers of the network, in the family's own names."""
    features: FeatureSpec
    precision: dict[str, str]
    """Weight format per part, e.g. {"encoder": "int8", "decoder.onnx": "int8"}."""
    languages: tuple[str, ...]
    """Language codes the model was made for."""
    files: tuple[BundleFile, ...]
    provenance: dict[str, Any]
    """Where the weights come from: run or checkpoint, commit, data, licences."""
    parity: dict[str, Any]
    """Measured differences between this bundle and the model it was made from."""

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the samples the model reads."""
        return self.features.sample_rate_hz

    @property
    def size_bytes(self) -> int:
        """Size of all listed files."""
        return sum(file.size_bytes for file in self.files)

    def has(self, name: str) -> bool:
        """Whether the bundle lists a file of this name."""
        return any(file.name == name for file in self.files)

    def file(self, name: str) -> Path:
        """Path of a listed file; raises BundleError if the bundle does not carry it."""
        if not self.has(name):
            raise BundleError(
                f"Bundle {self.name!r} has no file {name!r}; it has {', '.join(file.name for file in self.files)}. "
                "Export it again with that part, or choose another bundle."
            )
        return self.path / name


def write_bundle(
    folder: str | Path,
    *,
    name: str,
    family: str,
    model: Mapping[str, Any],
    features: FeatureSpec,
    precision: Mapping[str, str],
    languages: Sequence[str],
    provenance: Mapping[str, Any],
    parity: Mapping[str, Any],
) -> Bundle:
    """Describe the files that already lie in `folder`: hash them all, write `bundle.json` last.

    Raises BundleError if the folder is empty or holds a link or another special file.
    """
    folder = Path(folder)
    files = [_describe(path, folder) for path in sorted(folder.rglob("*")) if not _is_ignored(path, folder)]
    if not files:
        raise BundleError(f"Nothing to bundle: {folder} holds no files. Write the model's files there first.")
    description = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "family": family,
        "model": dict(model),
        "features": dataclasses.asdict(features),
        "precision": dict(precision),
        "languages": list(languages),
        "files": [{"name": file.name, "sha256": file.sha256, "bytes": file.size_bytes} for file in files],
        "provenance": dict(provenance),
        "parity": dict(parity),
    }
    _write_description(folder, description)
    return read_bundle(folder, verify=False)


def write_parity(bundle: Bundle, parity: Mapping[str, Any]) -> Bundle:
    """Replace the parity figures in `bundle.json`, atomically, and nothing else; returns the bundle with them."""
    description = json.loads((bundle.path / DESCRIPTION).read_text(encoding="utf-8"))
    _write_description(bundle.path, description | {"parity": dict(parity)})
    return dataclasses.replace(bundle, parity=dict(parity))


def read_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Open the bundle in folder `path`.

    Sizes are always compared; `verify` adds the SHA-256 of files up to 64 MiB (`verify_files` checks the rest).
    Raises BundleNotFoundError, BundleVersionError (written by a newer Linnet), or BundleCorruptError (malformed
    description, file missing, altered or outside the folder).
    """
    path = Path(path)
    try:
        text = (path / DESCRIPTION).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        state = "has no bundle.json" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
        raise BundleNotFoundError(
            f"No bundle at {path}: it {state}. Give a folder that holds {DESCRIPTION}, as `linnet export` writes it."
        ) from None
    except UnicodeDecodeError as problem:
        raise _corrupt(path, f"it is not UTF-8 text ({problem.reason})") from problem
    bundle = _parse(path, text)
    for file in bundle.files:
        _check(bundle, file, hashed=verify and file.size_bytes <= HASH_ON_OPEN_BYTES)
    return bundle


def verify_files(bundle: Bundle) -> None:
    """Compare the SHA-256 of every file, whatever its size; raises BundleCorruptError naming the first that differs."""
    for file in bundle.files:
        _check(bundle, file, hashed=True)


def _write_description(folder: Path, description: Mapping[str, Any]) -> None:
    text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    partial = folder / (DESCRIPTION + ".partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, folder / DESCRIPTION)
    finally:
        partial.unlink(missing_ok=True)


def _is_ignored(path: Path, folder: Path) -> bool:
    own = path.parent == folder and path.name in (DESCRIPTION, DESCRIPTION + ".partial")
    return own or (path.is_dir() and not path.is_symlink())


def _describe(path: Path, folder: Path) -> BundleFile:
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"{path} is a link or a special file; a bundle holds plain files only. Copy its content there."
        )
    name = path.relative_to(folder).as_posix()
    return BundleFile(name=name, sha256=_sha256(path), size_bytes=path.stat().st_size)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(bundle: Bundle, file: BundleFile, *, hashed: bool) -> None:
    path = bundle.path / file.name
    repair = "Export the bundle again or download it anew."
    if not path.is_file():
        raise BundleCorruptError(f"Bundle {bundle.path} lists {file.name}, but that file is missing. {repair}")
    if not path.resolve().is_relative_to(bundle.path.resolve()):
        raise BundleCorruptError(f"{path} is a link that leaves the bundle's folder, which is refused. {repair}")
    size = path.stat().st_size
    if size != file.size_bytes:
        raise BundleCorruptError(f"{path} was altered: it has {size} bytes, expected {file.size_bytes}. {repair}")
    if hashed and (digest := _sha256(path)) != file.sha256:
        raise BundleCorruptError(
            f"{path} was altered: its SHA-256 is {digest[:12]}…, expected {file.sha256[:12]}…. {repair}"
        )


def _parse(path: Path, text: str) -> Bundle:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as problem:
        raise _corrupt(path, f"it is not JSON ({problem})") from problem
    if not isinstance(data, dict):
        raise _corrupt(path, f"it holds a {type(data).__name__}, expected an object")
    version = _field(path, data, "format_version", int)
    if version > FORMAT_VERSION:
        raise BundleVersionError(
            f"Bundle {path} has format_version {version}; this Linnet reads up to {FORMAT_VERSION}. "
            "Upgrade Linnet: pip install --upgrade linnet"
        )
    if version < 1:
        raise _corrupt(path, f"format_version is {version}; accepted: 1…{FORMAT_VERSION}")
    bundle = Bundle(
        path=path,
        name=_field(path, data, "name", str),
        family=_field(path, data, "family", str),
        model=_field(path, data, "model", dict),
        features=_features(path, _field(path, data, "features", dict)),
        precision=_field(path, data, "precision", dict),
        languages=tuple(str(language) for language in _field(path, data, "languages", list)),
        files=tuple(_file(path, entry) for entry in _field(path, data, "files", list)),
        provenance=_field(path, data, "provenance", dict),
        parity=_field(path, data, "parity", dict),
    )
    known = {"format_version"} | {field.name for field in dataclasses.fields(Bundle)} - {"path"}
    if unknown := data.keys() - known:
        raise _corrupt(path, f"unknown keys {sorted(unknown)}")
    names = [file.name for file in bundle.files]
    if not names or len(set(names)) != len(names):
        raise _corrupt(path, "`files` is empty or lists a name twice")
    return bundle


def _file(path: Path, entry: object) -> BundleFile:
    if not isinstance(entry, dict) or entry.keys() != {"name", "sha256", "bytes"}:
        raise _corrupt(path, f"an entry of `files` is {entry!r}, expected an object with name, sha256 and bytes")
    name = _field(path, entry, "name", str)
    parts = PurePosixPath(name).parts
    # Backslashes and colons would be separators and drives on Windows.
    if not parts or name.startswith("/") or ".." in parts or set(name) & {"\\", ":", "\0"} or name == DESCRIPTION:
        raise _corrupt(path, f"the file name {name!r} leaves the bundle's folder or is not a plain relative path")
    size_bytes = _field(path, entry, "bytes", int)
    return BundleFile(name=name, sha256=_field(path, entry, "sha256", str), size_bytes=size_bytes)


def _features(path: Path, data: dict[str, Any]) -> FeatureSpec:
    expected = {field.name for field in dataclasses.fields(FeatureSpec)}
    if data.keys() != expected:
        raise _corrupt(path, f"`features` has keys {sorted(data)}, expected {sorted(expected)}")
    for name in sorted(expected - {"log"}):
        if isinstance(data[name], bool) or not isinstance(data[name], int | float):
            raise _corrupt(path, f"`features.{name}` is {data[name]!r}, expected a number")
    if data["log"] not in ("whisper", "natural"):
        raise _corrupt(path, f"`features.log` is {data['log']!r}, expected 'whisper' or 'natural'")
    try:
        return FeatureSpec(**data)
    except ConfigError as problem:
        raise _corrupt(path, f"`features` cannot work ({problem})") from problem


def _field(path: Path, data: Mapping[str, Any], key: str, kind: type[T]) -> T:
    if key not in data:
        raise _corrupt(path, f"the key {key!r} is missing")
    value = data[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _corrupt(path, f"{key!r} is {value!r}, expected {kind.__name__}")
    return value


def _corrupt(path: Path, what: str) -> BundleCorruptError:
    return BundleCorruptError(
        f"{path / DESCRIPTION} is malformed: {what}. Export the bundle again or download it anew."
    )
