"""Trains twice: once in peace, and once killed (`kill -9`) at random steps, each life with another number of ranks.

    python drill.py --steps 120 --kills 4 [--plot losses.png]

The losses must be the same, bit for bit. Starts a node of its own unless told of one. Ends with 1 when they differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TRAIN = HERE / "train.py"


class Training:
    """`train.py` in processes of its own, which go together."""

    def __init__(self, node: str, run: str, options: argparse.Namespace, ranks: int) -> None:
        command = [sys.executable, str(TRAIN), "--node", node, "--run", run, "--ranks", str(ranks)]
        command += ["--steps", str(options.steps), "--every", str(options.every)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.resumed = 0

    def losses(self, kill_after: int | None = None) -> dict[int, float]:
        """By step, until the training ends, or is killed after so many steps."""
        assert self._process.stdout is not None
        found: dict[int, float] = {}
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "resumed" in said:
                self.resumed = said["resumed"]
            else:
                found[said["step"]] = said["loss"]
            if kill_after is not None and len(found) >= kill_after:
                os.killpg(self._process.pid, signal.SIGKILL)
                break
        self._process.stdout.close()
        code = self._process.wait()
        if kill_after is None and code != 0:
            raise SystemExit(f"the training ended with {code}")
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", help="where a node is; default: one is started")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--plot", metavar="FILE.png", help="draws the curves there, if matplotlib is installed")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with contextlib.ExitStack() as stack:
        node = options.node
        if node is None:
            sys.path.append(str(HERE.parents[1] / "tests"))
            from support import NodeProcess

            node = stack.enter_context(NodeProcess()).socket_url
        name = uuid.uuid4().hex[:8]
        whole = Training(node, f"whole-{name}", options, 1).losses()
        killed, resumed = train_with_kills(node, f"killed-{name}", options)
    difference = max(abs(whole[step] - loss) for pieces in killed for step, loss in pieces.items())
    steps = sorted({step for pieces in killed for step in pieces})
    print(
        f"{len(steps)} of {options.steps} steps, resumed at {resumed}; losses {whole[0]:.3f} to {whole[steps[-1]]:.3f}"
    )
    print(f"largest difference of a loss: {difference}")
    if options.plot:
        plot(options.plot, whole, killed)
    return 0 if difference == 0 and steps == list(range(options.steps)) else 1


def train_with_kills(node: str, run: str, options: argparse.Namespace) -> tuple[list[dict[int, float]], list[int]]:
    """Each life but the last is long enough for a snapshot, and too short for all of them to reach the end."""
    chance = random.Random(options.seed)
    longest = max(1, options.steps // (options.kills + 1))
    shortest = min(longest, options.every + 1)
    pieces: list[dict[int, float]] = []
    resumed: list[int] = []
    for n in range(options.kills + 1):
        training = Training(node, run, options, ranks=ranks_of(n))
        pieces.append(training.losses(chance.randint(shortest, longest) if n < options.kills else None))
        resumed.append(training.resumed)
    return pieces, resumed


def ranks_of(life: int) -> int:
    return 1 + life % 2


def plot(path: str, whole: dict[int, float], killed: list[dict[int, float]]) -> None:
    """The losses above; below, which steps each life took."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(9, 5 + 0.25 * len(killed)), sharex=True, height_ratios=(4, 0.3 + 0.4 * len(killed))
    )
    above.plot(list(whole), list(whole.values()), color="#c9d1da", linewidth=6, label="never killed, 1 rank")
    colors = matplotlib.colormaps["tab10"].colors
    for life, piece in enumerate(killed):
        color = colors[life % len(colors)]
        above.plot(list(piece), list(piece.values()), color=color, linewidth=1.5)
        first, last = min(piece), max(piece)
        below.plot([first, last], [life, life], color=color, linewidth=6, solid_capstyle="butt")
        if life + 1 < len(killed):
            above.plot(last, piece[last], "x", color=color, markersize=9, markeredgewidth=2)
            below.plot(last, life, "x", color=color, markersize=9, markeredgewidth=2)
    above.plot([], [], "x", color="black", markersize=9, markeredgewidth=2, label="kill -9")
    above.plot([], [], color="black", linewidth=1.5, label="resumed, a colour for each life")
    above.set(ylabel="loss", title="Losses of a training that was never killed, and of one that was")
    above.legend(frameon=False)
    names = [f"life {life + 1}, {ranks_of(life)} rank{'s' * (ranks_of(life) > 1)}" for life in range(len(killed))]
    below.set_yticks(range(len(killed)), names)
    below.set(xlabel="step", ylim=(len(killed) - 0.5, -0.5))
    for axis in (above, below):
        axis.grid(axis="x", color="#e3e7ec")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"curves: {path}")


if __name__ == "__main__":
    sys.exit(main())
