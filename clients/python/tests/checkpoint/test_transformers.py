"""Transformers' Trainer, with its directories in a run."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from support import ONE_THREAD, NodeProcess

TRAIN = """
import os, shutil, sys, warnings
warnings.simplefilter("ignore")
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from ebb.checkpoint import Checkpointer
from ebb.torch.transformers import EbbTrainerCallback, latest_checkpoint

class Data(torch.utils.data.Dataset):
    def __len__(self): return 16
    def __getitem__(self, n):
        tokens = torch.arange(n, n + 8) % 32
        return {"input_ids": tokens, "labels": tokens}

def train(steps, run, root, resume):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=32, n_positions=16))
    args = TrainingArguments(output_dir=root, max_steps=steps, save_steps=3, per_device_train_batch_size=4,
        report_to=[], logging_steps=1, disable_tqdm=True, use_cpu=True, seed=5, lr_scheduler_type="constant")
    with Checkpointer(sys.argv[1], run, rank=0, world_size=1) as checkpointer:
        trainer = Trainer(model=model, args=args, train_dataset=Data(), callbacks=[EbbTrainerCallback(checkpointer)])
        path = latest_checkpoint(checkpointer, root) if resume else None
        trainer.train(resume_from_checkpoint=path)
        steps = [one.step for one in checkpointer.list()]
    return {one["step"]: one["loss"] for one in trainer.state.log_history if "loss" in one}, steps, path

root = sys.argv[2]
whole, steps, _ = train(6, "hf-whole", root + "/whole", False)
assert steps == [6, 3], steps
train(3, "hf-parts", root + "/parts", False)
shutil.rmtree(root + "/parts")
os.makedirs(root + "/parts/checkpoint-5")
rest, steps, path = train(6, "hf-parts", root + "/parts", True)
assert path == root + "/parts/checkpoint-3", path
assert steps == [6, 3], steps
assert rest == whole, (rest, whole)
print("the same")
"""


def test_a_resumed_trainer_is_where_it_would_have_been(node: NodeProcess, tmp_path: Path) -> None:
    """In a process of its own: Transformers and its dependencies warn of much."""
    for name in ("transformers", "accelerate"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, node.socket_url, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same" in done.stdout
