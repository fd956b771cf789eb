"""Each program that a page shows does what the page says: those that train are killed in the middle, and go on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("jax", reason="JAX is not installed")

import ebb.jax
import ebb.torch
import ebb.torch.dcp
from ebb.checkpoint import Checkpointer
from support import ONE_THREAD, OWN_NODE, REPO, NodeProcess

PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TYPESCRIPT = re.compile(r"^```ts\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:9700"
KILLED_AT = 25


def blocks(page: Path, pattern: re.Pattern[str] = PYTHON) -> list[str]:
    return pattern.findall(page.read_text(encoding="utf-8"))


CHECKPOINTS = blocks(REPO / "docs/checkpoints.md")
TRAINING = [block for block in CHECKPOINTS if "print(" in block]


def test_every_page_with_programs_is_run_somewhere() -> None:
    pages = [REPO / "README.md", *(REPO / "docs").glob("*.md"), *(REPO / "clients/python").glob("*.md")]
    found = {page.relative_to(REPO).as_posix() for page in pages if blocks(page)}
    assert found == {"README.md", "clients/python/README.md", "docs/checkpoints.md", "docs/python.md"}
    assert (len(blocks(REPO / "README.md")), len(CHECKPOINTS), len(TRAINING)) == (1, 3, 2)


@pytest.mark.parametrize("n", range(len(TRAINING)))
def test_training_that_is_killed_goes_on_with_the_same_losses(node: NodeProcess, n: int) -> None:
    def losses(life: str, kill_at: int | None = None) -> list[str]:
        name = re.search(r'run="(\w+)"', TRAINING[n])
        assert name is not None
        code = TRAINING[n].replace(ADDRESS, node.url).replace(name[0], f'run="{name[1]}-{life}"')
        lines: list[str] = []
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if len(lines) == kill_at:
                    process.kill()
                    break
        assert process.returncode == (0 if kill_at is None else -9)
        return lines

    whole = losses("whole")
    first = losses("killed", KILLED_AT)
    rest = losses("killed")
    assert first == whole[:KILLED_AT]
    assert len(rest) < len(whole)
    assert rest == whole[-len(rest) :]
    assert losses("killed") == []  # a job that has ended and is started again


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_other_programs_run(node: NodeProcess, run: str) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "step": 5}
    [block] = blocks(REPO / "README.md")
    exec(compile(block.replace(ADDRESS, node.url), "README.md", "exec"), names)
    assert names["state"]["optimizer"]["state"][0]["step"] == 1

    [block] = [one for one in CHECKPOINTS if one not in TRAINING]
    with Checkpointer(node.url, run) as checkpointer:
        state = {"w": torch.ones(3)}
        for step in (0, 1):
            names = {"checkpointer": checkpointer, "state": state, "step": 0}
            exec(compile(block, "checkpoints.md", "exec"), names)
            assert checkpointer.wait().step == step == names["step"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_programs_of_the_modules_run(node: NodeProcess, run: str) -> None:
    from torch.distributed import checkpoint as torch_dcp

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with Checkpointer(node.url, run) as checkpointer:
        names = {
            "checkpointer": checkpointer,
            "step": 1,
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
        }
        save, load = block_of(ebb.torch).split("found =")
        exec(save, names)
        checkpointer.wait()
        exec("found =" + load, names)
        assert names["first"] == (2, 3)
    with Checkpointer(node.url, f"{run}-dcp") as checkpointer:
        names = {"checkpointer": checkpointer, "state": {"w": torch.ones(3)}, "step": 1, **vars(ebb.torch.dcp)}
        saves, load = block_of(ebb.torch.dcp).split("dcp.load(")
        exec(saves, {**names, "dcp": torch_dcp})
        checkpointer.wait(1)
        exec("dcp.load(" + load, {**names, "dcp": torch_dcp})
    with Checkpointer(node.url, f"{run}-jax") as checkpointer:
        names = {"checkpointer": checkpointer, "state": {"w": ebb.jax.np.ones(3)}, "step": 1}
        head, load = block_of(ebb.jax).split("state = ")
        exec(head, names)
        checkpointer.wait()
        exec("state = " + load, names)


def block_of(module: Any) -> str:
    [block] = PYTHON.findall(module.__doc__ or "")
    return str(block)


def test_the_program_in_typescript_reads_what_was_saved(node: NodeProcess) -> None:
    [block] = blocks(REPO / "docs/checkpoints.md", TYPESCRIPT)
    with Checkpointer(node.url, "gpt") as checkpointer:
        checkpointer.save(77, {"w": torch.ones(3)})
        checkpointer.wait()
    reading = block.replace("for (", "const names: string[] = []; for (", 1)
    code = f"""
import {{ openClient }} from '@ebb/client';
await using ebb = await openClient({{ node: {json.dumps(node.url)} }});
{reading.replace("await part.read", "names.push(name); await part.read")}
console.log(JSON.stringify([plan.snapshot.step, names]));
"""
    done = subprocess.run(
        [OWN_NODE, "--conditions=source", "--input-type=module-typescript", "-e", code],
        cwd=REPO / "packages/server",
        env={name: value for name, value in os.environ.items() if not name.startswith("EBB_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [77, ["w", ""]]
