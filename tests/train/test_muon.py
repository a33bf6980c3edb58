"""Muon beside AdamW: which weights take which, what one update does, one learning rate, and states that come back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from linnet.train.config import TrainConfig
from linnet.train.muon import Muon, MuonWithAdamW, orthogonalise
from linnet.train.optim import build_optimizer

CONFIG = TrainConfig(family="any", run_dir=Path("unused"), optimizer="muon", learning_rate=1e-2, weight_decay=0.0)


class Net(nn.Module):
    """An embedding, two layers, and a head, as every family here has them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = Net()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tower(tokens)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for step in range(steps):
        loss = model(torch.tensor([step % 5, 1, 3])).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def test_an_update_is_orthogonal_in_the_layers_and_adamw_elsewhere() -> None:
    model, twin = Encoder(), Encoder()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, CONFIG)
    assert isinstance(optimizer, MuonWithAdamW)
    model(torch.tensor([0, 1, 3])).square().mean().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    optimizer.zero_grad()
    update(model, optimizer)
    update(twin, torch.optim.AdamW(twin.parameters(), lr=1e-2, betas=CONFIG.adam_betas, weight_decay=0.0))
    after, adamw = dict(model.named_parameters()), dict(twin.named_parameters())
    for name, value in after.items():
        moved = value.detach() - before[name]
        if ".layers." in name and value.ndim == 2:
            # Directions with a gradient to speak of are brought to a similar size (Newton–Schulz in five steps lets
            # them lie between 0.7 and 1.2); the scale of 0.2 · √8 makes the mean square that of AdamW.
            sizes = torch.linalg.svdvals(moved)
            strongest = torch.linalg.svdvals(gradients[name])
            assert float(strongest[1] / strongest[0]) < 0.5 < 0.55 < float(sizes[1] / sizes[0])
            assert float(sizes[0]) == pytest.approx(1e-2 * 0.2 * 8**0.5, rel=0.3)
        else:
            torch.testing.assert_close(value, adamw[name], atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16), (1, 8)])
def test_updates_equal_those_of_torchs_muon(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, shape[0] * shape[1]).reshape(shape)) for _ in range(2))
    optimizer = Muon([ours], lr=1e-2, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    # torch iterates in bfloat16 (8 bits), which leaves about 1 % of an update; four updates move by about 0.06.
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_orthogonalising_applies_the_quintic_to_every_singular_value() -> None:
    torch.manual_seed(2)
    matrix = torch.randn(12, 40) * torch.logspace(0, -3, 12)[:, None]
    u, sizes, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    sizes = sizes / sizes.norm()
    for _ in range(5):
        sizes = 3.4445 * sizes - 4.775 * sizes**3 + 2.0315 * sizes**5
    # In float32 the square of the smallest size, 1e-6 of the largest, keeps about one digit less than it has.
    torch.testing.assert_close(orthogonalise(matrix).double(), u @ torch.diag(sizes) @ v, atol=1e-4, rtol=0)


def test_a_learning_rate_set_on_the_groups_reaches_both() -> None:
    model = Encoder()
    optimizer = build_optimizer(model, CONFIG)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    update(model, optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_states_come_back() -> None:
    whole, part = Encoder(), Encoder()
    update(whole, build_optimizer(whole, CONFIG), steps=6)
    first = build_optimizer(part, CONFIG)
    update(part, first, steps=5)
    state = first.state_dict()
    again = build_optimizer(part, replace(CONFIG, learning_rate=123.0))  # the state's learning rate wins
    again.load_state_dict(state)
    loss = part(torch.tensor([0, 1, 3])).square().mean()  # the sixth batch
    loss.backward()
    again.step()
    for name, value in part.named_parameters():
        assert torch.equal(value, dict(whole.named_parameters())[name]), name


def test_rates_per_layer_reach_matrices_and_vectors() -> None:
    def ratio(name: str) -> float:
        return 0.5 if ".layers.0." in name else 0.0 if name.endswith("head.weight") else 1.0

    torch.manual_seed(3)
    model, twin = Encoder(), Encoder()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, CONFIG, ratio)
    for group in optimizer.param_groups:  # as the training loop does it
        group["lr"] = CONFIG.learning_rate * group["lr_ratio"]
    update(model, optimizer)
    update(twin, build_optimizer(twin, CONFIG))
    whole = dict(twin.named_parameters())
    for name, value in model.named_parameters():
        expected = before[name] + ratio(name) * (whole[name].detach() - before[name])
        torch.testing.assert_close(value.detach(), expected, atol=1e-7, rtol=0)


def test_processes_share_the_work_and_get_the_same_numbers(tmp_path: Path) -> None:
    """Two processes that hold the same gradients, five matrices."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("shared_muon.py")
    done = subprocess.run(
        [*command, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for got in both:
        for matrix, update in zip(got["matrices"], got["updates"], strict=True):
            assert torch.equal(update, orthogonalise(matrix))
    assert [got["orthogonalised"] for got in both] == [3, 2]
