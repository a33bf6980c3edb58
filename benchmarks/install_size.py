"""How much disk an installation takes: site-packages of the running Python, by distribution.

    python -m venv base && base/bin/pip install . && base/bin/python benchmarks/install_size.py --limit-mb 280

Counts the bytes of every file (compiled .pyc included) except pip and setuptools, which the environment brought.
The answer goes to stdout and to results/install_size.json. Exit code 1 if the limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
from collections import Counter
from importlib import metadata
from pathlib import Path

from linnet.environment import provenance

ROOT = Path(__file__).parents[1]
NOT_OURS = {"pip", "setuptools", "wheel"}


def sizes(site: Path) -> Counter[str]:
    """Bytes per distribution; files that no distribution lists count as "other"."""
    owners: dict[Path, str] = {}
    for distribution in metadata.distributions(path=[str(site)]):
        for file in distribution.files or ():
            owners[Path(str(distribution.locate_file(file))).resolve()] = distribution.metadata["Name"].lower()
    found: Counter[str] = Counter()
    for path in site.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found[owners.get(path.resolve(), "other")] += path.stat().st_size
    return found


def commit() -> str | None:
    """The repository's commit: the package that is measured lies outside of it and cannot know."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or None


def main() -> int:
    """Measure, write, print; the exit code says whether the limit was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-mb", type=float, help="fail above this many megabytes (10⁶ bytes)")
    parser.add_argument("--top", type=int, default=15, help="distributions to list")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "install_size.json")
    options = parser.parse_args()

    found: Counter[str] = Counter()
    for site in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        found += sizes(Path(site))
    counted = Counter({name: size for name, size in found.items() if name not in NOT_OURS})
    total_mb = counted.total() / 1e6
    report = {
        "site_packages_mb": round(total_mb, 1),
        "distributions": len(counted),
        "largest_mb": {name: round(size / 1e6, 1) for name, size in counted.most_common(options.top)},
        "provenance": provenance() | {"commit": commit()},
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    if options.limit_mb is not None and total_mb >= options.limit_mb:
        sys.stderr.write(f"install_size: {total_mb:.1f} MB in site-packages; the limit is {options.limit_mb:g} MB.\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
