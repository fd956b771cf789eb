"""Lightning, saving to a run."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from support import ONE_THREAD, NodeProcess

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

CALLBACKS = (
    TRAIN.split("whole, _ =")[0].replace("self.losses.append", "self.log('loss', loss); self.losses.append")
    + """
import pathlib
root = pathlib.Path(sys.argv[2])

class Killed(BaseException):
    pass

class KillAt(L.Callback):
    def __init__(self, epoch):
        self.epoch = epoch
    def on_train_epoch_start(self, trainer, _):
        if trainer.current_epoch == self.epoch:
            raise Killed

def fit(epochs, name, save_last, ckpt_path, kill_at=None):
    with Checkpointer(sys.argv[1], name, rank=0, world_size=1) as checkpointer:
        model = Model()
        best = ModelCheckpoint(dirpath=root / name, filename="best-{epoch}", save_top_k=2, monitor="loss", mode="min",
            save_last=save_last)
        weights = ModelCheckpoint(dirpath=root / name / "weights", filename="w-{epoch}", save_weights_only=True)
        trainer = L.Trainer(max_epochs=epochs, plugins=[EbbCheckpointIO(checkpointer)], logger=False,
            callbacks=[best, weights, KillAt(kill_at)], accelerator="cpu", devices=1, enable_progress_bar=False,
            enable_model_summary=False)
        try:
            trainer.fit(model, data(), ckpt_path=ckpt_path)
        except Killed:
            pass
        trainer.strategy.checkpoint_io.teardown()
        lists = [sorted(one.step for one in checkpointer.list())]
        with Checkpointer(sys.argv[1], name + ".weights", rank=0, world_size=1) as other:
            lists.append(sorted(one.step for one in other.list()))
        return model, best, lists

for save_last in (True, "link"):
    run = f"{sys.argv[3]}-{save_last}"
    whole, _, _ = fit(5, run + "-whole", save_last, None)
    _, best, lists = fit(5, run, save_last, None, kill_at=3)
    assert lists == [[8, 12], [12]], lists
    names = sorted(one.name for one in (root / run).glob("*.ckpt"))
    assert names == ["best-epoch=1.ckpt", "best-epoch=2.ckpt", "last.ckpt"], names
    rest, best, lists = fit(5, run, save_last, "last")
    assert rest.losses == whole.losses[12:], (rest.losses, whole.losses)
    assert torch.equal(rest.layer.weight, whole.layer.weight)
    assert lists[1] == [20] or lists[1] == [12, 20], lists
    assert set(lists[0]) >= {16, 20} and len(lists[0]) <= 3, lists
    with Checkpointer(sys.argv[1], run, rank=0, world_size=1) as checkpointer:
        io = EbbCheckpointIO(checkpointer)
        found = io.load_checkpoint(best.best_model_path)
        assert found["global_step"] == 20 and "optimizer_states" in found
        assert "optimizer_states" in io.load_checkpoint(root / run / "last.ckpt")
        weights = io.load_checkpoint(next((root / run / "weights").glob("w-epoch=4*.ckpt")))
        assert "optimizer_states" not in weights
        assert torch.equal(weights["state_dict"]["layer.weight"], rest.layer.weight)
        assert io.latest() in (best.best_model_path, str(root / run / "last.ckpt"))
        io.teardown()
print("the same")
"""
)

PATHS = """
import os, pathlib, sys, warnings
warnings.simplefilter("ignore")
import torch
from ebb.checkpoint import Checkpointer
from ebb.torch.lightning import EbbCheckpointIO
root, run = pathlib.Path(sys.argv[2]), sys.argv[3]
weight = torch.ones(3)
def checkpoint(step, full=True):
    return {"global_step": step, "state_dict": {"w": weight}, **({"optimizer_states": []} if full else {})}
def value(path):
    return io.load_checkpoint(path)["state_dict"]["w"][0].item()
def steps():
    io._settle()
    return sorted(one.step for one in checkpointer.list())
with Checkpointer(sys.argv[1], run, rank=0, world_size=1) as checkpointer:
    io = EbbCheckpointIO(checkpointer)
    io.save_checkpoint(checkpoint(10), root / "last.ckpt")
    weight.fill_(2)
    io.save_checkpoint(checkpoint(5), root / "last.ckpt")    # went back
    assert (value(root / "last.ckpt"), steps()) == (2, [5])
    io.save_checkpoint(checkpoint(5), root / "same.ckpt")    # the same content: one snapshot
    assert steps() == [5]
    weight.fill_(3)
    io.save_checkpoint(checkpoint(5), root / "other.ckpt")   # other content of the same step
    io.save_checkpoint(checkpoint(5, full=False), root / "weights.ckpt")
    os.symlink("same.ckpt", root / "link.ckpt")
    io.teardown()
with Checkpointer(sys.argv[1], run, rank=0, world_size=1) as checkpointer:
    io = EbbCheckpointIO(checkpointer)
    assert [value(root / f"{name}.ckpt") for name in ("last", "same", "link", "other", "weights")] == [2, 2, 2, 3, 3]
    io.remove_checkpoint(root / "link.ckpt")
    io.remove_checkpoint(root / "last.ckpt")
    assert value(root / "same.ckpt") == 2 and not (root / "last.ckpt").exists()
    os.rename(root, root.with_name("moved"))
    assert value(root.with_name("moved") / "other.ckpt") == 3
    io.remove_checkpoint(root / "same.ckpt")
    assert steps() == []
    assert io.latest() == str(root / "other.ckpt")
    for n in range(20):                                      # as Fabric does, without a step
        weight.fill_(n)
        io.save_checkpoint({"w": weight}, root / f"fabric-{n}.ckpt")
    assert [io.load_checkpoint(root / f"fabric-{n}.ckpt")["w"][0].item() for n in (0, 7, 19)] == [0, 7, 19]
    try:
        io.load_checkpoint("nothing.ckpt")
        raise SystemExit("found")
    except FileNotFoundError:
        pass
    io.teardown()
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
    assert [path.name for path in tmp_path.glob("*.ckpt")] != []
    assert all(path.read_text().startswith("A checkpoint in Ebb: ") for path in tmp_path.iterdir())


def test_last_best_top_k_and_weights_only_mean_what_lightning_means(
    node: NodeProcess, tmp_path: Path, run: str
) -> None:
    skip_unless_found("lightning")
    done = run_beside(CALLBACKS, node.socket_url, str(tmp_path), run)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same" in done.stdout


def test_a_path_belongs_to_what_was_saved_under_it_last(node: NodeProcess, run: str, tmp_path: Path) -> None:
    skip_unless_found("lightning")
    done = run_beside(PATHS, node.socket_url, str(tmp_path), run)
    assert done.returncode == 0, done.stderr[-3000:]


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
        timeout=300,
        env={**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "ignore"},
    )


def skip_unless_found(*names: str) -> None:
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def test_what_lightning_saves_in_a_signal_handler_has_its_own_path(
    node: NodeProcess, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed")
    import signal

    import torch

    from ebb.checkpoint import Checkpointer
    from ebb.checkpoint._image_writer import ImageWriter
    from ebb.torch.lightning import EbbCheckpointIO

    def checkpoint(n: int) -> dict[str, Any]:
        return {"global_step": 5, "state_dict": {"w": torch.full((10,), float(n))}, "optimizer_states": [{}]}

    write = ImageWriter.write

    def interrupted(self: ImageWriter, arrays: Any) -> None:
        monkeypatch.setattr(ImageWriter, "write", write)
        signal.raise_signal(signal.SIGUSR1)
        write(self, arrays)

    monkeypatch.setattr(ImageWriter, "write", interrupted)
    with Checkpointer(node.socket_url, run, rank=0, world_size=1) as checkpointer:
        plugin = EbbCheckpointIO(checkpointer)
        before = signal.signal(signal.SIGUSR1, lambda *_: plugin.save_checkpoint(checkpoint(2), tmp_path / "hpc.ckpt"))
        try:
            plugin.save_checkpoint(checkpoint(1), tmp_path / "step.ckpt")
        finally:
            signal.signal(signal.SIGUSR1, before)
        plugin.teardown()
        for name, n in (("step", 1), ("hpc", 2)):
            assert plugin.load_checkpoint(tmp_path / f"{name}.ckpt")["state_dict"]["w"][0] == n
