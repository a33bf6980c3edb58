"""Mouths drawn from phonemes: visemes, their blending over time, and faces of different styles.

A viseme is a shape that several phonemes share, as in life: lips cannot tell "pat", "bat" and "mat" apart (classes
after Fisher 1968 and the MPEG-4 visemes). Between the middles of two phonemes the mouth moves smoothly, so a short
sound may never reach its shape, which is what coarticulation looks like.

Shapes: T frames, S pixels each side.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# width and opening of the mouth, protrusion (rounding) of the lips, upper teeth and tongue that are seen: each 0…1
VISEMES: dict[str, tuple[float, float, float, float, float]] = {
    "rest": (0.55, 0.02, 0.2, 0.0, 0.0),
    "p": (0.50, 0.00, 0.25, 0.0, 0.0),
    "f": (0.55, 0.08, 0.1, 0.9, 0.0),
    "th": (0.60, 0.20, 0.1, 0.6, 0.9),
    "t": (0.65, 0.18, 0.1, 0.7, 0.3),
    "ch": (0.40, 0.25, 0.8, 0.6, 0.0),
    "k": (0.60, 0.28, 0.1, 0.3, 0.1),
    "l": (0.60, 0.32, 0.1, 0.4, 0.8),
    "r": (0.42, 0.22, 0.6, 0.2, 0.2),
    "w": (0.25, 0.10, 1.0, 0.0, 0.0),
    "ee": (0.90, 0.25, 0.0, 0.6, 0.1),
    "eh": (0.75, 0.45, 0.0, 0.4, 0.2),
    "ah": (0.62, 0.85, 0.1, 0.3, 0.2),
    "uh": (0.58, 0.42, 0.2, 0.2, 0.1),
    "oh": (0.38, 0.55, 0.8, 0.0, 0.1),
    "oo": (0.26, 0.22, 1.0, 0.0, 0.0),
}
_PHONEMES = {
    "p": "p b m",
    "f": "f v",
    "th": "T D",
    "t": "t d n s z ?",
    "ch": "S Z tS dZ",
    "k": "k g N h x C",
    "l": "l",
    "r": "r",
    "w": "w",
    "ee": "i I j",
    "eh": "e E",
    "ah": "a A aI aU",
    "uh": "@ V 3",
    "oh": "0 O o OI oU",
    "oo": "u U",
}
_VISEME_OF = {phoneme: viseme for viseme, phonemes in _PHONEMES.items() for phoneme in phonemes.split()}
# A diphthong ends in another shape than it begins with.
_GLIDES = {"aI": "ee", "eI": "ee", "OI": "ee", "aU": "oo", "oU": "oo", "@U": "oo"}


def viseme(mnemonic: str) -> str:
    """The viseme of an espeak-ng phoneme mnemonic; marks such as # : ; and digits are variants of the same sound.

    Pauses are "rest"; what is not known is "uh", the neutral vowel.
    """
    if not mnemonic or mnemonic.startswith("_"):
        return "rest"
    return _VISEME_OF.get(mnemonic[:2]) or _VISEME_OF.get(mnemonic[0], "uh")


def shape_track(phonemes: Sequence[tuple[str, float]], duration_s: float, times_s: FloatArray) -> FloatArray:
    """The five numbers of the mouth [T, 5] at `times_s`, from phonemes with their starts in seconds."""
    keys: list[tuple[float, str]] = [(0.0, "rest")]
    ends = [start for _, start in phonemes[1:]] + [duration_s]
    for (mnemonic, start), end in zip(phonemes, ends, strict=True):
        if mnemonic[:2] in _GLIDES:
            keys += [
                (start + 0.3 * (end - start), viseme(mnemonic)),
                (start + 0.85 * (end - start), _GLIDES[mnemonic[:2]]),
            ]
        else:
            keys.append(((start + end) / 2, viseme(mnemonic)))
    keys.append((max(duration_s, keys[-1][0] + 0.01), "rest"))
    at = np.array([key[0] for key in keys])
    shapes = np.array([VISEMES[key[1]] for key in keys])
    right = np.clip(np.searchsorted(at, times_s), 1, len(at) - 1)
    share = np.clip((times_s - at[right - 1]) / np.maximum(1e-6, at[right] - at[right - 1]), 0, 1)
    share = (share * share * (3 - 2 * share))[:, None]  # smooth start and stop
    track: FloatArray = (shapes[right - 1] * (1 - share) + shapes[right] * share).astype(np.float32)
    return track


@dataclass(frozen=True, kw_only=True)
class Face:
    """How one speaker looks and is filmed; all of it stays the same over the speaker's clips."""

    skin: float
    lips: float
    teeth: float
    inside: float
    scale: float
    centre: tuple[float, float]
    lip_thickness: float
    widening: float
    """How far this speaker moves the lips, 1 on average."""
    beard: float
    light: tuple[float, float]
    """Brightness that grows towards the right and towards the bottom."""
    noise: float
    sway: float
    """How far the head moves, as a share of the picture."""


def draw_face(rng: random.Random) -> Face:
    """A random face."""
    skin = rng.uniform(0.35, 0.85)
    return Face(
        skin=skin,
        lips=skin - rng.uniform(0.08, 0.25),
        teeth=min(1.0, skin + rng.uniform(0.1, 0.3)),
        inside=rng.uniform(0.02, 0.12),
        scale=rng.uniform(0.85, 1.15),
        centre=(rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
        lip_thickness=rng.uniform(0.07, 0.15),
        widening=rng.uniform(0.8, 1.2),
        beard=rng.choice((0.0, 0.0, rng.uniform(0.05, 0.15))),
        light=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
        noise=rng.uniform(0.005, 0.03),
        sway=rng.uniform(0.0, 0.04),
    )


def draw_mouth(face: Face, track: FloatArray, *, size_px: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Pictures uint8 [T, S, S] of a face with the mouth as in `track` [T, 5]; `rng` moves the head and the grain."""
    count = len(track)
    axis = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px * 2 - 1  # −1…1
    phase = rng.uniform(0, 2 * np.pi, 2)
    beat = np.arange(count) / 25.0 * 2 * np.pi * rng.uniform(0.2, 0.6, (2, 1)) + phase[:, None]
    sway = 2 * face.sway * np.sin(beat)  # [2, T]
    x = ((axis[None, None, :] - (2 * face.centre[0] + sway[0])[:, None, None]) / face.scale).astype(np.float32)
    y = ((axis[None, :, None] - (2 * face.centre[1] + sway[1])[:, None, None]) / face.scale).astype(np.float32)
    width, opening, rounding, teeth, tongue = (track[:, k, None, None] for k in range(5))
    half_width = 0.75 * (0.15 + 0.85 * width * face.widening)
    half_open = 0.55 * opening * face.widening
    lip = face.lip_thickness * (1 + 0.8 * rounding)
    edge = np.float32(2.5 / size_px)  # antialiasing

    def ellipse(half_x: FloatArray, half_y: FloatArray, shift_y: FloatArray | float = 0.0) -> FloatArray:
        """1 inside, 0 outside, soft in between [T, S, S]."""
        radius = np.sqrt((x / half_x) ** 2 + ((y - shift_y) / half_y) ** 2)
        soft: FloatArray = np.clip((1 - radius) * np.minimum(half_x, half_y) / edge + 0.5, 0, 1).astype(np.float32)
        return soft

    def over(picture: FloatArray, colour: float, mask: FloatArray) -> FloatArray:
        laid: FloatArray = picture * (1 - mask) + np.float32(colour) * mask
        return laid

    picture = np.full((count, size_px, size_px), face.skin, np.float32)
    picture += np.float32(face.light[0]) * x + np.float32(face.light[1]) * y
    grain = rng.standard_normal((size_px, size_px), dtype=np.float32)
    if face.beard:
        picture -= np.float32(face.beard) * (1 + 0.3 * grain) * np.clip(6 * np.abs(y - 0.1) - 1.8, 0, 1)
    picture = over(picture, face.lips, ellipse(half_width + lip, half_open + lip))
    hole = ellipse(half_width, np.maximum(half_open, 0.012))
    picture = over(picture, face.inside, hole)
    picture = over(picture, face.teeth, hole * teeth * (y < -0.35 * half_open + 0.02))
    picture = over(
        picture, face.lips + 0.05, hole * tongue * ellipse(0.6 * half_width, 0.5 * half_open + 0.02, 0.5 * half_open)
    )
    picture += np.float32(face.noise) * rng.standard_normal(picture.shape, dtype=np.float32)
    pixels: npt.NDArray[np.uint8] = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return pixels
