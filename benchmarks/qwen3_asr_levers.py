"""What each setting of the Qwen3-ASR runtime is worth alone: one recording, one setting changed at a time.

    python benchmarks/qwen3_asr_levers.py bundles/int4 --others bundles/int8

Each row is a process of its own, as in qwen3_asr_cpu.py, with the same fixed number of tokens per second of audio. The
recording makes eight cuts of 30 s, so that side-by-side decoding has something to do. The ratio is the warm time over
that of the defaults; the defaults run first and last, and how far the two differ is the noise of the table.
The table goes to stdout, everything to results/qwen3_asr_levers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from qwen3_asr_cpu import CUT_S, QUIET_LOAD, RATE_HZ, ROOT, bare, run, speech

from linnet.audio import write_audio
from linnet.environment import provenance

LEVERS: list[tuple[str, dict[str, Any]]] = [
    ("defaults", {}),
    ("1 cut at a time", {"options": {"max_batch": 1}}),
    ("2 cuts side by side", {"options": {"max_batch": 2}}),
    ("4 cuts side by side", {"options": {"max_batch": 4}}),
    ("decoder threads wait busily", {"decoder_options": {"spinning": True}}),
    ("decoder on one thread", {"decoder_options": {"threads": 1}}),
    ("encoder on one thread", {"options": {"threads": 1}, "decoder_options": {}}),
    ("weights not laid out anew", {"decoder_options": {"prepack": False}}),
    ("full attention in the encoder", {"options": {"attention": "full"}}),
    ("defaults again", {}),
]


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="an ONNX bundle")
    parser.add_argument("--others", nargs="*", default=[], help="bundles of other precisions, run with the defaults")
    parser.add_argument("--duration-s", type=float, default=8 * CUT_S)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens-per-s", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "qwen3_asr_levers.json")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    jobs = [(name, options.bundle, change) for name, change in LEVERS]
    jobs += [(f"bundle {Path(other).name}", other, {}) for other in options.others]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "speech.wav"
        write_audio(audio, speech(options.duration_s), RATE_HZ)
        for name, bundle, change in jobs:
            job = {"model": bundle, "audio": str(audio), "duration_s": options.duration_s, "threads": options.threads,
                   "repeats": options.repeats, "tokens_per_s": options.tokens_per_s, "cut_s": CUT_S,
                   "natural": False} | change  # fmt: skip
            rows.append({"name": name, "change": change} | run("linnet", job, sys.executable, 1800))
            sys.stderr.write(f"{name}: {rows[-1].get('rtf') or rows[-1].get('error')}\n")
    quiet = load_before <= QUIET_LOAD
    settings = {name: bare(value) for name, value in vars(options).items() if name != "out"}
    report = {"quiet": quiet, "load_before": load_before, "rows": rows, "settings": settings,
              "provenance": provenance()}  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(table(rows))
    if not quiet:
        sys.stdout.write(f"The machine was busy before the run (load {load_before:.1f}): do not quote these figures.\n")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    first = rows[0].get("rtf")
    lines = [f"{'setting':32} {'RTF':>7} {'× default':>9} {'prefill/s':>9} {'decode/s':>9} {'MB':>6}"]
    for row in rows:
        if "error" in row or not first:
            lines.append(f"{row['name']:32} {row.get('error', '')[:60]}")
            continue
        lines.append(
            f"{row['name']:32} {row['rtf']:7.4f} {row['rtf'] / first:9.2f} {row['prefill_tokens_per_s'] or 0:9.0f} "
            f"{row['decode_tokens_per_s'] or 0:9.1f} {row['peak_mb']:6.0f}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
