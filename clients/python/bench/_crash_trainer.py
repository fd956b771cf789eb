"""A training job without the training, for crash_rounds.py: it goes on from the latest snapshot, and saves more.

Each step's state follows from its number, so that whoever restores it knows every byte. Says on its standard output
what it restored and what was committed, one line of JSON each.
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

import ebb
from ebb.checkpoint import Checkpointer, Restored

TENSORS = 24
ITEMS = 100_000


def state_of(step: int) -> dict[str, object]:
    """Tensor ``n`` changes every ``n + 1`` steps: so snapshots share some of their blocks, and not others."""
    tensors = {}
    for n in range(TENSORS):
        rng = np.random.default_rng((n, step // (n + 1)))
        tensors[f"layer.{n}"] = rng.random(ITEMS + n, dtype=np.float32)
    return {"tensors": tensors, "step": step, "note": f"after {step} steps"}


def difference(restored: Restored) -> str | None:
    """What is not as it was saved; None when all is."""
    wanted = state_of(restored.step)
    got = restored.state
    if got["step"] != restored.step or got["note"] != wanted["note"]:
        return f"the values of step {restored.step} are {got['step']!r}, {got['note']!r}"
    for name, tensor in wanted["tensors"].items():  # type: ignore[attr-defined]
        if not np.array_equal(tensor, got["tensors"][name]):
            return f"{name} of step {restored.step} differs"
    return None


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main(socket: str, run: str, seed: int) -> None:
    rng = random.Random(seed)
    with Checkpointer(socket, run, keep_last=4, behind="wait") as checkpointer:
        step = 0
        if checkpointer.latest() is not None:
            restored = checkpointer.restore()
            step = restored.step
            say(restored=step, difference=difference(restored))
        while True:
            step += 1
            try:
                checkpointer.save(step, state_of(step)).result()
                say(committed=step)
            except ebb.EbbError as error:
                # The node was killed: what was on its way to it is lost, and the job goes on.
                say(failed=step, code=error.code)
                time.sleep(0.05)
            time.sleep(rng.random() * 0.1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
