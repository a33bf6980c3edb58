"""How long a user waits before anything happens: `import linnet` and `linnet --help`, each in fresh processes.

    python benchmarks/startup.py --repeats 20

Medians and minima over the repeats, in milliseconds; bare_python is the interpreter alone, which all contain. One
run beforehand warms the disk cache. The answer goes to stdout and to results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from linnet.environment import provenance

ROOT = Path(__file__).parents[1]
IMPORT = "import time; t = time.perf_counter(); import linnet; print(time.perf_counter() - t)"


def wall_s(command: Sequence[str]) -> float:
    """Seconds from starting a process to its end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def import_s() -> float:
    """Seconds that `import linnet` takes inside a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(what: Callable[[], float], repeats: int) -> dict[str, float]:
    """Median and minimum in milliseconds, after one run that does not count."""
    what()
    times_ms = [what() * 1000 for _ in range(repeats)]
    return {"median_ms": round(statistics.median(times_ms), 1), "min_ms": round(min(times_ms), 1)}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "startup.json")
    options = parser.parse_args()

    installed = shutil.which("linnet", path=str(Path(sys.executable).parent))
    linnet = [installed] if installed else [sys.executable, "-m", "linnet.cli"]
    report = {
        "repeats": options.repeats,
        "import_linnet": measure(import_s, options.repeats),
        "linnet_help": measure(lambda: wall_s([*linnet, "--help"]), options.repeats),
        "linnet_transcribe_help": measure(lambda: wall_s([*linnet, "transcribe", "--help"]), options.repeats),
        "bare_python": measure(lambda: wall_s([sys.executable, "-c", "pass"]), options.repeats),
        "provenance": provenance(),
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
