"""Synthetic speech for text coverage: sentences spoken by espeak-ng and flite, as 16 kHz FLAC files with a manifest.

Both programs come with Debian (`apt-get install espeak-ng flite`). Every clip draws its sentence, voice, pitch, speed,
vocal-tract length and level from (seed, index) alone: the same call gives the same clips, a larger `count` extends a
smaller one, and an interrupted call goes on where it stopped. No voice imitates a living speaker of the corpora.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from linnet.data.corpora.sentences import common_mandarin_words, mandarin_words, sentences
from linnet.errors import ConfigError
from linnet.manifest import Utterance, read_manifest, write_manifest

SAMPLE_RATE_HZ = 16000
ENGLISH_ACCENTS = (
    *("en-us", "en-us", "en-us", "en-gb", "en-gb", "en-gb-x-rp", "en-us-nyc"),  # the common ones count more than once
    *("en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"),
)
MANDARIN_ACCENTS = ("cmn-latn-pinyin",)  # espeak-ng's plain `cmn` spells Han characters out on some builds
ESPEAK_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"),
    *("klatt", "klatt2", "klatt3", "klatt4", "adam", "Alex", "Alicia", "Andrea", "Andy", "Annie", "antonio", "aunty"),
    *("belinda", "benjamin", "boris", "caleb", "david", "Denis", "Diogo", "ed", "edward", "Gene", "grandma", "grandpa"),
    *("Henrique", "Hugo", "iven", "iven2", "john", "kaukovalta", "linda", "marcelo", "Marco", "Mario", "max"),
    *("Michael", "michel", "miguel", "Mike", "Nguyen", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro"),
    *("shelby", "steph", "steph2", "steph3", "travis", "victor", "zac", "anika", "norbert", "Jacky", "Lee"),
)
FLITE_VOICES = {"slt": 190, "awb": 130, "rms": 95, "kal16": 110}  # and about the mean pitch each was recorded at, in Hz
FLITE_SHARE = 0.35  # of the English clips; four voices only, but two of them sound closer to people than espeak-ng
CLIPS_PER_FOLDER = 1000
TIMEOUT_S = 60

Samples = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one clip is spoken; everything that decides its samples."""

    text: str
    language: str
    program: str
    voice: str
    pitch: int
    """espeak-ng: 0–99; flite: mean of the fundamental in Hz."""
    speed: float
    """espeak-ng: words per minute; flite: stretch of durations (above 1 is slower)."""
    warp: float
    """The voice is resampled by this factor: above 1 a shorter vocal tract, towards a child's."""
    peak: float
    silence_s: tuple[float, float]
    """What stays before and after the speech."""

    @property
    def name(self) -> str:
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:12]


def synthesize(
    out: Path,
    *,
    count: int,
    seed: int,
    texts: Iterable[str] = (),
    mandarin: Sequence[str] = (),
    mandarin_voices: int = 3,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Speaks `count` English sentences and each word of `mandarin` in `mandarin_voices` voices; returns the manifest.

    `texts` are training transcripts that feed the sentence sampler. Clips are `<out>/<folder>/<id>.flac`, 16 kHz mono,
    16 bit; `<out>/manifest.jsonl` lists them and is written last. Files that exist are not made again.
    `progress` gets (clips done, clips in all). Raises ConfigError if a program is missing or fails.
    """
    _require_programs()
    if workers < 1:
        raise ConfigError(f"cannot synthesise with workers={workers}; accepted: 1 or more; use the number of cores")
    plans = [_plan_english(text, seed, index) for index, text in enumerate(sentences(count, seed=seed, texts=texts))]
    plans += [_plan_mandarin(word, seed, take) for word in mandarin_words(mandarin) for take in range(mandarin_voices)]
    out.mkdir(parents=True, exist_ok=True)
    utterances: list[Utterance] = []
    # threads are enough: the work is done by the two programs and by C code that releases the lock
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for utterance in _in_order(pool, [(plan, out, index) for index, plan in enumerate(plans)]):
            utterances.append(utterance)
            if progress is not None:
                progress(len(utterances), len(plans))
    manifest = out / "manifest.jsonl"
    write_manifest(manifest, utterances)
    return manifest


def render(plan: Plan) -> Samples:
    """float32 [samples] at 16 kHz: speech by `plan`, silence trimmed, level set. Raises ConfigError if it fails."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:  # through a pipe espeak-ng cannot write the true size
        command = _flite(plan, wav.name) if plan.program == "flite" else _espeak(plan, wav.name)
        try:
            result = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"{plan.program} was still speaking {plan.text!r} after {TIMEOUT_S} s; expected well under a second; "
                "give the machine more room and start again: finished clips are kept"
            ) from error
        rate_hz, speech = _parse_wav(Path(wav.name).read_bytes())
    if result.returncode != 0 or not np.any(speech):
        raise ConfigError(
            f"{plan.program} could not say {plan.text!r}: exit code {result.returncode}, {len(speech)} samples, "
            f"{result.stderr.decode(errors='replace').strip()[:200]!r}; expected speech; "
            f"check that the voice {plan.voice!r} is installed (`apt-get install espeak-ng flite`)"
        )
    speech = np.asarray(soxr.resample(speech, rate_hz * plan.warp, SAMPLE_RATE_HZ), dtype=np.float32)
    speech = _trim(speech, plan.silence_s)
    return np.asarray(speech * (plan.peak / np.abs(speech).max()), dtype=np.float32)


def _plan_english(text: str, seed: int, index: int) -> Plan:
    rng = random.Random(f"{seed}/en/{index}")  # a string seed is hashed the same way on every machine
    warp = rng.choice((1.0, rng.uniform(0.9, 1.1), rng.uniform(1.0, 1.25)))
    if rng.random() < FLITE_SHARE:
        voice = rng.choice(list(FLITE_VOICES))
        pitch = round(FLITE_VOICES[voice] * rng.uniform(0.8, 1.25))
        # resampling by the warp shortens the clip, so the stretch pays it back
        return _finish(rng, text, "en", "flite", voice, pitch, rng.uniform(0.9, 1.5) * warp, warp)
    voice = f"{rng.choice(ENGLISH_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}"
    return _finish(rng, text, "en", "espeak", voice, rng.randint(20, 90), round(rng.uniform(120, 190) / warp), warp)


def _plan_mandarin(text: str, seed: int, take: int) -> Plan:
    rng = random.Random(f"{seed}/zh/{text}/{take}")
    voice = f"{rng.choice(MANDARIN_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}"
    # a smaller range than in English: the tones carry meaning
    return _finish(
        rng, text, "zh", "espeak", voice, rng.randint(30, 70), rng.randint(110, 160), rng.uniform(0.95, 1.15)
    )


def _finish(
    rng: random.Random, text: str, language: str, program: str, voice: str, pitch: int, speed: float, warp: float
) -> Plan:
    return Plan(
        text=text,
        language=language,
        program=program,
        voice=voice,
        pitch=pitch,
        speed=round(speed, 3),
        warp=round(warp, 3),
        peak=round(10 ** rng.uniform(-1.2, -0.05), 4),  # −24 to −1 dB of full scale
        silence_s=(round(rng.uniform(0.0, 0.15), 3), round(rng.uniform(0.0, 0.15), 3)),
    )


def _espeak(plan: Plan, out: str) -> list[str]:
    return ["espeak-ng", "-v", plan.voice, "-p", str(plan.pitch), "-s", f"{plan.speed:.0f}", "-w", out, plan.text]


def _flite(plan: Plan, out: str) -> list[str]:
    features = ["--setf", f"duration_stretch={plan.speed}", "--setf", f"int_f0_target_mean={plan.pitch}"]
    return ["flite", "-voice", plan.voice, *features, "-t", plan.text, "-o", out]


def _parse_wav(data: bytes) -> tuple[int, Samples]:
    """(rate in Hz, float32 [samples]) of a mono 16-bit WAV with the plain header both programs write; empty if none."""
    header = 44
    if len(data) <= header or data[:4] != b"RIFF":
        return SAMPLE_RATE_HZ, np.zeros(0, np.float32)
    body = data[header : header + (len(data) - header) // 2 * 2]
    return int.from_bytes(data[24:28], "little"), np.frombuffer(body, "<i2").astype(np.float32) / np.float32(32768)


def _trim(speech: Samples, silence_s: tuple[float, float]) -> Samples:
    """Cuts or pads so that `silence_s` seconds lie around what is louder than 1 % of the peak."""
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
    before, after = (round(seconds * SAMPLE_RATE_HZ) for seconds in silence_s)
    padded = np.pad(speech, (before, after))
    return padded[loud[0] : loud[-1] + 1 + before + after]


def _in_order(pool: ThreadPoolExecutor, jobs: list[tuple[Plan, Path, int]]) -> Iterator[Utterance]:
    try:
        yield from pool.map(_make, jobs)
    except BaseException:
        pool.shutdown(cancel_futures=True)  # else thousands of queued clips would still be spoken
        raise


def _make(job: tuple[Plan, Path, int]) -> Utterance:
    """Renders one clip unless its file exists; the file appears whole or not at all."""
    plan, out, index = job
    corpus = f"synthetic_{plan.program}"
    # Mandarin words have folders of their own, so that a larger English count does not move them
    folder = f"{index // CLIPS_PER_FOLDER:03d}" if plan.language == "en" else plan.language
    name = f"{corpus}_{plan.name}"
    path = out / folder / f"{name}.flac"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        # the index is in the partial name because two equal plans may run side by side
        partial = path.with_name(f".{name}.{index}.partial")
        soundfile.write(partial, render(plan), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        partial.replace(path)
    return Utterance(
        audio_path=path,
        duration_s=round(soundfile.info(path).frames / SAMPLE_RATE_HZ, 3),
        text=plan.text,
        id=name,
        speaker=f"{plan.program}:{plan.voice}",
        language=plan.language,
        corpus=corpus,
    )


def _require_programs() -> None:
    """Raises ConfigError unless both programs are there with every voice: they replace an unknown one silently."""
    missing = [program for program in ("espeak-ng", "flite") if shutil.which(program) is None]
    if missing:
        raise ConfigError(
            f"synthetic speech needs {' and '.join(missing)}, not found on PATH; "
            "both espeak-ng and flite are required; run `apt-get install espeak-ng flite`"
        )
    listed = set(_listing("espeak-ng", "--voices") + _listing("flite", "-lv"))
    listed |= {name.removeprefix("!v/") for name in _listing("espeak-ng", "--voices=variant")}
    unknown = {*ENGLISH_ACCENTS, *MANDARIN_ACCENTS, *ESPEAK_VARIANTS, *FLITE_VOICES} - listed
    if unknown:
        raise ConfigError(
            f"espeak-ng and flite lack the voices {', '.join(sorted(unknown))}; expected those of espeak-ng 1.51 and "
            "flite 2.2; install these versions, or other clips than documented would come out"
        )


def _listing(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S).stdout.decode().split()


def _show(done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        sys.stderr.write(f"\r{done}/{total} clips" + ("\n" if done == total else ""))
        sys.stderr.flush()


def main() -> None:
    """`python -m linnet.data.corpora.synthetic OUT --count N --seed S --texts MANIFEST`"""
    parser = argparse.ArgumentParser(description="Speak generated sentences with espeak-ng and flite.")
    parser.add_argument("out", type=Path, help="folder for the clips and manifest.jsonl")
    parser.add_argument("--count", type=int, required=True, help="English sentences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=Path, help="training manifest; its transcripts feed the sentence sampler")
    parser.add_argument(
        "--corpora", nargs="*", default=[], help="use only these corpora of the manifest (default: all)"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    utterances = [u for u in read_manifest(options.texts) if u.text] if options.texts else []
    if options.corpora:
        utterances = [u for u in utterances if u.corpus in options.corpora]
    synthesize(
        options.out,
        count=options.count,
        seed=options.seed,
        texts=[u.text for u in utterances if u.text and u.language == "en"],
        mandarin=[*(u.text for u in utterances if u.text and u.language == "zh"), *common_mandarin_words()],
        workers=options.workers,
        progress=_show,
    )


if __name__ == "__main__":
    main()
