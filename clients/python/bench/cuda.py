"""A state on a GPU: how long training stands still, beside what the bus gives.

    npm run bench -- python/cuda [--gigabytes 2.1] [--rounds 5]

The limit is one copy of as many bytes from the GPU into pinned memory that is there already. Needs a CUDA device.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE)]

import torch  # noqa: E402
from checkpoints import shapes_of, timed  # noqa: E402
from tiers import room  # noqa: E402

from ebb.checkpoint import Checkpointer  # noqa: E402
from support import NodeProcess  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("cuda: not measured: no CUDA device is here")
        return
    shapes = shapes_of(arguments.gigabytes)
    state = {
        group: {name: torch.rand(shape, device="cuda") for name, shape in shapes.items()}
        for group in ("model", "m", "v")
    }
    tensors = [tensor for group in state.values() for tensor in group.values()]
    size = sum(tensor.nbytes for tensor in tensors)
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def limit() -> None:
        pinned.copy_(source, non_blocking=True)
        torch.cuda.synchronize()

    limits, stalls, restores = [], [], []
    with (
        NodeProcess(memory_limit=room(arguments.gigabytes, 4.5), disk_limit=room(arguments.gigabytes, 10)) as node,
        Checkpointer(node.socket_path, "cuda") as checkpointer,
    ):
        checkpointer.prepare(state)
        for step in range(arguments.rounds + 1):
            limits.append(timed(limit))
            stalls.append(timed(lambda step=step: checkpointer.save(step, state)))  # type: ignore[misc]
            checkpointer.wait(step, "disk")
            restores.append(timed(lambda step=step: checkpointer.restore(step, state)))  # type: ignore[misc]
    for what, times in (("one copy into pinned memory", limits), ("save", stalls), ("restore, compared", restores)):
        kept = times[1:]
        ratio = statistics.median(one / other for one, other in zip(kept, limits[1:]))
        print(
            f"{what:28} {statistics.median(kept):.3f} s ({min(kept):.3f} to {max(kept):.3f}), "
            f"{size / 1e9 / statistics.median(kept):5.1f} GB/s, {ratio:.2f} x the limit"
        )
    print(f"on {torch.cuda.get_device_name()}, {size / 1e9:.2f} GB in {len(tensors)} tensors")


if __name__ == "__main__":
    main()
