"""Pictures of the tokenizer: spectrograms before and after, and quality against bits.

    python figures/bsq.py --bundle BUNDLE --clip samples/en-adult.flac

Writes docs/images/bsq_spectrogram.png from the bundle and a recording, and docs/images/bsq_bits.png from
results/bsq_ablation.json (only arms with at least one finished seed; error bars are standard deviations over seeds).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from linnet.audio import read_audio
from linnet.features import log_mel
from linnet.runtime.bsq_config import SPEECH
from linnet.runtime.loader import load_codec

ROOT = Path(__file__).parents[1]
DB = 10 / np.log(10)


def main() -> None:
    """Draw what there is data for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--clip", type=Path, default=ROOT / "samples" / "en-adult.flac")
    parser.add_argument("--ablation", type=Path, default=ROOT / "results" / "bsq_ablation.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.bundle:
        spectrogram(options.bundle, options.clip, options.out / "bsq_spectrogram.png")
    if options.ablation.exists():
        bits(json.loads(options.ablation.read_text()), options.out / "bsq_bits.png")


def spectrogram(bundle: Path, clip: Path, out: Path) -> None:
    """The recording, and what the tokens make of it by both vocoders."""
    codec, samples = load_codec(bundle), read_audio(clip)
    codes = codec.encode(samples)
    sounds = {"recording": samples}
    for vocoder, title in (("head", "decoded, waveform head"), ("griffin-lim", "decoded, Griffin-Lim")):
        if vocoder == "griffin-lim" or codec.config.waveform_channels:
            sounds[f"{title} ({codes.nominal_bits_per_s:.0f} bit/s)"] = codec.decode(codes, vocoder=vocoder)  # type: ignore[arg-type]
    figure, axes = plt.subplots(len(sounds), 1, figsize=(9, 2.1 * len(sounds)), sharex=True, constrained_layout=True)
    for axis, (title, sound) in zip(np.atleast_1d(axes), sounds.items(), strict=True):
        picture = DB * log_mel(sound, SPEECH)
        drawn = axis.imshow(
            picture, origin="lower", aspect="auto", vmin=-80, vmax=10, extent=(0, len(sound) / 16_000, 0, SPEECH.n_mels)
        )
        axis.set(title=title, ylabel="mel band")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(drawn, ax=axes, label="dB")
    figure.savefig(out, dpi=110)


def bits(report: dict, out: Path) -> None:  # type: ignore[type-arg]
    """Distance of the log-mel against nominal bitrate, and the two other changes beside the preset."""
    arms = {name: row for name, row in report["arms"].items() if row["seeds"]}
    figure, axis = plt.subplots(figsize=(6.5, 4), constrained_layout=True)
    for figure_name, label in (("dev_mel_db", "decoder's log-mel"), ("dev_wave_mel_db", "log-mel of the wave")):
        points = [(int(name.split()[0]) * 50, row[figure_name]) for name, row in arms.items() if "," not in name]
        points.sort(key=lambda point: point[0])
        errors = [point["sd"] or 0 for _, point in points]
        axis.errorbar(
            [rate for rate, _ in points], [p["mean"] for _, p in points], errors, marker="o", capsize=3, label=label
        )
    for name, row in arms.items():
        if "," in name:
            rate = int(name.split()[0]) * 50
            axis.plot(rate, row["dev_mel_db"]["mean"], "x")
            axis.annotate(name.split(", ")[1], (rate, row["dev_mel_db"]["mean"]), textcoords="offset points",
                          xytext=(-6, 0), ha="right", fontsize=8)  # fmt: skip
    seeds = " to ".join(map(str, sorted({len(row["seeds"]) for row in arms.values()})))
    axis.set(
        xlabel="nominal bit/s", ylabel="log-mel distance, dB",
        title=f"bsq-tiny after {report['steps']} updates, {seeds} seeds",
    )  # fmt: skip
    axis.legend(loc="lower left")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
