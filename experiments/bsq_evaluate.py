"""How decoded audio sounds, in numbers: a tokenizer beside its bounds and other codecs, in one table.

    python experiments/bsq_evaluate.py BUNDLE --manifest test.jsonl --limit 8 --json results/bsq.json

Systems: the bundle through its waveform head and through Griffin-Lim; Griffin-Lim from the unquantised log-mel (what
that path could reach at best); Opus at 6, 8 and 12 kbit/s (libsndfile); 8-bit µ-law at 16 kHz.

Columns: distance of log-mel (dB, mean over 80 bands and frames), SI-SDR (dB; meaningless for Griffin-Lim, whose phases
are guessed), STOI, PESQ (wide band), word error rate of our own recogniser on the decoded audio minus that on the
original (dWER, on spoken digits, the only corpus where that recogniser is good), bit/s of the file, of the payload, and
nominal, RTF of both directions. Means over clips with 95 % bootstrap intervals in the JSON. Needs pystoi and pesq.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from pesq import NoUtterancesError, pesq
from pystoi import stoi

from linnet.audio import read_audio
from linnet.environment import provenance, version
from linnet.errors import AudioContentError
from linnet.features import log_mel
from linnet.manifest import Utterance, read_manifest
from linnet.metrics import bootstrap_interval, si_sdr, wer
from linnet.range_coder import compress
from linnet.runtime.bsq import BSQCodec
from linnet.runtime.bsq_config import SPEECH
from linnet.runtime.istft import griffin_lim
from linnet.runtime.loader import load_codec, load_model

FloatArray = npt.NDArray[np.float32]
RATE_HZ = 16_000
DIGITS = "fsdd"
DB = 10 / math.log(10)


@dataclass(frozen=True)
class Coded:
    """What a system made of one clip; sizes in bytes, None where there is nothing to send."""

    samples: FloatArray
    file_bytes: int | None
    payload_bytes: int | None
    seconds: float


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--corpora", nargs="+", default=["speechocean762", "librispeech_dev_clean", "ljspeech", DIGITS])
    parser.add_argument("--limit", type=int, default=8, help="clips per corpus, spread over it")
    parser.add_argument("--digits", type=int, default=60, help="clips of spoken digits for dWER")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=Path("results/bsq.json"))
    options = parser.parse_args()

    codec = load_codec(options.bundle, threads=options.threads)
    everything = read_manifest(options.manifest)
    clips = [clip for corpus in options.corpora for clip in spread(everything, corpus, options.limit)]
    digits = spread(everything, DIGITS, options.digits)
    systems = all_systems(codec)
    nominal = {name: codec.config.bits_per_s for name in systems if name.startswith(codec.bundle.name)}
    report = {
        "bundle": codec.bundle.name,
        "fingerprint": codec.fingerprint,
        "run": codec.bundle.provenance.get("run", {}).get("step"),
        "manifest": options.manifest.name,
        "clips": len(clips),
        "seconds": sum(clip.duration_s for clip in clips),
        "systems": {name: measure(clips, system, nominal.get(name)) for name, system in systems.items()},
        "code": code_use(codec, clips),
        "environment": {**provenance(), "pesq": version("pesq"), "pystoi": version("pystoi")},
    }
    for name, rates in digit_errors(digits, systems).items():
        report["systems"][name] |= rates  # type: ignore[index]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report["systems"]))  # type: ignore[arg-type]
    print(json.dumps(report["code"]))


def all_systems(codec: BSQCodec) -> dict[str, Callable[[FloatArray], Coded]]:
    """Every system by name."""
    name = codec.bundle.name

    def tokens(vocoder: Any) -> Callable[[FloatArray], Coded]:
        def run(samples: FloatArray) -> Coded:
            started = time.perf_counter()
            codes = codec.encode(samples)
            content, payload = codes.to_bytes(), compress(codes.to_bits())
            sound = codec.decode(codes, vocoder=vocoder)
            return Coded(sound, len(content), len(payload), time.perf_counter() - started)

        return run

    systems = {f"{name}, waveform head": tokens("head")} if codec.config.waveform_channels else {}
    systems[f"{name}, Griffin-Lim"] = tokens("griffin-lim")
    systems["Griffin-Lim of the unquantised log-mel"] = unquantised
    for kbit in (6, 8, 12):
        systems[f"Opus {kbit} kbit/s"] = opus(kbit)
    systems["µ-law 8 bit"] = mu_law
    return systems


def unquantised(samples: FloatArray) -> Coded:
    """The log-mel as it is, phases guessed."""
    started = time.perf_counter()
    whole = np.pad(samples, (0, -len(samples) % SPEECH.hop_length))
    sound = griffin_lim(log_mel(whole, SPEECH).T, SPEECH)[: len(samples)]
    return Coded(sound, None, None, time.perf_counter() - started)


def opus(kbit: int) -> Callable[[FloatArray], Coded]:
    """libsndfile's compression level runs from 256 kbit/s (0) to 6 (1)."""

    def run(samples: FloatArray) -> Coded:
        started, file = time.perf_counter(), io.BytesIO()
        level = 1 - (kbit - 6) / 250
        soundfile.write(file, samples, RATE_HZ, format="OGG", subtype="OPUS", compression_level=level)
        size = file.tell()
        file.seek(0)
        sound = soundfile.read(file, dtype="float32")[0][: len(samples)]
        return Coded(np.pad(sound, (0, len(samples) - len(sound))), size, None, time.perf_counter() - started)

    return run


def mu_law(samples: FloatArray) -> Coded:
    """G.711's curve, one byte per sample."""
    started = time.perf_counter()
    companded = np.sign(samples) * np.log1p(255 * np.minimum(np.abs(samples), 1)) / np.log(256)
    coarse = np.round(companded * 127) / 127
    sound = (np.sign(coarse) * (256 ** np.abs(coarse) - 1) / 255).astype(np.float32)
    return Coded(sound, len(samples), len(samples), time.perf_counter() - started)


def measure(clips: list[Utterance], system: Callable[[FloatArray], Coded], nominal: float | None) -> dict[str, Any]:
    """Means and intervals over clips; a figure that a clip is too short for is left out and counted."""
    found: dict[str, list[float]] = defaultdict(list)
    seconds = audio_s = file_bytes = payload_bytes = 0.0
    for clip in clips:
        samples = read_audio(clip.audio_path)
        coded = system(samples)
        seconds, audio_s = seconds + coded.seconds, audio_s + len(samples) / RATE_HZ
        file_bytes += coded.file_bytes or 0
        payload_bytes += coded.payload_bytes or 0
        for name, value in distances(samples, coded.samples).items():
            found[name].append(value)
    row: dict[str, Any] = {}
    for name, values in found.items():
        usable = [value for value in values if math.isfinite(value)]
        low, high = bootstrap_interval(usable, np.ones(len(usable))) if usable else (math.nan, math.nan)
        row[name] = {"mean": float(np.mean(usable)), "low": low, "high": high, "clips": len(usable)}
    row["bits_per_s"] = 8 * file_bytes / audio_s if file_bytes else None
    row["payload_bits_per_s"] = 8 * payload_bytes / audio_s if payload_bytes else None
    row["nominal_bits_per_s"] = nominal
    row["rtf"] = seconds / audio_s
    return row


def distances(reference: FloatArray, estimate: FloatArray) -> dict[str, float]:
    """All figures of one clip; NaN where one cannot be computed."""
    whole = [np.pad(wave, (0, -len(wave) % SPEECH.hop_length)) for wave in (reference, estimate)]
    mels = [np.maximum(log_mel(wave, SPEECH), -13.8) for wave in whole]  # −60 dB: quieter is silence to everybody
    figures = {"mel_db": DB * float(np.abs(mels[0] - mels[1]).mean())}
    try:
        figures["si_sdr_db"] = si_sdr(reference, estimate)
    except AudioContentError:
        figures["si_sdr_db"] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and gives 1e-5 if a clip is too short
        try:
            figures["stoi"] = float(stoi(reference, estimate, RATE_HZ))
        except (RuntimeWarning, ValueError):
            figures["stoi"] = math.nan
    try:
        figures["pesq"] = float(pesq(RATE_HZ, reference, estimate, "wb"))
    except (NoUtterancesError, ValueError, RuntimeError):
        figures["pesq"] = math.nan
    return figures


def digit_errors(
    clips: list[Utterance], systems: dict[str, Callable[[FloatArray], Coded]]
) -> dict[str, dict[str, float]]:
    """WER of nano on decoded digits, and its difference from WER on the originals."""
    recognizer = load_model("nano")
    references = [clip.text or "" for clip in clips]
    originals = [read_audio(clip.audio_path) for clip in clips]

    def rate(sounds: list[FloatArray]) -> float:
        texts = [recognizer.transcribe(sound, language="en").text for sound in sounds]
        return wer(references, texts, language="en").rate

    base = rate(originals)
    rates = {name: rate([system(samples).samples for samples in originals]) for name, system in systems.items()}
    return {name: {"wer": value, "dwer": value - base, "wer_original": base} for name, value in rates.items()}


def code_use(codec: BSQCodec, clips: list[Utterance]) -> dict[str, float]:
    """How much of the code is used, and what all clips cost when coded as one stream."""
    bits = np.concatenate([codec.encode(clip.audio_path).to_bits() for clip in clips])
    share = np.clip(bits.mean(0), 1e-9, 1 - 1e-9)
    entropy = float(-(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum())
    groups = bits.reshape(len(bits), -1, 9) @ (1 << np.arange(8, -1, -1))
    used = [len(np.unique(groups[:, i])) / min(512, len(groups)) for i in range(groups.shape[1])]
    return {
        "tokens": len(bits),
        "distinct_tokens": len(np.unique(bits, axis=0)) / len(bits),
        "used_of_each_9_bits": float(np.mean(used)),
        "bits_per_token": codec.config.bits,
        "bit_entropy_per_token": entropy,
        "coded_bits_per_token": 8 * len(compress(bits)) / len(bits),
        "coded_bits_per_s": 8 * len(compress(bits)) / len(bits) * codec.config.tokens_per_s,
    }


def spread(utterances: list[Utterance], corpus: str, count: int) -> list[Utterance]:
    """Up to `count` clips of a corpus, from all over it."""
    chosen = [utterance for utterance in utterances if utterance.corpus == corpus]
    return chosen[:: max(1, len(chosen) // count)][:count]


def table(systems: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| system | log-mel dB | SI-SDR dB | STOI | PESQ | dWER % | bit/s file | payload | nominal | RTF |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in systems.items():
        quality = [f"{row[key]['mean']:.{digits}f}" for key, digits in
                   (("mel_db", 2), ("si_sdr_db", 1), ("stoi", 3), ("pesq", 2))]  # fmt: skip
        rates = ["–" if row[key] is None else f"{row[key]:.0f}"
                 for key in ("bits_per_s", "payload_bits_per_s", "nominal_bits_per_s")]  # fmt: skip
        lines.append(
            "| " + " | ".join([name, *quality, f"{100 * row['dwer']:+.1f}", *rates, f"{row['rtf']:.3f}"]) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
