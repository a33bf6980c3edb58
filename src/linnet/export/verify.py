"""Is a bundle whole, and does it still say what its checkpoint says? Measured part by part, judged by one table.

Without a reference only the files are checked. With one, a checkpoint (converted to fp32 for the occasion) or a bundle
of higher precision, `parity.py` compares encoder and decoders on the package's sample of speech, and `verify_text.py`
the error rates on the user's own recordings. The figures are stored in `bundle.json` together with a fingerprint of the
files they belong to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import linnet
from linnet.audio import read_audio
from linnet.bundle import DESCRIPTION, Bundle, read_bundle, verify_files, write_parity
from linnet.errors import BundleError, ConfigError, ExportError
from linnet.export.parity import ATTENTIONS, FloatArray, FrameParity, LogitParity, compare_decoder, compare_encoder
from linnet.export.parity import record as listen
from linnet.export.qwen3_asr import FAMILY, convert
from linnet.export.verify_text import TextParity, compare_text
from linnet.runtime.loader import DecoderChoice, load_model, resolve

SAMPLE = Path(linnet.__file__).parent / "assets" / "sample.flac"
Progress = Callable[[float, float], None]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a part of some precision may lose against fp32, and what to try when it loses more."""

    instead: str
    min_frame_cosine: float = -1.0
    max_kl: float = float("inf")
    """Nats per token."""
    min_token_exact: float = 0.0
    max_wer_difference: float = 1.0
    """A larger one whose interval excludes zero fails."""


# Measured with int8 and int4: .0020 and .067 nats on a 0.6B of random weights (the worst case: its logits are nearly
# flat, so that a tenth of the int4 tokens are the same), .00014 and .0033 on nano. Tokens are asked for only where
# nothing is rounded to integers.
_EIGHT = {"max_kl": 0.02, "max_wer_difference": 0.01}
_FOUR = {"max_kl": 0.2, "max_wer_difference": 0.03}
_FLOAT = {"max_kl": 1e-4, "min_token_exact": 0.99, "max_wer_difference": 0.005}
LIMITS: Mapping[tuple[str, str], Limit] = MappingProxyType(
    {
        ("encoder", "fp32"): Limit(min_frame_cosine=0.9999, instead="Convert again: fp32 loses nothing."),
        ("encoder", "int8-careful"): Limit(min_frame_cosine=0.995, instead="Try --encoder fp32."),
        ("encoder", "int8"): Limit(min_frame_cosine=0.99, instead="Try --encoder int8-careful."),
        ("decoder.onnx", "fp32"): Limit(**_FLOAT, instead="Convert again: fp32 loses nothing."),
        ("decoder.onnx", "int8-careful"): Limit(**_EIGHT, instead="Try --decoder fp32."),
        ("decoder.onnx", "int8"): Limit(**_EIGHT, instead="Try --decoder int8-careful."),
        ("decoder.onnx", "int4"): Limit(**_FOUR, instead="Try --decoder int4-asym or int8."),
        ("decoder.onnx", "int4-asym"): Limit(**_FOUR, instead="Try --decoder int8."),
        ("decoder.gguf", "f32"): Limit(**_FLOAT, instead="Convert again: f32 loses nothing."),
        ("decoder.gguf", "f16"): Limit(**_FLOAT | {"max_kl": 1e-3}, instead="Try --decoder f32."),
        ("decoder.gguf", "q8_0"): Limit(**_EIGHT, instead="Try --decoder f16."),
        ("decoder.gguf", "q6_k"): Limit(**_EIGHT, instead="Try --decoder q8_0."),
        ("decoder.gguf", "q5_k_m"): Limit(**_FOUR | {"max_kl": 0.1}, instead="Try --decoder q6_k."),
        ("decoder.gguf", "q4_k_m"): Limit(**_FOUR, instead="Try --decoder q5_k_m."),
        ("decoder.gguf", "q4_0"): Limit(**_FOUR, instead="Try --decoder q4_k_m."),
        ("decoder.gguf", "q3_k_m"): Limit(**_FOUR | {"max_kl": 0.5}, instead="Try --decoder q4_k_m."),
    }
)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found."""

    bundle: Bundle
    figures: dict[str, Any]
    """What `bundle.json` now holds as parity."""
    failures: tuple[str, ...]
    """A sentence per limit that was missed; none: the bundle is good."""

    def table(self) -> str:
        """The figures as lines for a person."""
        return "".join(f"{line}\n" for line in _lines(self.figures, self.bundle.family))


def verify(
    bundle: str | Path | Bundle,
    *,
    against: str | Path | None = None,
    audio: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check every file of a bundle; compare it with `against`, and on the recordings of the manifest `audio`.

    `against` is a checkpoint folder, or a bundle (folder or name) of higher precision. Raises BundleError for a bundle
    that is not whole, ConfigError for options that cannot work, CheckpointError for an unusable checkpoint.
    """
    opened = bundle if isinstance(bundle, Bundle) else read_bundle(resolve(bundle), verify=False)
    verify_files(opened)
    if against is None:
        if audio is not None:
            raise ConfigError(
                f"Differences on {audio} need something to differ from: give --against CHECKPOINT or BUNDLE. For error "
                "rates alone: linnet evaluate BUNDLE MANIFEST"
            )
        return Verification(bundle=opened, figures=opened.parity, failures=tuple(_stale(opened)))
    with _reference(opened, against, work=opened.path.parent) as reference:
        figures = measure(opened, reference, threads=threads)
        if audio is not None:
            figures["audio"] = _compare_recordings(opened, reference, audio, threads, progress)
    kept = {key: value for key, value in opened.parity.items() if key == "weights"}
    written = write_parity(opened, kept | figures)
    return Verification(bundle=written, figures=written.parity, failures=tuple(judge(written.precision, figures)))


def check_conversion(bundle: Bundle, checkpoint: Path, *, threads: int | None = None) -> dict[str, Any]:
    """Figures of a bundle that was just written, for `convert(check=…)`; ExportError if it misses a limit."""
    with _reference(bundle, checkpoint, work=bundle.path) as reference:
        figures = measure(bundle, reference, threads=threads)
    if failures := list(judge(bundle.precision, figures)):
        raise ExportError(f"The converted model {bundle.name} is too far from its checkpoint: {' '.join(failures)}")
    return figures


def measure(bundle: Bundle, reference: Bundle, *, threads: int | None = None) -> dict[str, Any]:
    """Figures of every part of `bundle` against `reference`, on the sample that comes with the package."""
    clips = probe_clips(bundle.sample_rate_hz)
    recordings = listen(reference, clips, threads=threads)
    figures: dict[str, Any] = {"clips_s": [round(len(clip) / bundle.sample_rate_hz, 2) for clip in clips]}
    heard: list[FloatArray] = []
    for attention in reversed(ATTENTIONS):  # windowed last: that is what the decoders are given
        parity, heard = compare_encoder(bundle, recordings, attention, threads=threads)
        figures["encoder" if attention == "windowed" else f"encoder ({attention} attention)"] = _plain(parity)
    kinds: tuple[DecoderChoice, ...] = ("onnx", "gguf")
    for kind in kinds:
        if bundle.has(f"decoder.{kind}"):
            alone, together = compare_decoder(bundle, kind, recordings, heard, threads=threads)
            figures[f"decoder.{kind}"] = _plain(alone)
            figures[f"encoder + decoder.{kind}"] = _plain(together)
    figures["against"] = {"name": reference.name, "precision": reference.precision}
    figures["files"] = fingerprint(bundle)
    return figures


def judge(precision: Mapping[str, str], figures: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each figure beyond its limit; a precision that the table does not have is not judged."""
    for part, found in figures.items():
        limit = LIMITS.get((part.split(" (")[0], precision.get(part.split(" (")[0], "")))
        if limit is None:
            continue
        label = f"{part} at {precision[part.split(' (')[0]]}"
        if (cosine := found.get("min_frame_cosine", 1.0)) < limit.min_frame_cosine:
            yield f"{label}: cosine of the worst frame {cosine:.5f}, at least {limit.min_frame_cosine} is asked. " + (
                limit.instead
            )
        if not (kl := found.get("kl", 0.0)) <= limit.max_kl:
            yield f"{label}: {kl:.2g} nats from the reference per token, at most {limit.max_kl:g} is asked. " + (
                limit.instead
            )
        if (exact := found.get("token_exact", 1.0)) < limit.min_token_exact:
            yield (
                f"{label}: {exact:.1%} of the tokens are the same, at least {limit.min_token_exact:.0%} is asked. "
                + (limit.instead)
            )
    yield from _judge_text(precision, figures.get("audio", ()))


def fingerprint(bundle: Bundle) -> str:
    """SHA-256 over names and checksums of all files: figures measured with other files do not count."""
    listed = "".join(f"{file.name}\0{file.sha256}\n" for file in sorted(bundle.files, key=lambda file: file.name))
    return hashlib.sha256(listed.encode()).hexdigest()


def probe_clips(rate_hz: int) -> list[FloatArray]:
    """Half a second from the middle of the sample, the sample, and 20 s of it: one, several and a cut-off window."""
    speech = read_audio(SAMPLE, sample_rate_hz=rate_hz)
    middle, gap = len(speech) // 2, np.zeros(rate_hz, np.float32)
    long = np.concatenate([part for gain in (1.0, 0.3, 0.1, 1.0, 0.5, 0.7) for part in (gain * speech, gap)])
    return [speech[middle : middle + rate_hz // 2], speech, long[: 20 * rate_hz].astype(np.float32)]


def _stale(bundle: Bundle) -> Iterator[str]:
    if bundle.family != FAMILY:
        return
    measured = bundle.parity.get("files")
    if measured is not None and measured != fingerprint(bundle):
        yield (
            f"{bundle.path}: the stored figures were measured with other files: the bundle was altered after its "
            "verification. Verify it again: linnet verify BUNDLE --against CHECKPOINT"
        )
    elif measured is not None:
        yield from judge(bundle.precision, bundle.parity)


@contextmanager
def _reference(bundle: Bundle, against: str | Path, *, work: Path) -> Iterator[Bundle]:
    """`against` as a bundle: itself, or a temporary conversion to fp32 inside the folder `work`."""
    if bundle.family != FAMILY:
        raise ConfigError(
            f"Bundle {bundle.path} is of family {bundle.family!r}; figures against a checkpoint exist for {FAMILY!r}. "
            "Leave --against out to check its files."
        )
    folder = Path(against).expanduser()
    if (folder / "config.json").is_file() and not (folder / DESCRIPTION).is_file():
        if "adapter" in bundle.provenance:
            raise ConfigError(
                f"{bundle.name} has an adapter inside, so it differs from its checkpoint on purpose. Compare it "
                "with an fp32 bundle of the same adapter."
            )
        with tempfile.TemporaryDirectory(prefix=".linnet-fp32-", dir=work) as temporary:
            name = folder.resolve().name
            out = Path(temporary) / "fp32"
            reference = convert(folder, out, encoder="fp32", decoders={"onnx": "fp32"}, name=name)
            _check_same_model(bundle, reference)
            yield reference
        return
    try:
        reference = read_bundle(resolve(against), verify=False)
    except BundleError as problem:
        raise ConfigError(
            f"--against {against} is neither a checkpoint folder (config.json and safetensors) nor a bundle. {problem}"
        ) from problem
    _check_same_model(bundle, reference)
    yield reference


def _check_same_model(bundle: Bundle, reference: Bundle) -> None:
    if bundle.model != reference.model or bundle.features != reference.features:
        different = sorted(key for key, value in bundle.model.items() if reference.model.get(key) != value)
        raise ConfigError(
            f"{bundle.name} and {reference.name} are different networks ({', '.join(different) or 'features'}); "
            "compare a bundle with the checkpoint it was made from."
        )


def _compare_recordings(
    bundle: Bundle, reference: Bundle, audio: str | Path, threads: int | None, progress: Progress | None
) -> list[dict[str, Any]]:
    ours, theirs = load_model(bundle.path, threads=threads), load_model(reference.path, threads=threads)
    try:
        return [_plain(row) for row in compare_text(ours, theirs, audio, progress=progress)]
    finally:
        ours.close()
        theirs.close()


def _judge_text(precision: Mapping[str, str], rows: object) -> Iterator[str]:
    if not isinstance(rows, list | tuple):
        return
    part = "decoder.onnx" if "decoder.onnx" in precision else "decoder.gguf"  # the one that load_model takes
    limit = LIMITS.get((part, precision.get(part, "")))
    for row in rows:
        more, low = row.get("wer_difference"), row.get("wer_low")
        if limit is not None and more is not None and more > limit.max_wer_difference and low > 0:
            yield (
                f"text ({row['language']}): {more:+.2%} word errors against the reference, interval from {low:+.2%} to "
                f"{row['wer_high']:+.2%}; at most {limit.max_wer_difference:+.1%} is asked. {limit.instead}"
            )


def _plain(figures: FrameParity | LogitParity | TextParity) -> dict[str, Any]:
    """JSON values with as many digits as mean something."""
    return {
        key: float(f"{value:.6g}") if isinstance(value, float) else value
        for key, value in dataclasses.asdict(figures).items()
    }


def _lines(figures: Mapping[str, Any], family: str) -> Iterator[str]:
    if family != FAMILY:  # what the exports of other families store is theirs
        yield from (f"{part}: {found}" for part, found in figures.items())
        return
    for part, found in figures.items():
        if part == "audio":
            for row in found:
                yield _text_line(row)
        elif isinstance(found, dict) and "min_frame_cosine" in found:
            yield (
                f"{part}: worst frame's cosine {found['min_frame_cosine']:.6f}, largest difference "
                f"{found['max_abs']:.3g}, relative RMS {found['relative_rms']:.3g} ({found['frames']} frames)"
            )
        elif isinstance(found, dict) and "token_exact" in found:
            yield (
                f"{part}: {found['token_exact']:.1%} of {found['tokens']} tokens the same, {found['kl']:.3g} nats per "
                f"token, largest difference {found['max_abs']:.3g}"
            )
        elif part == "weights":
            for name, row in found.items():
                yield (
                    f"weights of {name}: relative error {row['median_relative_rms']:.4f} (median of {row['tensors']}), "
                    f"worst {row['worst_relative_rms']:.4f} in {row['worst']}"
                )
        elif part == "against":
            precision = ", ".join(f"{key} {value}" for key, value in found["precision"].items())
            yield f"against {found['name']} ({precision})"


def _text_line(row: Mapping[str, Any]) -> str:
    if row["wer"] is None:
        disagreement = "no words" if row["disagreement"] is None else f"{row['disagreement']:.2%} of the words differ"
        return f"text ({row['language']}): {disagreement} from the reference; no transcripts"
    return (
        f"text ({row['language']}): WER {row['wer']:.2%}, reference {row['reference_wer']:.2%}, difference "
        f"{row['wer_difference']:+.2%} [{row['wer_low']:+.2%}, {row['wer_high']:+.2%}], CER difference "
        f"{row['cer_difference']:+.2%} [{row['cer_low']:+.2%}, {row['cer_high']:+.2%}] ({row['utterances']} recordings)"
    )
