"""What streaming costs: processor seconds per second of speech, with partials and without, beside the whole recording.

    python benchmarks/streaming.py --model nano --audio talk.flac --seconds 60
    python benchmarks/streaming.py --model bundles/random-0.6b --audio talk.flac --seconds 60 --tokens-per-second 3

The clip is repeated without pauses up to `--seconds`: speech that never stops is the most expensive there is. Samples
come in tenths of a second. Random weights never end an answer; `--tokens-per-second` ends it for them, at the rate of
real speech. Processor time and not wall time, so that other work on the machine matters less. Peak memory is that of
the whole process. The answer goes to stdout and to results/streaming.json, one entry per model.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import linnet
from linnet.audio import read_audio
from linnet.environment import provenance
from linnet.runtime.decoder import Prefilled
from linnet.runtime.loader import open_decoder
from linnet.runtime.qwen3_asr import Qwen3ASRRecognizer
from linnet.runtime.streaming import StreamingTranscriber

ROOT = Path(__file__).parents[1]
RATE_HZ = 16_000
AUDIO_TOKENS_PER_S = 13


class EndsAtSpeechRate:
    """A decoder that answers its own tokens, and the end when so many of them stand for the audio of a prompt."""

    def __init__(self, decoder: Any, tokens_per_second: float, end_id: int) -> None:
        self._decoder, self._rate, self._end_id = decoder, tokens_per_second, end_id
        self._embedded = [0, 0]  # lengths of the last two calls: what stands before and behind the audio
        self._bare = 1 << 30  # the shortest text behind the audio: without the tokens of a draft
        self._left: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def embed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        self._embedded = [self._embedded[1], len(tokens)]
        return self._decoder.embed(tokens)

    def prefill(self, prompts: Sequence[npt.NDArray[np.float32]]) -> Prefilled:
        self._bare = min(self._bare, self._embedded[1])
        filled = self._decoder.prefill(prompts)
        for slot, prompt in zip(filled.slots, prompts, strict=True):
            audio_s = (len(prompt) - sum(self._embedded)) / AUDIO_TOKENS_PER_S
            self._left[slot] = max(1, round(audio_s * self._rate) - (self._embedded[1] - self._bare))
        return Prefilled(filled.slots, self._ended(filled.slots, filled.logits))

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        return self._ended(slots, self._decoder.step(slots, tokens))

    def _ended(self, slots: Sequence[int], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        logits = logits.copy()
        for row, slot in enumerate(slots):
            self._left[slot] -= 1
            if self._left[slot] < 0:
                logits[row, self._end_id] = logits[row].max() + 20
        return logits


def processor_s(call: Callable[[], object]) -> float:
    """Processor seconds of a call, all threads together."""
    started = time.process_time()
    call()
    return time.process_time() - started


def stream(recognizer: Any, samples: npt.NDArray[np.float32], *, partials: bool) -> dict[str, Any]:
    """Processor seconds per second, the most expensive tenth, and the number of events."""
    transcriber = StreamingTranscriber(recognizer, partials=partials)
    costs_s, kinds = [], []
    for start in range(0, len(samples), RATE_HZ // 10):
        before = time.process_time()
        kinds += [event.kind for event in transcriber.push(samples[start : start + RATE_HZ // 10])]
        costs_s.append(time.process_time() - before)
    before = time.process_time()
    kinds += [event.kind for event in transcriber.finish()]
    costs_s.append(time.process_time() - before)
    return {
        "processor_s_per_s": round(sum(costs_s) / len(samples) * RATE_HZ, 4),
        "longest_push_s": round(max(costs_s), 3),
        "partials": kinds.count("partial"),
        "finals": kinds.count("final"),
    }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tokens-per-second", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "streaming.json")
    options = parser.parse_args()

    recognizer: Any = linnet.load_model(options.model, threads=options.threads)
    if options.tokens_per_second is not None:
        bundle = recognizer.bundle
        recognizer.close()
        decoder: Any = EndsAtSpeechRate(
            open_decoder(bundle, threads=options.threads), options.tokens_per_second, bundle.model["eos_token_ids"][0]
        )
        recognizer = Qwen3ASRRecognizer(bundle, decoder, threads=options.threads)
    clip = read_audio(options.audio)
    samples = np.tile(clip, int(options.seconds * RATE_HZ / len(clip)) + 1)[: round(options.seconds * RATE_HZ)]
    whole_s = processor_s(lambda: recognizer.transcribe(samples))
    report = {
        "model": recognizer.bundle.name,
        "precision": recognizer.bundle.precision,
        "seconds": options.seconds,
        "threads": options.threads,
        "tokens_per_second": options.tokens_per_second,
        "whole_recording": {"processor_s_per_s": round(whole_s / options.seconds, 4)},
        "finals_only": stream(recognizer, samples, partials=False),
        "with_partials": stream(recognizer, samples, partials=True),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "provenance": provenance(),
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    results[recognizer.bundle.name] = report
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
