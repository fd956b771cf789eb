"""Checkpoints side by side: how long training stands still, and what else it costs.

    npm run bench -- python/checkpoints [--rounds 5] [--gigabytes 2.1] [--arms copy,ebb,torch,…]
                                        [--json FILE] [--plot FILE]

The state is that of a small GPT with Adam: weights and two moments, float32, 870 tensors at 2.1 GB. Every arm is a
process of its own with a state of its own, and writes to /dev/shm (Ebb: its memory tier is there). Each round is beside
the limit: a copy of the same tensors by two threads into memory that is mapped already.

    stall     s until the state may change
    total     s until the checkpoint is whole where it was written to (Ebb: committed)
    cpu       s of the processors for one checkpoint, all processes
    extra     MB of anonymous memory at most, beside the state; Ebb's slot and DCP's shared memory are not in it
    restore   s into the tensors of a live model

What Ebb does after the commit (storing, copying to tier 2) is over before the restore; bench/tiers.py measures that.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Callable, ClassVar

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE)]

# -- the state ---------------------------------------------------------------------------------------------------


def shapes_of(gigabytes: float) -> dict[str, tuple[int, ...]]:
    """Of a GPT with 24 layers whose width makes weights and two moments that large."""
    width = round((gigabytes * 1e9 / 4 / 3 / (12 * 24)) ** 0.5 / 64) * 64
    shapes: dict[str, tuple[int, ...]] = {"wte": (2048, width), "ln.w": (width,)}
    for layer in range(24):
        at = f"h.{layer}"
        shapes |= {
            f"{at}.ln1.w": (width,),
            f"{at}.ln1.b": (width,),
            f"{at}.attn.w": (3 * width, width),
            f"{at}.attn.b": (3 * width,),
            f"{at}.proj.w": (width, width),
            f"{at}.proj.b": (width,),
            f"{at}.ln2.w": (width,),
            f"{at}.ln2.b": (width,),
            f"{at}.fc.w": (4 * width, width),
            f"{at}.fc.b": (4 * width,),
            f"{at}.fc2.w": (width, 4 * width),
            f"{at}.fc2.b": (width,),
        }
    return shapes


def state_bytes(gigabytes: float) -> int:
    return sum(3 * 4 * math.prod(shape) for shape in shapes_of(gigabytes).values())


def torch_state(gigabytes: float) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    shapes = shapes_of(gigabytes)
    return {group: {name: torch.randn(shape) for name, shape in shapes.items()} for group in ("model", "m", "v")}


def tensors_of(state: dict[str, Any]) -> list[Any]:
    return [tensor for group in state.values() for tensor in group.values()]


# -- the limit ---------------------------------------------------------------------------------------------------


class Limit:
    """Two threads copy the tensors into memory whose pages are there and mapped, and back."""

    def __init__(self, tensors: list[Any]) -> None:
        from ebb.checkpoint._copy import Copier, Run

        self._copier = Copier(2)
        length = sum(tensor.nbytes for tensor in tensors)
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            os.posix_fallocate(file.fileno(), 0, length)
            self._mapping = mmap.mmap(file.fileno(), length)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self._there, self._back = [], []
        at = 0
        for tensor in tensors:
            self._there.append(Run(base + at, tensor.data_ptr(), tensor.nbytes))
            self._back.append(Run(tensor.data_ptr(), base + at, tensor.nbytes))
            at += tensor.nbytes
        self.save()
        self.restore()

    def save(self) -> None:
        self._copier.copy(self._there)

    def restore(self) -> None:
        self._copier.copy(self._back)


# -- the arms ----------------------------------------------------------------------------------------------------


class Arm(ABC):
    """A way to make checkpoints, with a state of its own and a directory in memory for what it writes."""

    title: ClassVar[str]
    #: A process beside this one that works for it.
    helper_pid: int | None = None

    def __init__(self, gigabytes: float) -> None:
        self.directory = tempfile.mkdtemp(prefix="ebb-bench-", dir="/dev/shm")
        self.state = self.make_state(gigabytes)
        self.open(gigabytes)

    def make_state(self, gigabytes: float) -> dict[str, Any]:
        return torch_state(gigabytes)

    def open(self, gigabytes: float) -> None:  # noqa: B027
        """What is done once, before the first checkpoint."""

    @abstractmethod
    def save(self, step: int) -> None:
        """Returns when the state may change."""

    def finish(self) -> None:  # noqa: B027
        """Returns when the checkpoint is whole, for arms whose `save` returns before that."""

    def settle(self, step: int) -> None:  # noqa: B027
        """What else happens behind a checkpoint, so that it does not disturb what is measured next."""

    @abstractmethod
    def restore(self, step: int) -> None:
        """Fills the state; one that cannot be written (JAX) is made anew."""

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, step: int) -> str:
        """Of two names in turn, as jobs do that keep the last one."""
        return os.path.join(self.directory, f"slot-{step % 2}")


class CopyArm(Arm):
    title = "limit: copy by two threads"

    def open(self, gigabytes: float) -> None:
        self.limit = Limit(tensors_of(self.state))

    def save(self, step: int) -> None:
        self.limit.save()

    def restore(self, step: int) -> None:
        self.limit.restore()


class EbbArm(Arm):
    title = "Ebb"

    def open(self, gigabytes: float) -> None:
        from ebb.checkpoint import Checkpointer
        from support import NodeProcess

        room = f"{int(gigabytes * 1000 * 4.5) + 512}MiB"
        self.node = NodeProcess(memory_limit=room, disk_limit=room)
        self.helper_pid = self.node.pid
        self.checkpointer = Checkpointer(self.node.socket_path, "bench", keep_last=1)
        self.prepare()

    def prepare(self) -> None:
        self.checkpointer.prepare(self.state)

    def save(self, step: int) -> None:
        self.pending = self.checkpointer.save(step, self.state)

    def finish(self) -> None:
        self.pending.result()

    def settle(self, step: int) -> None:
        self.checkpointer.wait(step, "remote")

    def restore(self, step: int) -> None:
        self.checkpointer.restore(step, self.state)

    def close(self) -> None:
        self.checkpointer.close()
        self.node.close()
        super().close()


class EbbDcpArm(EbbArm):
    title = "Ebb, by PyTorch's DCP"

    def prepare(self) -> None:
        from ebb.torch.dcp import EbbStager

        open_group_of_one()
        EbbStager(self.checkpointer).prepare(self.state)

    def save(self, step: int) -> None:
        from ebb.torch import dcp

        self.pending = dcp.async_save(self.checkpointer, step, self.state)

    def restore(self, step: int) -> None:
        from ebb.torch import dcp

        dcp.load(self.checkpointer, self.state, step)


class TorchArm(Arm):
    title = "torch.save"
    crc = True

    def save(self, step: int) -> None:
        import torch

        torch.serialization.set_crc32_options(self.crc)
        torch.save(self.state, self.path(step))

    def restore(self, step: int) -> None:
        import torch

        copy_in(self.state, torch.load(self.path(step), mmap=True))


class TorchNoCrcArm(TorchArm):
    title = "torch.save, no CRC-32"
    crc = False


class SafetensorsArm(Arm):
    title = "safetensors"

    def save(self, step: int) -> None:
        from safetensors.torch import save_file

        save_file(
            {f"{group}.{name}": one for group, of in self.state.items() for name, one in of.items()}, self.path(step)
        )

    def restore(self, step: int) -> None:
        import torch
        from safetensors.torch import load_file

        found = load_file(self.path(step))
        with torch.no_grad():
            for group, of in self.state.items():
                for name, one in of.items():
                    one.copy_(found[f"{group}.{name}"])


class DcpArm(Arm):
    title = "PyTorch's DCP"

    def open(self, gigabytes: float) -> None:
        open_group_of_one()

    def save(self, step: int) -> None:
        import torch.distributed.checkpoint as dcp

        shutil.rmtree(self.path(step), ignore_errors=True)
        dcp.save(self.state, checkpoint_id=self.path(step))

    def restore(self, step: int) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.load(self.state, checkpoint_id=self.path(step))


class DcpAsyncArm(DcpArm):
    """With the stager that PyTorch takes by itself, which copies in a thread; then the state may change."""

    title = "PyTorch's DCP, async"

    def open(self, gigabytes: float) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().open(gigabytes)
        self.stager = DefaultStager(StagingOptions(False, True, True, False))

    def save(self, step: int) -> None:
        import torch.distributed.checkpoint as dcp

        shutil.rmtree(self.path(step), ignore_errors=True)
        self.answer = dcp.async_save(self.state, checkpoint_id=self.path(step), async_stager=self.stager)
        self.answer.staging_completion.result()

    def finish(self) -> None:
        self.answer.upload_completion.result()


class JaxArm(Arm):
    """The same state as arrays of JAX, on the CPU."""

    def make_state(self, gigabytes: float) -> dict[str, Any]:
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax.numpy as jnp
        import numpy as np

        rng = np.random.default_rng(0)
        shapes = shapes_of(gigabytes)
        return {
            group: {name: jnp.asarray(rng.random(shape, dtype=np.float32)) for name, shape in shapes.items()}
            for group in ("model", "m", "v")
        }


class EbbJaxArm(JaxArm, EbbArm):
    title = "Ebb, of JAX arrays"

    def restore(self, step: int) -> None:
        import jax

        self.state = jax.block_until_ready(self.checkpointer.restore(step, self.state).state)


class OrbaxArm(JaxArm):
    title = "Orbax, async"

    def open(self, gigabytes: float) -> None:
        import orbax.checkpoint as ocp

        self.saver = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def save(self, step: int) -> None:
        import orbax.checkpoint as ocp

        self.saver.save(self.path(step), args=ocp.args.StandardSave(self.state), force=True)

    def finish(self) -> None:
        self.saver.wait_until_finished()

    def restore(self, step: int) -> None:
        import jax
        import orbax.checkpoint as ocp

        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, self.state)
        found = self.saver.restore(self.path(step), args=ocp.args.StandardRestore(abstract))
        self.state = jax.block_until_ready(found)

    def close(self) -> None:
        self.saver.close()
        super().close()


ARMS: dict[str, type[Arm]] = {
    "copy": CopyArm,
    "ebb": EbbArm,
    "ebb-dcp": EbbDcpArm,
    "torch": TorchArm,
    "torch-nocrc": TorchNoCrcArm,
    "safetensors": SafetensorsArm,
    "dcp": DcpArm,
    "dcp-async": DcpAsyncArm,
    "ebb-jax": EbbJaxArm,
    "orbax": OrbaxArm,
}


def copy_in(state: dict[str, Any], found: dict[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for group, of in state.items():
            for name, one in of.items():
                one.copy_(found[group][name])


def open_group_of_one() -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


# -- measuring ---------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class PeakMemory:
    """Anonymous memory of this process at most, looked at every few milliseconds."""

    def __enter__(self) -> PeakMemory:
        self.before = self.most = anonymous_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, anonymous_bytes())


def anonymous_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int | None) -> float:
    """Of this process, of those that it has waited for, and of the one beside it."""
    mine = os.times()
    total = mine.user + mine.system + mine.children_user + mine.children_system
    if pid is not None:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def serve(name: str, gigabytes: float) -> None:
    """One arm in this process: a step for each line that comes in, its figures in the line that goes out."""
    import warnings

    warnings.filterwarnings("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not a figure
    if not issubclass(ARMS[name], JaxArm):
        import torch

        torch.set_num_threads(2)
    arm = ARMS[name](gigabytes)
    print("ready", file=out, flush=True)
    for step, line in enumerate(sys.stdin, 1):
        if line.strip() == "end":
            break
        cpu = cpu_seconds(arm.helper_pid)
        with PeakMemory() as memory:
            start = time.perf_counter()
            arm.save(step)
            stall = time.perf_counter() - start
            arm.finish()
            total = time.perf_counter() - start
        cpu = cpu_seconds(arm.helper_pid) - cpu
        extra = (memory.most - memory.before) / 1e6
        arm.settle(step)
        start = time.perf_counter()
        arm.restore(step)
        restore = time.perf_counter() - start
        print(
            json.dumps({"stall": stall, "total": total, "cpu": cpu, "extra": extra, "restore": restore}),
            file=out,
            flush=True,
        )
    arm.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--json")
    parser.add_argument("--plot")
    parser.add_argument("--serve")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.gigabytes)
        return 0
    rows: dict[str, list[dict[str, float]]] = {}
    for name in arguments.arms.split(","):
        rows[name] = run_arm(name, arguments)
    tell(rows)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))
    if arguments.plot:
        plot(rows, arguments.gigabytes, arguments.plot)
    return 0


def run_arm(name: str, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """All rounds of one arm, with the limit's process beside it: memory does not hold all arms at once."""
    found = []
    with Child(name, arguments.gigabytes) as child, Child("copy", arguments.gigabytes) as limit:
        if not child.is_ready:
            print(f"{name}: not here: {child.problem}", flush=True)
            return []
        for _ in range(arguments.rounds):
            near = limit.step()
            row = child.step()
            row["limit_stall"], row["limit_restore"] = near["stall"], near["restore"]
            found.append(row)
    return found


class Child:
    def __init__(self, name: str, gigabytes: float) -> None:
        command = [sys.executable, __file__, "--serve", name, "--gigabytes", str(gigabytes)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        assert self._process.stdout is not None
        self.is_ready = self._process.stdout.readline().strip() == "ready"

    @property
    def problem(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else "it says nothing"

    def step(self) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self.problem)
        return dict(json.loads(line))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("end\n")
            self._process.stdin.close()
            self._process.wait(60)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


def kept_rounds(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Without the first round, in which memory is touched for the first time."""
    return rows[1:] or rows


def middle(rows: list[dict[str, float]], what: str) -> float:
    return statistics.median(row[what] for row in kept_rounds(rows))


def tell(rows: dict[str, list[dict[str, float]]]) -> None:
    columns = (("stall s", 20), ("x limit", 8), ("first s", 8), ("total s", 8), ("cpu s", 7), ("extra MB", 9))
    columns += (("restore s", 20), ("x limit", 8))
    print("arm".ljust(12) + "".join(title.rjust(width) for title, width in columns))
    for name, found in rows.items():
        if found:
            cells = cells_of(found)
            print(name.ljust(12) + "".join(cell.rjust(width) for cell, (_, width) in zip(cells, columns)), flush=True)


def cells_of(found: list[dict[str, float]]) -> list[str]:
    kept = kept_rounds(found)

    def spread(what: str) -> str:
        values = [row[what] for row in kept]
        return f"{statistics.median(values):.3f} ({min(values):.2f}-{max(values):.2f})"

    def ratio(what: str) -> str:
        return f"{statistics.median(row[what] / row['limit_' + what] for row in kept):.2f}"

    figures = [f"{found[0]['stall']:.2f}", f"{middle(found, 'total'):.2f}", f"{middle(found, 'cpu'):.2f}"]
    extra = f"{middle(found, 'extra'):.0f}"
    return [spread("stall"), ratio("stall"), *figures, extra, spread("restore"), ratio("restore")]


def plot(rows: dict[str, list[dict[str, float]]], gigabytes: float, file: str) -> None:
    """Medians as points, with the spread of the rounds; the limit as a line. The axes are logarithmic: arms differ by
    factors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name, found in rows.items() if found and name != "copy"]
    if not names:
        print("no arm but the limit: no picture")
        return
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 0.5 * len(names) + 2.2), sharey=True, sharex=True)
    titles = ("Training stands still", "Checkpoint is whole", "Restored into a live model")
    for axis, what, limit, title in zip(axes, ("stall", "total", "restore"), ("stall", "stall", "restore"), titles):
        for at, name in enumerate(names):
            values = [row[what] for row in kept_rounds(rows[name])]
            color = "#1b6ca8" if name.startswith("ebb") else "#5f6b7a"
            median = statistics.median(values)
            axis.plot([min(values), max(values)], [at, at], color=color, linewidth=3, alpha=0.4, solid_capstyle="round")
            axis.plot(median, at, "o", color=color, markersize=8)
            axis.annotate(f"{median:.2g} s", (median, at), (0, 9), textcoords="offset points", ha="center", color=color)
        near = statistics.median(row[f"limit_{limit}"] for name in names for row in kept_rounds(rows[name]))
        axis.axvline(near, color="#c0392b", linestyle="--", linewidth=1.2, label=f"{CopyArm.title}, {near:.2g} s")
        axis.set_xscale("log")
        axis.margins(x=0.12)
        axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.set_title(title, pad=26)
        axis.set_xlabel("seconds (logarithmic)")
        axis.grid(axis="x", color="#e3e7ec")
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 0.995), frameon=False, fontsize=8)
    axes[0].set_yticks(range(len(names)), [ARMS[name].title for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.7)
    tensors = 3 * len(shapes_of(gigabytes))
    rounds = max(len(kept_rounds(rows[name])) for name in names)
    figure.suptitle(
        f"A checkpoint of {state_bytes(gigabytes) / 1e9:.2g} GB in {tensors} tensors, written to memory: "
        f"median and spread of {rounds} rounds after the first"
    )
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    print(f"picture: {file}")


if __name__ == "__main__":
    sys.exit(main())
