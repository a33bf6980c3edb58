"""What noise does to a recording and to the encoder: waveform, spectrum, spectrogram; hidden states in two dimensions.

    python figures/speech.py AUDIO [--model RUN_OF_AN_ADAPTER] [--snr-db 5] [--out docs/images]

With an adapter's run folder, the 2-D spectrum of the encoder's output before and after the adapter is drawn as well.
Each figure is written as PNG and PDF. Needs matplotlib, and torch for the second.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from linnet.audio import read_audio
from linnet.denoise import spectral_subtraction
from linnet.features import WHISPER_128, log_mel
from linnet.noise import mix_at_snr, pink

RATE_HZ, SEED = 16_000, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--snr-db", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams |= {"font.size": 9, "figure.dpi": 150}
    speech, rng = read_audio(options.audio, sample_rate_hz=RATE_HZ), np.random.default_rng(SEED)
    noisy = mix_at_snr(speech, pink(speech.size, rng=rng), options.snr_db, rate_hz=RATE_HZ, rng=rng).mixed
    save(signals(speech, noisy, options.snr_db), options.out / "noise_speech")
    if options.model:
        save(hidden_states(options.model, speech, noisy), options.out / "adapter_spectrum")


def signals(speech: np.ndarray, noisy: np.ndarray, snr_db: float) -> plt.Figure:
    """Three columns: clean, noisy, after spectral subtraction."""
    columns = {"clean": speech, f"pink noise, {snr_db:g} dB": noisy,
               "after spectral subtraction": spectral_subtraction(noisy, rate_hz=RATE_HZ)}  # fmt: skip
    figure, axes = plt.subplots(3, 3, figsize=(11, 6), sharey="row", constrained_layout=True)
    for column, (name, wave) in enumerate(columns.items()):
        time_s = np.arange(wave.size) / RATE_HZ
        axes[0, column].plot(time_s, wave, linewidth=0.3)
        axes[0, column].set(title=name, xlabel="s")
        blocks = wave[: wave.size // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
        power = np.mean(np.abs(np.fft.rfft(blocks, axis=1)) ** 2, axis=0)
        axes[1, column].plot(np.fft.rfftfreq(1024, 1 / RATE_HZ) / 1000, 10 * np.log10(power + 1e-12), linewidth=0.8)
        axes[1, column].set_xlabel("kHz")
        axes[2, column].imshow(log_mel(wave, WHISPER_128), origin="lower", aspect="auto",
                               extent=(0, wave.size / RATE_HZ, 0, 128))  # fmt: skip
        axes[2, column].set_xlabel("s")
    for row, label in enumerate(("amplitude", "power, dB", "mel band")):
        axes[row, 0].set_ylabel(label)
    return figure


def hidden_states(run: Path, speech: np.ndarray, noisy: np.ndarray) -> plt.Figure:
    """2-D spectra of one attention window of the encoder's output: clean, noisy by the base, noisy with the adapter."""
    import torch

    from linnet.models.qwen3_asr.adapters import add_adapters, base_only
    from linnet.models.qwen3_asr.checkpoint import as_checkpoint, load_frozen
    from linnet.models.qwen3_asr.export import read_run_adapter
    from linnet.runtime.encoder import clip_features
    from linnet.train.run_folder import RunFolder

    folder = RunFolder(run)
    adapter, _ = read_run_adapter(folder, "last")
    with as_checkpoint(Path(folder.config()["base"])) as base:
        asr = load_frozen(base, dtype=torch.float32, decoder=False)
    add_adapters(asr, adapter.config)
    asr.load_state_dict({name: torch.from_numpy(np.array(t)) for name, t in adapter.tensors.items()}, strict=False)
    mels = {name: torch.from_numpy(clip_features(wave, WHISPER_128)) for name, wave in (("c", speech), ("n", noisy))}
    with torch.no_grad():
        after = asr.audio_tower([mels["n"]])[0]
        with base_only(asr):
            clean, before = (asr.audio_tower([mels[name]])[0] for name in "cn")
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, constrained_layout=True)
    names = ("clean, base", "noisy, base", f"noisy, {adapter.config.mode} adapter")
    windows = [one[: asr.config.window_tokens].numpy() for one in (clean, before, after)]
    spectra = [20 * np.log10(np.abs(np.fft.fftshift(np.fft.fft2(window, norm="ortho"))) + 1e-6) for window in windows]
    low, high = np.percentile(spectra[0], [1, 99.9])
    for axis, name, spectrum in zip(axes, names, spectra, strict=True):
        image = axis.imshow(spectrum, aspect="auto", vmin=low, vmax=high, extent=(-0.5, 0.5, -6.25, 6.25))
        axis.set(title=name, xlabel="cycles per feature")
    axes[0].set_ylabel("Hz along time (12.5 tokens per s)")
    figure.colorbar(image, ax=axes, label="dB")
    return figure


def save(figure: plt.Figure, path: Path) -> None:
    for ending in ("png", "pdf"):
        metadata = {"CreationDate": None} if ending == "pdf" else None
        figure.savefig(path.with_suffix(f".{ending}"), bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    sys.stdout.write(f"{path}.png\n")


if __name__ == "__main__":
    main()
