"""``kill -9`` of trainer, node or both, at random points.

    npm run bench -- python/crash_rounds [--rounds 100] [--seed N]

After each round the latest snapshot is at least the last one that was committed, whole, and bit for bit what was saved;
and so is every other snapshot that is listed. Ends with 1 when one was not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE)]

from _crash_trainer import difference  # noqa: E402

from ebb.checkpoint import Checkpointer  # noqa: E402
from ebb.errors import NotFoundError  # noqa: E402
from support import NodeProcess  # noqa: E402

RUN = "drill"


class Trainer:
    def __init__(self, socket: str, seed: int) -> None:
        command = [sys.executable, str(HERE / "_crash_trainer.py"), socket, RUN, str(seed)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def await_commit(self, timeout_s: float = 60) -> None:
        """So that a kill does not always come while the interpreter starts."""
        deadline = time.monotonic() + timeout_s
        while not any("committed" in line for line in self.lines):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the trainer commits nothing: {self.lines}")
            time.sleep(0.005)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                self.lines.append(json.loads(line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    rng = random.Random(arguments.seed)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    with NodeProcess(memory_limit="512MiB", disk_limit="4GiB") as node:
        trainer = Trainer(node.socket_path, rng.randrange(2**31))
        committed = 0
        for number in range(arguments.rounds):
            trainer.await_commit()
            time.sleep(rng.random() * 1.2)
            victims = rng.choice(("trainer", "node", "both"))
            counts[victims] += 1
            if victims == "both" and rng.random() < 0.5:
                node.kill()
                trainer.kill()
            else:
                if victims != "node":
                    trainer.kill()
                if victims != "trainer":
                    node.kill()
            if victims != "trainer":
                node.start()
            if victims == "node":
                # It is to find the node again, and to go on.
                before = len(trainer.lines)
                deadline = time.monotonic() + 60
                while not any("committed" in line for line in trainer.lines[before:]):
                    if time.monotonic() > deadline:
                        problems.append(f"round {number}: the trainer did not go on: {trainer.lines[before:]}")
                        break
                    time.sleep(0.01)
                trainer.kill()
            for line in trainer.lines:
                counts.update(kind for kind in ("committed", "restored", "failed") if kind in line)
                committed = max(committed, int(str(line.get("committed", 0))))
                if line.get("difference") is not None:
                    problems.append(f"round {number}: {line['difference']}")
            problems += look(node, number, committed, counts)
            trainer = Trainer(node.socket_path, rng.randrange(2**31))
        trainer.kill()
        with Checkpointer(node.socket_path, RUN) as checkpointer:
            latest = checkpointer.latest() or 0
            durability = checkpointer.api.wait(latest, "remote", 120).durability
        print(f"in the end step {latest} is on {durability}")
    for problem in problems:
        print(problem)
    told = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
    print(f"kill -9 x {arguments.rounds}: {told}; {len(problems)} problems")
    return 1 if problems else 0


def look(node: NodeProcess, number: int, committed: int, counts: Counter[str]) -> list[str]:
    """Every snapshot that is there, as a fresh process finds it."""
    problems = []
    with Checkpointer(node.socket_path, RUN) as checkpointer:
        snapshots = checkpointer.list()
        latest = checkpointer.latest() or 0
        if latest < committed:
            problems.append(f"round {number}: step {committed} was committed, the latest is {latest}")
        for snapshot in snapshots:
            try:
                restored = checkpointer.restore(snapshot.step)
            except NotFoundError:
                # The run keeps the last ones: this one may have gone, the latest never.
                if snapshot.step == latest or any(one.step == snapshot.step for one in checkpointer.list()):
                    problems.append(f"round {number}: step {snapshot.step} is listed and not there")
                continue
            counts["snapshots read"] += 1
            found = difference(restored)
            if found is not None:
                problems.append(f"round {number}: {found} ({snapshot.durability})")
    return problems


if __name__ == "__main__":
    sys.exit(main())
