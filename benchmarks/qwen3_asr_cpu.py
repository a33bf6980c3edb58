"""How fast full-size Qwen3-ASR runs on CPU cores: Linnet beside every peer that is installed, and beside the limits.

    python ../shared/tools/make_checkpoint.py Qwen3-ASR-0.6B checkpoint        # or a real one
    linnet export checkpoint bundles/int4 --decoder int4
    linnet export checkpoint bundles/int8 --decoder int8
    python benchmarks/qwen3_asr_cpu.py --linnet bundles/int4 bundles/int8 \\
        --official checkpoint --official-python /envs/qwen-asr/bin/python \\
        --sherpa sherpa-model --mtmd llama-mtmd-cli,model.gguf,mmproj.gguf

Every row is a process of its own. Cold is from starting it to the text of the first transcription; warm is the best of
`--repeats` more. Random weights say nothing and never stop, so unless `--natural` is given everybody generates
`--tokens-per-s` tokens per second of audio. Long files are cut by Linnet itself; peers get pieces of 30 s, since whole
files cost them many times that. `--busy` repeats the run with a process that never rests on one of the cores.

The load of the machine before the run is written down with the figures: on a busy machine they mean nothing.
The table goes to stdout, everything to results/qwen3_asr_cpu.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from linnet.audio import read_audio, write_audio
from linnet.environment import provenance

ROOT = Path(__file__).parents[1]
WORKERS = Path(__file__).with_name("qwen3_asr_workers.py")
RATE_HZ = 16_000
CUT_S = 30.0
QUIET_LOAD = 0.3
"""Up to this one-minute load average before the run, the machine counts as quiet."""


def speech(duration_s: float) -> np.ndarray:
    """Real speech of any length: the samples of the repository one after another, from the longest on, repeated."""
    clips = sorted((read_audio(path) for path in sorted((ROOT / "samples").glob("*.flac"))), key=len, reverse=True)
    needed, parts = round(duration_s * RATE_HZ), []
    while sum(map(len, parts)) < needed:
        parts.append(clips[len(parts) % len(clips)])
    return np.concatenate(parts)[:needed]


def run(system: str, job: dict[str, Any], python: str, timeout_s: float) -> dict[str, Any]:
    """One row: the worker's answer, or the error that it ended with."""
    environment = os.environ | {
        name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    started = time.time()
    try:
        done = subprocess.run(
            [python, str(WORKERS), system, json.dumps(job)],
            capture_output=True, text=True, timeout=timeout_s, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"more than {timeout_s:g} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    row["cold_s"] = row.pop("text_at") - started
    row["rtf"] = min(row["warm_s"]) / job["duration_s"] if row["warm_s"] else None
    return row


@contextlib.contextmanager
def busy_core(core: int) -> Iterator[None]:
    """Something else that wants all of one core."""
    spinner = subprocess.Popen(
        [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    )
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()


def memory_read_gb_s(threads: int) -> float:
    """Bandwidth of reading memory: the largest of a gigabyte of integers, split among threads (best of 5)."""
    parts = np.array_split(np.ones(1 << 27, np.int64), threads)  # zeros nobody wrote are one page, in cache
    with ThreadPoolExecutor(threads) as pool:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            times.append(time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / min(times) / 1e9


def gemm_tops(threads: int) -> dict[str, float]:
    """Peak of matrix products in ONNX Runtime, 10¹² operations per second: int8 (signed weights) and fp32."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    rows, inner, columns = 512, 1024, 3072  # a prefill of 512 positions through an MLP of the 0.6B
    rng = np.random.default_rng(0)
    found = {}
    for name, op, left, right in (
        (
            "int8",
            "MatMulInteger",
            rng.integers(0, 255, (rows, inner), np.uint8),
            rng.integers(-127, 127, (inner, columns), np.int8),
        ),
        (
            "fp32",
            "MatMul",
            rng.standard_normal((rows, inner)).astype(np.float32),
            rng.standard_normal((inner, columns)).astype(np.float32),
        ),
    ):
        weights = onnx.numpy_helper.from_array(right, "w")
        kind = helper.np_dtype_to_tensor_dtype(left.dtype)
        answer = TensorProto.INT32 if name == "int8" else TensorProto.FLOAT
        graph = helper.make_graph(
            [helper.make_node(op, ["x", "w"], ["y"])], name,
            [helper.make_tensor_value_info("x", kind, [rows, inner])],
            [helper.make_tensor_value_info("y", answer, [rows, columns])], [weights],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        times = []
        for _ in range(20):
            started = time.perf_counter()
            session.run(None, {"x": left})
            times.append(time.perf_counter() - started)
        found[name] = 2 * rows * inner * columns / min(times) / 1e12
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text; the ratio is a system's warm time over that of the first one in the same condition."""
    header = [
        "system",
        "threads",
        "audio s",
        "busy",
        "RTF",
        "× first",
        "prefill/s",
        "decode/s",
        "first token s",
        "cold s",
        "MB",
    ]
    lines = [header]
    first: dict[tuple[Any, ...], float] = {}
    for row in rows:
        condition = (row["threads"], row["duration_s"], row["busy"])
        start = [row["name"], str(row["threads"]), f"{row['duration_s']:g}", "yes" if row["busy"] else ""]
        if "error" in row:
            lines.append([*start, row["error"][:60]])
            continue
        ratio = ""
        if row["rtf"] is not None:
            ratio = f"{row['rtf'] / first.setdefault(condition, row['rtf']):.2f}"
        numbers = [(row["rtf"], ".4f"), (None, ratio), (row.get("prefill_tokens_per_s"), ".0f"),
                   (row.get("decode_tokens_per_s"), ".1f"), (row.get("first_token_s"), ".2f"), (row["cold_s"], ".2f"),
                   (row["peak_mb"], ".0f")]  # fmt: skip
        cells = [
            form if value is None and form == ratio else "–" if value is None else format(value, form)
            for value, form in numbers
        ]
        lines.append([*start, *cells])
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(header))]
    return "".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        + "\n"
        for line in lines
    )


def bare(value: Any) -> Any:
    """An option as it is written down: of paths only the name, since folders are nobody's business."""
    if isinstance(value, list):
        return [bare(item) for item in value]
    return ",".join(Path(part).name for part in value.split(",")) if isinstance(value, str) else value


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--linnet", nargs="+", default=[], metavar="BUNDLE", help="bundles; the first is the yardstick")
    parser.add_argument("--official", metavar="CHECKPOINT", help="run qwen-asr on this checkpoint")
    parser.add_argument("--official-python", default=sys.executable, help="interpreter that has qwen-asr")
    parser.add_argument("--transformers", metavar="CHECKPOINT", help="run transformers on this -hf checkpoint")
    parser.add_argument("--transformers-python", default=sys.executable, help="interpreter that has transformers")
    parser.add_argument("--sherpa", metavar="FOLDER", help="run sherpa-onnx on this exported model")
    parser.add_argument("--sherpa-python", default=sys.executable, help="interpreter that has sherpa-onnx")
    parser.add_argument("--mtmd", metavar="CLI,MODEL,MMPROJ", help="run llama.cpp's llama-mtmd-cli")
    parser.add_argument("--durations-s", nargs="+", type=float, default=[11, 30, 300])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens-per-s", type=float, default=3.0)
    parser.add_argument("--natural", action="store_true", help="let answers end by themselves (real weights)")
    parser.add_argument("--busy", action="store_true", help="measure with one busy core as well")
    parser.add_argument("--timeout-s", type=float, default=1800)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "qwen3_asr_cpu.json")
    options = parser.parse_args()
    systems = [("linnet", bundle, sys.executable) for bundle in options.linnet]
    for name, model, python in (("official", options.official, options.official_python),
                                ("transformers", options.transformers, options.transformers_python),
        ("sherpa", options.sherpa, options.sherpa_python),
                                ("mtmd", options.mtmd, sys.executable)):  # fmt: skip
        if model:
            systems.append((name, model, python))
    if not systems:
        parser.error("nothing to measure: give --linnet, --official, --sherpa or --mtmd")

    load_before = os.getloadavg()[0]
    limits = {str(threads): {"memory_read_gb_s": memory_read_gb_s(threads), "gemm_tops": gemm_tops(threads)}
              for threads in options.threads}  # fmt: skip
    rows: list[dict[str, Any]] = []
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        for duration_s in options.durations_s:
            audio = Path(folder) / f"{duration_s:g}.wav"
            write_audio(audio, speech(duration_s), RATE_HZ)
            for threads in options.threads:
                for busy in (False, True) if options.busy else (False,):
                    for system, model, python in systems:
                        job = {"model": model, "audio": str(audio), "duration_s": duration_s, "threads": threads,
                               "repeats": options.repeats, "tokens_per_s": options.tokens_per_s, "cut_s": CUT_S,
                               "natural": options.natural}  # fmt: skip
                        name = f"{system} {Path(model.split(',')[-2] if system == 'mtmd' else model).name}"
                        with busy_core(cores[-1]) if busy else contextlib.nullcontext():
                            found = run(system, job, python, options.timeout_s)
                        rows.append({"name": name, "threads": threads, "duration_s": duration_s, "busy": busy} | found)
                        sys.stderr.write(
                            f"{name}, {threads} threads, {duration_s:g} s: {found.get('rtf') or found.get('error')}\n"
                        )
    quiet = load_before <= QUIET_LOAD
    hidden = ("out", "official_python", "transformers_python", "sherpa_python")
    settings = {key: bare(value) for key, value in vars(options).items() if key not in hidden}
    report = {"quiet": quiet, "load_before": load_before, "limits": limits, "rows": rows, "settings": settings,
              "provenance": provenance()}  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(table(rows))
    for threads, limit in limits.items():
        products = ", ".join(f"{name} {value:.2f}" for name, value in limit["gemm_tops"].items())
        sys.stdout.write(
            f"limits at {threads} threads: memory {limit['memory_read_gb_s']:.1f} GB/s, products {products} TOP/s\n"
        )
    if not quiet:
        sys.stdout.write(f"The machine was busy before the run (load {load_before:.1f}): do not quote these figures.\n")


if __name__ == "__main__":
    main()
