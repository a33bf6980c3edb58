"""One system transcribes one file, in a process of its own: what `qwen3_asr_cpu.py` starts for every row of its table.

    python benchmarks/qwen3_asr_workers.py linnet '{"model": "bundles/mine", "audio": "11.wav", "threads": 2, …}'

A system is a class with `load()` and `transcribe()`; `tokens` says how many it generated. Only the packages of the one
system that runs are imported, so each may live in an environment of its own. The answer is one JSON line on stdout.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

AUDIO_TOKENS_PER_S = 13
"""Positions in the prompt that the encoder fills."""


class Linnet:
    """A bundle. Without `natural`, every cut answers a fixed number of tokens per second of audio."""

    packages = ("linnet", "onnxruntime", "llama-cpp-python")

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.tokens, self.steps_s, self.prompt_tokens, self.prefill_s = job, 0, 0.0, 0, 0.0
        self.first_token_at: float | None = None

    def load(self) -> None:
        from linnet.bundle import read_bundle
        from linnet.runtime import greedy
        from linnet.runtime import qwen3_asr as runtime
        from linnet.runtime.loader import open_decoder, resolve

        if not self.job["natural"]:
            greedy.TOKENS_PER_SECOND, greedy.EXTRA_TOKENS = self.job["tokens_per_s"], 0
            greedy.MIN_REPEATED_TOKENS = 10**9  # meaningless text repeats itself
            runtime.MAX_RETRIES = 0
        threads = self.job["threads"]
        bundle = read_bundle(resolve(self.job["model"]))
        if "decoder_options" in self.job:  # what qwen3_asr_levers.py turns
            from linnet.runtime.onnx_decoder import OnnxDecoder

            decoder: Any = OnnxDecoder(
                bundle.file("decoder.onnx"), **({"threads": threads} | self.job["decoder_options"])
            )
        else:
            decoder = open_decoder(bundle, self.job.get("decoder", "auto"), threads=threads)
        prefill, step = decoder.prefill, decoder.step

        def timed_prefill(prompts: Any) -> Any:
            started = time.perf_counter()
            result = prefill(prompts)
            self.prefill_s += time.perf_counter() - started
            self.prompt_tokens += sum(len(prompt) for prompt in prompts)
            self.tokens += len(prompts)
            self.first_token_at = self.first_token_at or time.perf_counter()
            return result

        def timed_step(slots: Any, tokens: Any) -> Any:
            started = time.perf_counter()
            result = step(slots, tokens)
            self.steps_s += time.perf_counter() - started
            self.tokens += len(slots)
            return result

        decoder.prefill, decoder.step = timed_prefill, timed_step  # type: ignore[method-assign]
        settings = {"threads": threads} | self.job.get("options", {})
        self.recognizer = runtime.Qwen3ASRRecognizer(bundle, decoder, **settings)

    def transcribe(self) -> str:
        self.tokens = self.prompt_tokens = 0
        self.steps_s = self.prefill_s = 0.0
        self.first_token_at = None
        started = time.perf_counter()
        text: str = self.recognizer.transcribe(self.job["audio"]).text
        self.first_token_s = (self.first_token_at or started) - started
        return text

    def details(self) -> dict[str, Any]:
        return {
            "first_token_s": self.first_token_s,
            "prefill_tokens_per_s": self.prompt_tokens / self.prefill_s if self.prefill_s else None,
            "decode_tokens_per_s": self.tokens / self.steps_s if self.steps_s else None,
        }


class Official:
    """The package qwen-asr in torch; bfloat16, its fastest mode on such CPUs. Long files go in pieces of `cut_s`."""

    packages = ("qwen-asr", "transformers", "torch")

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.tokens = job, 0

    def load(self) -> None:
        import torch
        from qwen_asr import Qwen3ASRModel

        torch.set_num_threads(self.job["threads"])
        budget = math.ceil(self.job["tokens_per_s"] * min(self.job["duration_s"], self.job["cut_s"]))
        self.model = Qwen3ASRModel.from_pretrained(
            self.job["model"],
            dtype=torch.bfloat16,
            device_map="cpu",
            max_inference_batch_size=10,
            max_new_tokens=budget,
        )
        generate = self.model.model.generate

        def counted(**inputs: Any) -> Any:
            answers = generate(**inputs)
            prompt_tokens = inputs["input_ids"].shape[1]
            self.tokens += len(answers.sequences) * (answers.sequences.shape[1] - prompt_tokens)
            return answers

        self.model.model.generate = counted

    def transcribe(self) -> str:
        import soundfile

        self.tokens = 0
        samples, rate_hz = soundfile.read(self.job["audio"], dtype="float32")
        step = round(self.job["cut_s"] * rate_hz)
        pieces = [(samples[start : start + step], rate_hz) for start in range(0, len(samples), step)]
        return " ".join(result.text for result in self.model.transcribe(audio=pieces, language=None))

    def details(self) -> dict[str, Any]:
        return {}


class Transformers:
    """transformers ≥ 5.13 in torch, bfloat16; `model` is a checkpoint in its own (-hf) layout. Pieces as one batch."""

    packages = ("transformers", "torch")

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.tokens = job, 0

    def load(self) -> None:
        import torch
        from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration

        torch.set_num_threads(self.job["threads"])
        self.processor = AutoProcessor.from_pretrained(self.job["model"])
        self.model = Qwen3ASRForConditionalGeneration.from_pretrained(self.job["model"], dtype=torch.bfloat16).eval()

    def transcribe(self) -> str:
        import soundfile
        import torch

        samples, rate_hz = soundfile.read(self.job["audio"], dtype="float32")
        step = round(self.job["cut_s"] * rate_hz)
        pieces = [samples[start : start + step] for start in range(0, len(samples), step)]
        budget = math.ceil(self.job["tokens_per_s"] * min(self.job["duration_s"], self.job["cut_s"]))
        inputs = self.processor.apply_transcription_request(pieces).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            answers = self.model.generate(**inputs, max_new_tokens=budget, do_sample=False)
        answers = answers[:, inputs["input_ids"].shape[1] :]
        self.tokens = answers.numel()
        texts = self.processor.batch_decode(answers, skip_special_tokens=True)
        return " ".join(texts)

    def details(self) -> dict[str, Any]:
        return {}


class SherpaOnnx:
    """sherpa-onnx; `model` is a folder made by its own export scripts."""

    packages = ("sherpa-onnx",)

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.tokens = job, 0

    def load(self) -> None:
        import sherpa_onnx

        folder = Path(self.job["model"])

        def find(pattern: str) -> str:
            found = sorted(folder.glob(pattern))
            return str(next((path for path in found if "int8" in path.name), found[0]))

        budget = math.ceil(self.job["tokens_per_s"] * min(self.job["duration_s"], self.job["cut_s"]))
        self.recognizer = sherpa_onnx.OfflineRecognizer.from_qwen3_asr(
            conv_frontend=find("conv_frontend*.onnx"),
            encoder=find("encoder*.onnx"),
            decoder=find("decoder*.onnx"),
            tokenizer=str(folder / "tokenizer") if (folder / "tokenizer").is_dir() else str(folder),
            num_threads=self.job["threads"],
            max_new_tokens=budget,
        )

    def transcribe(self) -> str:
        import soundfile

        samples, rate_hz = soundfile.read(self.job["audio"], dtype="float32")
        step = round(self.job["cut_s"] * rate_hz)
        texts, self.tokens = [], 0
        for start in range(0, len(samples), step):
            stream = self.recognizer.create_stream()
            stream.accept_waveform(rate_hz, samples[start : start + step])
            self.recognizer.decode_stream(stream)
            texts.append(stream.result.text)
            self.tokens += len(stream.result.tokens)
        return " ".join(texts)

    def details(self) -> dict[str, Any]:
        return {}


class Mtmd:
    """llama.cpp's multimodal command line: `model` is "CLI,MODEL.gguf,MMPROJ.gguf"; a whole process each time.

    Its context is as large as the file needs: the default, all that the model allows, would take 8 GB.
    """

    packages = ()

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.program, self.model, self.projector = job["model"].split(",")
        self.log, self.tokens = "", 0

    def load(self) -> None:
        shown = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False)
        self.version = (shown.stdout + shown.stderr).strip().splitlines()[0]

    def transcribe(self) -> str:
        job = self.job
        command = [
            self.program,
            "-m",
            self.model,
            "--mmproj",
            self.projector,
            "--audio",
            job["audio"],
            "-p",
            "Transcribe.",
        ]
        budget = math.ceil(job["tokens_per_s"] * job["duration_s"])
        context = 512 + math.ceil(AUDIO_TOKENS_PER_S * job["duration_s"]) + budget
        # From level 4 on, the program writes its own times.
        command += ["-t", str(job["threads"]), "-c", str(context), "--temp", "0", "-lv", "4"]
        if not job["natural"]:
            command += ["-n", str(budget)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.log = done.stderr
        answered = re.search(r"print:\s+eval time.*?/\s*(\d+) runs", self.log)
        self.tokens = int(answered[1]) + 1 if answered else 0
        return done.stdout

    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = {"llama.cpp": self.version}
        if match := re.search(r"print:\s+eval time.*?([\d.]+) tokens per s", self.log):
            found["decode_tokens_per_s"] = float(match[1])
        # Its "prompt eval time" counts the encoder too, so the decoder's batches are added up instead.
        tokens = sum(int(count) for count in re.findall(r"n_tokens_batch = (\d+)", self.log))
        spent_ms = sum(float(time_ms) for time_ms in re.findall(r"audio decoded .*? in ([\d.]+) ms", self.log))
        if spent_ms:
            found["prefill_tokens_per_s"] = tokens / spent_ms * 1e3
        return found


def peak_mb() -> float:
    """The most memory this process or a child of it (mtmd is one) held. Linux only: ru_maxrss counts the parent too."""
    status = Path("/proc/self/status").read_text()
    own_kib = int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]
    return max(own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024 / 1e6


SYSTEMS = {"linnet": Linnet, "official": Official, "transformers": Transformers, "sherpa": SherpaOnnx, "mtmd": Mtmd}


def main() -> None:
    """Load, transcribe once (cold) and `repeats` times more (warm), print JSON."""
    system, job = SYSTEMS[sys.argv[1]], json.loads(sys.argv[2])
    runner = system(job)
    started = time.perf_counter()
    runner.load()
    load_s = time.perf_counter() - started
    text = runner.transcribe()
    text_at = time.time()
    warm_s = []
    for _ in range(job["repeats"]):
        started = time.perf_counter()
        runner.transcribe()
        warm_s.append(time.perf_counter() - started)
    versions = {}
    for name in system.packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    answer = {
        "text_at": text_at,
        "load_s": load_s,
        "warm_s": warm_s,
        "peak_mb": peak_mb(),
        "tokens": getattr(runner, "tokens", None),
        "characters": len(text),
        "versions": versions,
        "cpus": len(os.sched_getaffinity(0)),
        **runner.details(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
