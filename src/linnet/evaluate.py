"""Error rates of a recogniser on a manifest, clean and with noise at exact levels.

What is counted: rates are corpus rates over the utterances with a human reference. An utterance whose audio cannot be
used (unreadable, silent in a noise test) is listed as a failure and left out of the rates; one whose audio is fine but
on which the recogniser fails is scored as if it had answered nothing, since leaving it out would reward failing.
Noise depends on seed and utterance alone, so every recogniser hears the same, and every SNR the same noise.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from linnet.audio import FloatArray, read_audio
from linnet.damage import Damage, make_damage
from linnet.denoise import spectral_subtraction
from linnet.errors import AudioError, ConfigError, LanguageError, LinnetError, MissingExtraError, VideoError
from linnet.manifest import Utterance, read_manifest
from linnet.metrics import cer, wer
from linnet.noise import mix_at_snr
from linnet.noise_source import NoiseSource, make_source
from linnet.report import Report, Scored, make_report
from linnet.runtime.base import AudioVisualRecognizer, Recognizer

Progress = Callable[[float, float], None]
FrontEnd = Literal["none", "spectral_subtraction"]
Heard = Path | FloatArray | LinnetError


def evaluate(
    recognizer: Recognizer,
    manifest: str | Path | Sequence[Utterance],
    *,
    noise: str | Path | Sequence[str | Path] | None = None,
    snr_db: Sequence[float] = (),
    damage: Sequence[str | Path] = (),
    front_end: FrontEnd = "none",
    seed: int = 0,
    language: str | None = None,
    corpora: Sequence[str] = (),
    limit: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Transcribe every utterance of a manifest, clean, in each noise at each `snr_db` and damaged; count the errors.

    `noise` is white, pink, brown, hum, babble (other utterances of the manifest, other speakers first) or the path of
    a manifest of noises, or several. `damage` lists reverb, codecs or manifests of room responses (`linnet.damage`).
    `front_end` cleans what the recogniser hears, in every condition. `language` is forced on the recogniser; None lets
    it detect. `corpora` keeps only these, `limit` the first of each corpus. `progress` is called with the
    transcriptions done and in all.
    Raises ManifestError, ConfigError (options that cannot work), LanguageError, or AudioError if a noise cannot be
    read; a bad utterance is no error but a failure in the report.
    """
    everything = list(manifest) if not isinstance(manifest, str | Path) else read_manifest(manifest)
    chosen = _choose(everything, corpora, limit)
    noises = [] if noise is None else [noise] if isinstance(noise, str | Path) else list(dict.fromkeys(noise))
    _check_noise(noises, snr_db)
    if front_end not in ("none", "spectral_subtraction"):
        raise ConfigError(f"There is no front end {front_end!r}; accepted: none, spectral_subtraction.")
    rate_hz = recognizer.bundle.sample_rate_hz
    snr_db = list(dict.fromkeys(float(level) for level in snr_db))
    sources = [make_source(kind, everything, rate_hz=rate_hz, seed=seed) for kind in noises]
    damages = [make_damage(kind, rate_hz=rate_hz, seed=seed) for kind in dict.fromkeys(damage)]
    conditions = 1 + len(sources) * len(snr_db) + len(damages)
    scored: list[Scored] = []
    for utterance in chosen:
        for name, level, heard in _sounds(utterance, sources, snr_db, damages, rate_hz):
            cleaned = _cleaned(heard, front_end, rate_hz)
            scored.append(
                _score(recognizer, utterance, cleaned, noise=name, snr_db=level, language=language, rate_hz=rate_hz)
            )
            if progress is not None:
                progress(len(scored), len(chosen) * conditions)
    return make_report(
        scored,
        bundle=recognizer.bundle,
        seed=seed,
        manifest=str(manifest) if isinstance(manifest, str | Path) else None,
        settings={
            "noise": [str(kind) for kind in noises],
            "snr_db": list(snr_db),
            "damage": [str(kind) for kind in damage],
            "front_end": front_end,
            "language": language,
            "corpora": list(corpora),
            "limit": limit,
        },
    )


def _choose(utterances: Sequence[Utterance], corpora: Sequence[str], limit: int | None) -> list[Utterance]:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1 utterance per corpus, got {limit}; leave it out for all.")
    present = sorted({utterance.corpus or "" for utterance in utterances})
    if unknown := sorted(set(corpora) - set(present)):
        raise ConfigError(
            f"The manifest has no utterances of corpus {', '.join(unknown)}; it has {', '.join(filter(None, present))}."
        )
    counts: dict[str | None, int] = defaultdict(int)
    chosen = []
    for utterance in utterances:
        if corpora and utterance.corpus not in corpora:
            continue
        counts[utterance.corpus] += 1
        if limit is None or counts[utterance.corpus] <= limit:
            chosen.append(utterance)
    if not chosen:
        raise ConfigError("There are no utterances to evaluate; give a manifest that has some.")
    return chosen


def _check_noise(noises: Sequence[str | Path], snr_db: Sequence[float]) -> None:
    if noises and not snr_db:
        raise ConfigError(f"Noise {str(noises[0])!r} needs a level: add SNRs in dB, for example 20 10 0.")
    if snr_db and not noises:
        raise ConfigError("SNRs need a noise: white, pink, brown, hum, babble, or a manifest of noises.")


def _sounds(
    utterance: Utterance,
    sources: Sequence[NoiseSource],
    snr_db: Sequence[float],
    damages: Sequence[Damage],
    rate_hz: int,
) -> Iterator[tuple[str | None, float | None, Heard]]:
    """Condition and what the recogniser hears in it: the file itself when clean, samples [N], or why there are none."""
    yield None, None, utterance.audio_path
    if not sources and not damages:
        return
    try:
        speech = read_audio(utterance.audio_path, sample_rate_hz=rate_hz)
    except (AudioError, MissingExtraError) as error:
        yield from ((source.name, level, error) for source in sources for level in snr_db)
        yield from ((damage.name, None, error) for damage in damages)
        return
    for source in sources:
        noise = source.noise_for(utterance, speech.size)
        for level in snr_db:
            rng = source.generator(utterance, "offset")  # anew, so that only the level differs
            try:
                heard: Heard = mix_at_snr(speech, noise, level, rate_hz=rate_hz, rng=rng).mixed
            except AudioError as error:
                heard = error
            yield source.name, level, heard
    for damage in damages:
        yield damage.name, None, damage.apply(utterance, speech)


def _cleaned(heard: Heard, front_end: FrontEnd, rate_hz: int) -> Heard:
    if front_end == "none" or isinstance(heard, LinnetError):
        return heard
    try:
        samples = read_audio(heard, sample_rate_hz=rate_hz) if isinstance(heard, Path) else heard
        return spectral_subtraction(samples, rate_hz=rate_hz)
    except (AudioError, MissingExtraError) as error:
        return error


def _score(
    recognizer: Recognizer,
    utterance: Utterance,
    heard: Heard,
    *,
    noise: str | None,
    snr_db: float | None,
    language: str | None,
    rate_hz: int,
) -> Scored:
    hypothesis, error, usable = "", None, True
    started = time.perf_counter()
    try:
        if isinstance(heard, LinnetError):
            raise heard
        if isinstance(recognizer, AudioVisualRecognizer):
            heard = _watched(recognizer, utterance, heard, rate_hz)
        hypothesis = recognizer.transcribe(heard, sample_rate_hz=rate_hz, language=language).text
    except (ConfigError, LanguageError):
        raise
    except (AudioError, VideoError, MissingExtraError) as problem:
        error, usable = str(problem), False
    except Exception as problem:  # one clip must not cost the hours before it; the report names it
        error = f"{type(problem).__name__}: {problem}"
    spent_s = time.perf_counter() - started
    left_out = _left_out(utterance, usable)
    texts = [utterance.text or ""], [hypothesis]
    return Scored(
        id=utterance.id,
        corpus=utterance.corpus or "",
        language=utterance.language,
        noise=noise,
        snr_db=snr_db,
        duration_s=utterance.duration_s,
        reference=utterance.text,
        hypothesis=hypothesis if error is None else None,
        error=error,
        left_out=left_out,
        words=wer(*texts, language=utterance.language) if left_out is None else None,
        characters=cer(*texts, language=utterance.language) if left_out is None else None,
        processing_s=spent_s,
    )


def _watched(
    recognizer: AudioVisualRecognizer, utterance: Utterance, heard: Path | FloatArray, rate_hz: int
) -> FloatArray:
    """The samples, with the recogniser's eyes on the utterance's video, which may be a file of its own."""
    video = utterance.video_path if recognizer.modality != "audio" else None
    try:
        recognizer.watch(video, audio_duration_s=utterance.duration_s)
    except VideoError:
        if recognizer.modality != "auto":
            raise
    return read_audio(heard, sample_rate_hz=rate_hz) if isinstance(heard, Path) else heard


def _left_out(utterance: Utterance, usable: bool) -> str | None:
    if utterance.text is None:
        return "no text"
    if "ref_quality" in utterance.extra:
        return "ref_quality"
    return None if usable else "failed"
