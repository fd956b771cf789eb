"""Runs a function on several ranks, each a process of its own, joined by gloo."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import traceback
import warnings
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Callable

# Ranks are forked from a process that has imported what takes seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "ebb.torch.dcp", "pytest"]
)


class RankFailedError(Exception):
    """A rank raised; the message has its traceback."""


def run_ranks(count: int, work: Callable[..., Any], *args: Any, timeout_s: float = 60) -> list[Any]:
    """What `work(rank, *args)` returned on each rank, with torch.distributed initialized if there are several.

    Raises:
        RankFailedError: the first that failed; the others are ended.
    """
    with tempfile.TemporaryDirectory() as directory:
        meeting = f"file://{Path(directory) / 'meeting'}"
        pipes: dict[Connection, int] = {}
        processes = []
        for rank in range(count):
            ours, theirs = _context.Pipe(duplex=False)
            process = _context.Process(target=_run, args=(rank, count, meeting, theirs, work, args), daemon=True)
            process.start()
            theirs.close()
            pipes[ours] = rank
            processes.append(process)
        results: dict[int, Any] = {}
        try:
            while pipes:
                ready = wait(list(pipes), timeout_s)
                if not ready:
                    raise RankFailedError(f"ranks {sorted(pipes.values())} said nothing for {timeout_s} s")
                for pipe in ready:
                    assert isinstance(pipe, Connection)
                    rank = pipes.pop(pipe)
                    try:
                        is_done, result = pickle.loads(pipe.recv_bytes())
                    except EOFError:
                        raise RankFailedError(f"rank {rank} ended without a word") from None
                    if not is_done:
                        raise RankFailedError(f"rank {rank}:\n{result}")
                    results[rank] = result
        finally:
            for process in processes:
                if len(results) < count:
                    process.kill()
                process.join()
        return [results[rank] for rank in range(count)]


def _run(
    rank: int, count: int, meeting: str, pipe: Connection, work: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        if count > 1:
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
        result = work(rank, *args)
        if count > 1:
            dist.barrier()
            dist.destroy_process_group()
        pipe.send_bytes(pickle.dumps((True, result)))
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
