"""`linnet decode`: tokens in a .bsq file → audio."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from linnet.verbs.terminal import say


def decode(
    codes: Path,
    out: Path,
    /,
    model: str,
    vocoder: Literal["auto", "head", "griffin-lim"] = "auto",
    threads: int | None = None,
    quiet: bool = False,
) -> int:
    """Turn the tokens of a .bsq file into sound. The path written goes to stdout.

    Args:
        codes: A .bsq file, as `linnet encode` writes it.
        out: The audio file to write; its ending decides the format (.wav, .flac, .ogg, .opus, .mp3).
        model: The tokenizer that encoded: bundle folder, run folder, or the name of a pulled model.
        vocoder: head is the trained one, griffin-lim guesses phases; auto is what the model was found better with.
        threads: CPU threads; by default all cores.
        quiet: Nothing on stderr.
    """
    import sys
    import time

    from linnet.audio import write_blocks
    from linnet.codes import Codes
    from linnet.progress import task_bar
    from linnet.runtime.loader import load_codec
    from linnet.verbs.run_folder import as_bundle

    loaded = Codes.load(codes)
    with as_bundle(model) as bundle, task_bar("decode", quiet=quiet) as show:
        codec = load_codec(bundle, threads=threads)
        started = time.perf_counter()
        write_blocks(out, codec.decode_blocks(loaded, vocoder=vocoder, progress=show), loaded.sample_rate_hz)
        spent_s = time.perf_counter() - started
    if not quiet:
        say(f"{loaded.duration_s:.2f} s at {loaded.sample_rate_hz} Hz, RTF {spent_s / loaded.duration_s:.3f}")
    sys.stdout.write(f"{out}\n")
    return 0
