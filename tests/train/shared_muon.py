"""Run as a program (`torchrun … shared_muon.py FOLDER`): orthogonalise on several processes, write what each did."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from linnet.train import muon
from linnet.train.trainer import leave_processes

if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.manual_seed(4)
    matrices = [torch.randn(shape) for shape in [(8, 8), (4, 16), (16, 4), (3, 5), (1, 7)]]
    own: list[Tensor] = []
    plain = muon.orthogonalise

    def counted(matrix: Tensor) -> Tensor:
        own.append(matrix)
        return plain(matrix)

    with patch.object(muon, "orthogonalise", counted):
        updates = muon.orthogonalise_shared(matrices)
    done = {"matrices": matrices, "updates": updates, "orthogonalised": len(own)}
    torch.save(done, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    leave_processes()
