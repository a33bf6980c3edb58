"""What a conversion costs: wall time, processor time, peak memory and size of the bundle, a process per conversion.

    python benchmarks/conversion.py CHECKPOINT --size 0.6B
    python benchmarks/conversion.py CHECKPOINT --size 1.7B --decoders int8 int4
    python benchmarks/conversion.py CHECKPOINT --size aligner --decoders int8

CHECKPOINT is a folder in the official layout; random weights do, since neither time nor memory depends on them. Each
case is one `linnet export`; the encoder is int8, but for the cases that vary it. The checkpoint's files are read once
beforehand, since who has just downloaded them has them in memory too. Cases go to results/conversion.json as they are
finished and take the place of older ones; --note says there what else the machine was doing, and `other_cores` how
many cores other processes kept busy meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from linnet.environment import provenance

ROOT = Path(__file__).parents[1]
LIMITS = {"0.6B": {"wall_s": 90, "peak_bytes": 1.5e9}, "1.7B": {"wall_s": 240, "peak_bytes": 3e9}}
"""On two cores; none is set for the aligner."""
ONNX = ("int8", "int8-careful", "int4", "int4-asym", "fp32")
GGUF = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0")
ENCODERS = ("int8-careful", "fp32")
"""Measured with the default decoder, int8, the first of ONNX."""


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", choices=["0.6B", "1.7B", "aligner"], default="0.6B")
    parser.add_argument(
        "--decoders", nargs="+", choices=[*ONNX, *GGUF], help="all of them, and all encoders, if absent"
    )
    parser.add_argument("--bundles", type=Path, help="keep the bundles in this folder")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "conversion.json")
    options = parser.parse_args()

    cases = [("int8", decoder) for decoder in options.decoders or (*ONNX, *GGUF)]
    if options.decoders is None:
        cases += [(encoder, ONNX[0]) for encoder in ENCODERS]
    warm(options.checkpoint)
    for encoder, decoder in cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.bundles or Path(temporary)
            bundle = folder / f"{options.size}-{encoder}-{decoder}"
            case = measure(options.checkpoint, bundle, encoder, decoder)
        case = {"size": options.size, "encoder": encoder, "decoder": decoder, **case, "note": options.note}
        store(options.out, case | {"provenance": provenance()})
        print(line(case), flush=True)


def warm(checkpoint: Path) -> None:
    """Read the weights once, so that the first case does not pay for the disk."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def measure(checkpoint: Path, bundle: Path, encoder: str, decoder: str) -> dict[str, Any]:
    """Convert in a process of its own; the peak is the kernel's, of the resident set."""
    command = [sys.executable, "-m", "linnet.cli", "export", str(checkpoint), str(bundle)]
    command += ["--encoder", encoder, "--decoder", decoder]
    busy, started = busy_s(), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # errors stay visible
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s, cpu_s = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    if process.returncode:
        sys.exit(f"Conversion to encoder {encoder} and decoder {decoder} failed.")
    return {
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "other_cores": round(max(0.0, busy_s() - busy - cpu_s) / wall_s, 2),
        "peak_bytes": usage.ru_maxrss * 1024,
        "bundle_bytes": sum(path.stat().st_size for path in bundle.iterdir()),
    }


def busy_s() -> float:
    """Seconds that all cores together have worked since the start (Linux): user, nice and system time."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=4)
    return sum(int(field) for field in fields[1:4]) / os.sysconf("SC_CLK_TCK")


def store(out: Path, case: dict[str, Any]) -> None:
    """Put a case into the file in the place of an older one of the same size and precisions."""
    known = json.loads(out.read_text(encoding="utf-8"))["cases"] if out.exists() else []
    keys = ("size", "encoder", "decoder")
    kept = [one for one in known if any(one[key] != case[key] for key in keys)]
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"limits": LIMITS, "cases": [*kept, case]}, indent=2, ensure_ascii=False) + "\n"
    out.write_text(text, encoding="utf-8")


def line(case: dict[str, Any]) -> str:
    """A case beside its limits, for a person."""
    limit = LIMITS.get(case["size"])
    beside = "no limit" if limit is None else f"limits {limit['wall_s']} s, {limit['peak_bytes'] / 1e9:g} GB"
    return (
        f"{case['size']:8}encoder {case['encoder']:13}decoder {case['decoder']:13}{case['wall_s']:6.1f} s "
        f"({case['cpu_s']:.1f} s of processor, {case['other_cores']} other cores)  {case['peak_bytes'] / 1e9:.2f} GB"
        f"  bundle {case['bundle_bytes'] / 1e9:.2f} GB  ({beside})"
    )


if __name__ == "__main__":
    main()
