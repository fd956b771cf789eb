"""A small GPT, trained on the text of this repository, that goes on after `kill -9` as if nothing had been.

    python train.py --steps 200 --every 10 --ranks 2

Data parallel with gloo. A step has two micro-batches, of which one rank takes both, and two ranks one each. The sum of
two gradients is the same in either order, so the losses are the same bit for bit on one rank and on two, and a run that
was killed may go on with another number of ranks. ``drill.py`` kills it and compares.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn import functional

from ebb.checkpoint import Checkpointer
from ebb.torch import dcp

REPO = Path(__file__).resolve().parents[4]
MICRO_BATCHES = 2
CONTEXT = 64
BATCH = 8
SEED = 7


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            one.view(batch, length, self.heads, -1).transpose(1, 2)
            for one in self.attention(self.before(x)).split(width, dim=2)
        )
        scores = (q @ k.transpose(2, 3)) / (width // self.heads) ** 0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, float("-inf")).softmax(3) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Gpt(nn.Module):
    """Of bytes. The weights of its first layer are those of its last."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


def read_text() -> torch.Tensor:
    text = b"\n".join(path.read_bytes() for path in sorted((REPO / "docs").glob("*.md")))
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def micro_batch(text: torch.Tensor, step: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Follows from the step alone: where the data stands need not be saved."""
    chance = torch.Generator().manual_seed(SEED + step * MICRO_BATCHES + n)
    starts = torch.randint(0, len(text) - CONTEXT - 1, (BATCH,), generator=chance).tolist()
    rows = torch.stack([text[at : at + CONTEXT + 1] for at in starts]).long()
    return rows[:, :-1], rows[:, 1:]


def train_step(model: Gpt, text: torch.Tensor, step: int) -> float:
    """Leaves the mean gradient of all micro-batches in the parameters; the mean loss."""
    parameters = list(model.parameters())
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    total: torch.Tensor | None = None
    for n in range(rank, MICRO_BATCHES, ranks):
        tokens, targets = micro_batch(text, step, n)
        loss = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        gradients = torch.autograd.grad(loss, parameters)
        flat = torch.cat([loss.detach().reshape(1), *(one.reshape(-1) for one in gradients)])
        total = flat if total is None else total + flat
    assert total is not None, "there are as many micro-batches as ranks"
    if ranks > 1:
        dist.all_reduce(total)
    total /= MICRO_BATCHES
    at = 1
    for parameter in parameters:
        parameter.grad = total[at : at + parameter.numel()].view_as(parameter).clone()
        at += parameter.numel()
    return total[0].item()


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    text = read_text()
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with Checkpointer(options.node, options.run, keep_last=3) as checkpointer:
        first = 0
        if options.resume and checkpointer.latest() is not None:
            state = state_of(model, optimizer)
            first = dcp.load(checkpointer, state)
            set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        say(options, resumed=first, ranks=options.ranks)
        for step in range(first, options.steps):
            loss = train_step(model, text, step)
            optimizer.step()
            say(options, step=step, loss=loss)
            if (step + 1) % options.every == 0:
                dcp.async_save(checkpointer, step + 1, state_of(model, optimizer))


def state_of(model: Gpt, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}


def say(options: argparse.Namespace, **what: Any) -> None:
    if options.rank == 0:
        print(json.dumps(what), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", help="where the node is; default: EBB_NODE, else http://127.0.0.1:9700")
    parser.add_argument("--run", default="small-gpt")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="steps between snapshots")
    parser.add_argument("--ranks", type=int, choices=(1, MICRO_BATCHES), default=1)
    parser.add_argument("--fresh", dest="resume", action="store_false", help="begin anew")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--meeting", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    if options.ranks == 1:
        train(options)
        return
    others: list[subprocess.Popen[bytes]] = []
    if options.rank == 0:
        options.meeting = os.path.join(tempfile.mkdtemp(), "meeting")
        for rank in range(1, options.ranks):
            more = ["--rank", str(rank), "--meeting", options.meeting]
            others.append(subprocess.Popen([sys.executable, __file__, *sys.argv[1:], *more]))
    dist.init_process_group(
        "gloo", init_method=f"file://{options.meeting}", rank=options.rank, world_size=options.ranks
    )
    train(options)
    dist.barrier()
    dist.destroy_process_group()
    for one in others:
        one.wait()


if __name__ == "__main__":
    main()
