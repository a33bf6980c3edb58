"""`linnet encode`: audio → tokens in a .bsq file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from linnet.verbs.terminal import say


def encode(
    audio: str,
    out: Path,
    /,
    model: str,
    coding: Literal["arithmetic", "packed"] = "arithmetic",
    threads: int | None = None,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Turn a recording into tokens. The path written goes to stdout; rates and speed go to stderr.

    Args:
        audio: A file, or - for stdin.
        out: The .bsq file to write; an existing one is replaced.
        model: A tokenizer: bundle folder, run folder, or the name of a pulled model.
        coding: arithmetic spends fewer bits where tokens are predictable; packed spends the same on all.
        threads: CPU threads; by default all cores.
        json: Print one JSON object (sizes, rates, speed) instead of the path.
        quiet: Nothing on stderr.
    """
    import json as json_text
    import sys
    import time

    from linnet.progress import task_bar
    from linnet.runtime.loader import load_codec
    from linnet.verbs.run_folder import as_bundle

    with as_bundle(model) as bundle, task_bar("encode", quiet=quiet) as show:
        codec = load_codec(bundle, threads=threads)
        started = time.perf_counter()
        codes = codec.encode(audio, progress=show)
        spent_s = time.perf_counter() - started
        size_bytes = codes.save(out, coding=coding)
    figures = {
        "path": str(out),
        "duration_s": codes.duration_s,
        "tokens": len(codes.ids),
        "bits_per_token": codes.bits,
        "nominal_bits_per_s": codes.nominal_bits_per_s,
        "bits_per_s": 8 * size_bytes / codes.duration_s,
        "size_bytes": size_bytes,
        "rtf": spent_s / codes.duration_s,
    }
    if not quiet:
        say(
            f"{codes.duration_s:.2f} s, {len(codes.ids)} tokens of {codes.bits} bits: {size_bytes} bytes, "
            f"{figures['bits_per_s']:.0f} bit/s with the header (nominal {codes.nominal_bits_per_s:.0f}), "
            f"RTF {figures['rtf']:.3f}"
        )
    sys.stdout.write((json_text.dumps(figures) if json else str(out)) + "\n")
    return 0
