"""One step of a tiny tokenizer on process RANK of SIZE: `bsq_processes.py MANIFEST OUT RANK SIZE` saves gradients."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

import bsq_runs
from linnet.data.clips import load_clips
from linnet.models.bsq.config import BSQTrainConfig
from linnet.models.bsq.data import ReconstructionDataset, collate
from linnet.models.bsq.task import BSQTask

if __name__ == "__main__":
    manifest, out, rank, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting-{size}", rank=rank, world_size=size)
    config = BSQTrainConfig(
        shape=replace(bsq_runs.TINY, mel_mean=(), mel_std=()),
        train_manifests=(manifest,),
        run_dir=out / f"{size}-{rank}" / "run",
    )
    task = BSQTask(config)
    torch.manual_seed(0)
    built = task.build_model()
    for layer in (built.bsq.encoder.project, built.bsq.decoder.project):
        torch.nn.init.normal_(layer.weight, std=0.1)  # they start at zero, and the stacks would get no gradient
    model = DistributedDataParallel(built)
    _, clips = load_clips(task.train, config.run_dir.parent / "cache")
    data = ReconstructionDataset(clips, config, training=True)
    # Uneven shares: a mean of the processes' means would not be the mean over all tokens.
    shares = {1: [range(8)], 2: [range(3), range(3, 8)]}
    batch = collate([data[(0, index)] for index in shares[size][rank]], task.shape)
    task.step(model, batch, 0).loss.backward()
    if rank == 0:
        gradients = {name: p.grad.contiguous() for name, p in model.module.named_parameters() if p.grad is not None}
        save_file(gradients, out / f"gradients-{size}.safetensors")
    dist.destroy_process_group()
