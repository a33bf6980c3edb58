"""`linnet pull`: a model's name → a bundle in the cache."""

from __future__ import annotations

import sys


def pull(
    model: str,
    /,
    source: str = "hf",
    encoder: str = "int8",
    decoder: tuple[str, ...] = ("int8",),
    name: str | None = None,
    keep_checkpoint: bool = False,
    force: bool = False,
    skip_verify: bool = False,
    quiet: bool = False,
) -> int:
    """Download a model, convert it, compare it with the original, and make it known under its name.

    Needs no torch. An interrupted download goes on where it stopped. A folder needs no network at all.

    Args:
        model: Name on the hub (Qwen/Qwen3-ASR-0.6B or qwen3-asr-0.6b), or a checkpoint folder.
        source: hf, modelscope, or a folder that holds checkpoints. HF_ENDPOINT names a mirror, HF_TOKEN a login.
        encoder: Precision of the encoder: fp32, int8, int8-careful.
        decoder: Decoders to include: fp32, int8, int8-careful, int4, int4-asym (ONNX), f16, q8_0, q6_k, q5_k_m,
            q4_k_m, q4_0 (GGUF); one of each kind at most.
        name: Name to register it under; by default the model's own, in lower case.
        keep_checkpoint: Keep the downloaded checkpoint.
        force: Replace a model of the same name.
        skip_verify: Do not compare with the original, which takes disk space and some seconds.
        quiet: No progress on stderr.
    """
    from linnet.progress import stage_bar
    from linnet.pull import pull as fetch
    from linnet.verbs.terminal import say

    with stage_bar(quiet=quiet) as show:
        pulled = fetch(
            model,
            source=source,
            encoder=encoder,
            decoder=decoder,
            name=name,
            keep_checkpoint=keep_checkpoint,
            force=force,
            verified=not skip_verify,
            progress=show,
        )
    if not pulled.new:
        say(f"linnet pull: {pulled.bundle.name} is there already, whole and of these precisions")
    if keep_checkpoint and pulled.checkpoint is not None:
        say(f"linnet pull: the checkpoint is in {pulled.checkpoint}")
    sys.stdout.write(f"{pulled.bundle.path}\n")
    say(f"linnet pull: use it with --model {pulled.bundle.name}")
    return 0
