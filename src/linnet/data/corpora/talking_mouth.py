"""A talking-mouth corpus for audio-visual recognition without a licence: espeak-ng's voices with drawn mouths.

    python -m linnet.data.corpora.talking_mouth OUT --speakers 20 --clips 40

Each speaker is a voice and a face; the mouth follows espeak-ng's phoneme timings (`mouth_shapes.py`). Every clip is one
MP4 with H.264 video (64 × 64, 25 frames per second, the mouth only) and lossless FLAC sound, so its `audio_filepath`
and `video_filepath` are the same file. Everything is drawn from (seed, speaker, clip): the same call writes the same
bytes, a larger one extends a smaller one, and an interrupted one goes on where it stopped. Splits share no speaker, and
no voice or face either. Needs libespeak-ng (`apt-get install espeak-ng`) and the extra `[media]`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soxr

from linnet.data.corpora.espeak_events import speak
from linnet.data.corpora.grid import random_sentence
from linnet.data.corpora.mouth_shapes import draw_face, draw_mouth, shape_track
from linnet.data.corpora.sentences import sentences
from linnet.errors import ConfigError, MissingExtraError
from linnet.manifest import Utterance, write_manifest

SAMPLE_RATE_HZ = 16_000
RATE_HZ = 25
SIZE_PX = 64
SPLITS = ("train", "dev", "test")
# One thread and no look-ahead beside it: with more, the same pictures gave other bytes under load.
_X264 = {
    "crf": "20",
    "preset": "veryfast",
    "x264-params": "threads=1:lookahead-threads=1:sync-lookahead=0:rc-lookahead=0",
}
Style = Literal["grid", "free"]

ACCENTS = ("en-us", "en-us", "en-gb-x-rp", "en-gb-scotland")  # not en-gb: it resolves to an MBROLA voice
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "klatt", "klatt2", "klatt3", "adam"),
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "antonio", "belinda", "benjamin", "boris", "caleb", "david", "ed"),
    *("edward", "Gene", "Henrique", "Hugo", "john", "linda", "marcelo", "Marco", "Mario", "max", "Michael", "miguel"),
    *("Mike", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor"),
)


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """One voice; the face follows from the name."""

    name: str
    split: str
    voice: str
    pitch: int
    words_per_minute: int


def speakers(count: int, *, seed: int) -> list[Speaker]:
    """`count` speakers: of every ten, the ninth is for dev, the tenth for test. No two share a voice variant.

    Raises ConfigError for fewer than 10 (a split would be empty) or more than there are variants.
    """
    if not 10 <= count <= len(VARIANTS):
        raise ConfigError(f"{count} speakers do not work; accepted: 10 (so that no split is empty) to {len(VARIANTS)}.")
    rng = random.Random(f"{seed}/speakers")
    variants = rng.sample(VARIANTS, len(VARIANTS))
    return [
        Speaker(
            name=f"mouth{index:02d}",
            split={8: "dev", 9: "test"}.get(index % 10, "train"),
            voice=f"{rng.choice(ACCENTS)}+{variants[index]}",
            pitch=rng.randint(25, 80),
            words_per_minute=rng.randint(120, 175),
        )
        for index in range(count)
    ]


def synthesize(
    out: Path,
    *,
    speaker_count: int = 20,
    clips: int = 40,
    style: Style = "grid",
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `clips` clips of each speaker and one manifest per split; returns the manifests.

    `style`: grid (six words of a fixed grammar, as in the GRID corpus) or free (short English sentences). Clips that
    exist are not made again. `progress` gets (clips done, clips in all). Raises ConfigError or MissingExtraError.
    """
    if clips < 1 or workers < 1:
        raise ConfigError(f"clips and workers must be at least 1, got {clips} and {workers}.")
    _require()
    jobs = []
    for speaker in speakers(speaker_count, seed=seed):
        rng = random.Random(f"{seed}/{style}/{speaker.name}/texts")
        free = sentences(clips, seed=rng.randrange(1 << 30)) if style == "free" else []
        for index in range(clips):
            text = random_sentence(rng) if style == "grid" else free[index]
            jobs.append((speaker, index, text, seed, style, out))
    utterances: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            for done, (job, utterance) in enumerate(zip(jobs, pool.map(_make, jobs), strict=True), start=1):
                utterances[job[0].split].append(utterance)
                if progress is not None:
                    progress(done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    manifests = [out / f"{split}.jsonl" for split in SPLITS]
    for split, manifest in zip(SPLITS, manifests, strict=True):
        write_manifest(manifest, utterances[split])
    return manifests


def _make(job: tuple[Speaker, int, str, int, Style, Path]) -> Utterance:
    speaker, index, text, seed, style, out = job
    name = f"{speaker.name}_{style}_{seed}_{index:04d}"
    path = out / speaker.name / f"{name}.mp4"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, pictures = render(speaker, text, seed=seed, index=index)
        partial = path.with_name(f".{name}.partial")
        write_clip(partial, samples, pictures)
        partial.replace(path)
    return Utterance(
        audio_path=path,
        duration_s=round(_duration_s(path), 4),
        text=text,
        video_path=path,
        id=name,
        speaker=speaker.name,
        language="en",
        corpus=f"talking_mouth_{style}",
    )


def render(
    speaker: Speaker, text: str, *, seed: int, index: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Sound [N] at 16 kHz and pictures [T, 64, 64] at 25 Hz of one clip; ConfigError if espeak-ng fails."""
    rng = random.Random(f"{seed}/{speaker.name}/{index}")
    try:
        spoken = speak(
            text,
            voice=speaker.voice,
            pitch=speaker.pitch + rng.randint(-5, 5),
            words_per_minute=round(speaker.words_per_minute * rng.uniform(0.9, 1.1)),
        )
    except FileNotFoundError as error:
        raise _missing() from error
    except RuntimeError as error:
        raise ConfigError(f"espeak-ng could not say {text!r} as {speaker.voice}: {error}.") from error
    before, after = rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.2)
    wave = np.frombuffer(spoken.pcm, "<i2") / np.float32(32768)
    wave = np.asarray(soxr.resample(wave, spoken.rate_hz, SAMPLE_RATE_HZ), np.float32)
    speech = np.pad(wave, (round(before * SAMPLE_RATE_HZ), round(after * SAMPLE_RATE_HZ)))
    level = 10 ** rng.uniform(-0.9, -0.1)
    speech = speech * (level / max(1e-6, float(np.abs(speech).max())))
    frames = round(len(speech) / SAMPLE_RATE_HZ * RATE_HZ)
    whole = np.pad(speech, (0, SAMPLE_RATE_HZ))[: frames * SAMPLE_RATE_HZ // RATE_HZ]
    phonemes = [(mnemonic, start + before) for mnemonic, start in spoken.phonemes]
    times_s = ((np.arange(frames) + 0.5) / RATE_HZ).astype(np.float32)
    track = shape_track(phonemes, len(whole) / SAMPLE_RATE_HZ, times_s)
    face = draw_face(random.Random(f"{seed}/{speaker.name}/face"))
    return whole.astype(np.float32), draw_mouth(
        face, track, size_px=SIZE_PX, rng=np.random.default_rng(rng.randrange(1 << 30))
    )


def write_clip(path: Path, samples: npt.NDArray[np.float32], pictures: npt.NDArray[np.uint8]) -> None:
    """One MP4: H.264 pictures uint8 [T, H, W] at 25 Hz and 16-bit FLAC sound [N] at 16 kHz, without dates or names."""
    import av

    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=RATE_HZ, options=_X264)
        video.height, video.width = pictures.shape[1:]
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("flac", rate=SAMPLE_RATE_HZ)
        sound.layout = "mono"
        for stream in (video, sound):
            stream.codec_context.thread_count = 1  # several threads would cut the picture differently
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode())
        whole = np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)
        block = av.AudioFrame.from_ndarray(whole[None], format="s16", layout="mono")
        block.sample_rate, block.pts = SAMPLE_RATE_HZ, 0
        for plain in av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ).resample(block):
            container.mux(sound.encode(plain))
        container.mux(sound.encode(None))


def _duration_s(path: Path) -> float:
    import av

    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        assert track.duration is not None and track.time_base is not None  # as write_clip makes them
        return float(track.duration * track.time_base)


def _require() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Writing talking mouths", "media", "av") from error
    try:
        speak("a", voice="en-us", pitch=50, words_per_minute=150)
    except FileNotFoundError as error:
        raise _missing() from error


def _missing() -> ConfigError:
    return ConfigError("Talking mouths need espeak-ng's library (libespeak-ng.so.1); run `apt-get install espeak-ng`.")


def _show(done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        sys.stderr.write(f"\r{done}/{total} clips" + ("\n" if done == total else ""))
        sys.stderr.flush()


def main() -> None:
    """`python -m linnet.data.corpora.talking_mouth OUT --speakers N --clips N --style grid|free --seed S`"""
    parser = argparse.ArgumentParser(description="Speak and draw generated sentences: sound, mouths and manifests.")
    parser.add_argument("out", type=Path, help="folder for clips, train.jsonl, dev.jsonl and test.jsonl")
    parser.add_argument("--speakers", type=int, default=20, help="eight of ten for training, one each for dev and test")
    parser.add_argument("--clips", type=int, default=40, help="per speaker")
    parser.add_argument("--style", choices=("grid", "free"), default="grid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    try:
        manifests = synthesize(
            options.out,
            speaker_count=options.speakers,
            clips=options.clips,
            style=options.style,
            seed=options.seed,
            workers=options.workers,
            progress=_show,
        )
    except (ConfigError, MissingExtraError) as error:
        raise SystemExit(f"talking_mouth: {error}") from None
    sys.stdout.write("".join(f"{manifest}\n" for manifest in manifests))


if __name__ == "__main__":
    main()
