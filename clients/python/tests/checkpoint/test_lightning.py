"""Lightning, saving to a run."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from support import NodeProcess

TRAIN = """
import sys, warnings
warnings.simplefilter("ignore")
import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from ebb.checkpoint import Checkpointer
from ebb.torch.lightning import EbbCheckpointIO

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 1)
        self.losses = []
    def training_step(self, batch, _):
        loss = self.layer(batch).square().mean()
        self.losses.append(loss.item())
        return loss
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

def data():
    torch.manual_seed(1)
    return torch.utils.data.DataLoader(torch.randn(32, 4), batch_size=8)

def fit(epochs, run, root, resume):
    with Checkpointer(sys.argv[1], run, rank=0, world_size=1) as checkpointer:
        io = EbbCheckpointIO(checkpointer)
        model = Model()
        callback = ModelCheckpoint(dirpath=root, save_top_k=1, every_n_epochs=1, monitor=None)
        trainer = L.Trainer(max_epochs=epochs, plugins=[io], callbacks=[callback], logger=False, accelerator="cpu",
            devices=1, enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(model, data(), ckpt_path=io.latest() if resume else None)
        steps = [one.step for one in checkpointer.list()]
    return model, steps

whole, _ = fit(4, "whole", sys.argv[2], False)
_, steps = fit(2, "parts", sys.argv[2], False)
assert steps == [8], steps
rest, steps = fit(4, "parts", sys.argv[2], True)
assert steps == [16, 8], steps  # Lightning keeps what it resumed from
assert rest.losses == whole.losses[8:], (rest.losses, whole.losses)
assert torch.equal(rest.layer.weight, whole.layer.weight)
print("the same")
"""

TAKE = """
import sys, warnings
warnings.simplefilter("ignore")
import lightning, pytorch_lightning as L
from ebb.checkpoint import Checkpointer
from ebb.torch.lightning import EbbCheckpointIO
with Checkpointer(sys.argv[1], "taken", rank=0, world_size=1) as checkpointer:
    io = EbbCheckpointIO(checkpointer)
    trainer = L.Trainer(plugins=[io], logger=False, accelerator="cpu", devices=1)
    print("taken" if trainer.strategy.checkpoint_io is io else "left")
"""


def test_a_resumed_trainer_is_where_it_would_have_been(node: NodeProcess, tmp_path: Path) -> None:
    skip_unless_found("lightning")
    done = run_beside(TRAIN, node.socket_url, str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_where_both_packages_are_installed_the_trainer_of_the_other_takes_it_too(node: NodeProcess) -> None:
    skip_unless_found("lightning", "pytorch_lightning")
    done = run_beside(TAKE, node.socket_url)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "taken"


def run_beside(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Lightning and its dependencies warn of much."""
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


def skip_unless_found(*names: str) -> None:
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
