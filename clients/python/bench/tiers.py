"""What happens behind a checkpoint's back.

    npm run bench -- python/tiers [--gigabytes 2.1] [--only delta,disk,s3,training]

delta     a tenth of the tensors changes at each step: what is stored and mirrored of each snapshot
disk      restoring what lies on disk, not in the page cache, beside two threads that read the same files
s3        restoring what lies in an object store alone, beside a parallel reader of the same objects (needs MinIO:
          `npm run setup:peers -- --only minio`)
training  steps a second of a loop that keeps all processors busy, with and without a snapshot every so often
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE)]
# A worker for each processor, and not one for each in each worker.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from checkpoints import shapes_of, timed  # noqa: E402

from ebb.checkpoint import Checkpointer  # noqa: E402
from support import NodeProcess  # noqa: E402

MINIO = HERE.parents[2] / ".ebb/tools/minio"
KEY = {"access": "benchkeyid", "secret": "a-secret-of-the-benchmark"}
CHUNK = 8 * 1024 * 1024


def state_of(gigabytes: float) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    shapes = shapes_of(gigabytes)
    return {
        group: {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}
        for group in ("model", "m", "v")
    }


def bytes_of(state: dict[str, dict[str, np.ndarray[Any, Any]]]) -> int:
    return sum(tensor.nbytes for group in state.values() for tensor in group.values())


def change(state: dict[str, dict[str, np.ndarray[Any, Any]]], step: int, share: float = 0.1) -> float:
    """Other tensors at each step, until `share` of the bytes has changed. Returns the share that did."""
    tensors = [tensor for group in state.values() for tensor in group.values()]
    order = np.random.default_rng(step).permutation(len(tensors))
    wanted, done = share * bytes_of(state), 0
    for n in order:
        if done + tensors[n].nbytes > wanted * 1.02:
            continue
        tensors[n] += 1
        done += tensors[n].nbytes
    return done / bytes_of(state)


def verdict(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def room(gigabytes: float, times: float) -> str:
    return f"{int(gigabytes * 1000 * times) + 512}MiB"


# -- delta -------------------------------------------------------------------------------------------------------


def delta(gigabytes: float, steps: int = 10) -> None:
    state = state_of(gigabytes)
    with (
        NodeProcess(memory_limit=room(gigabytes, 4.5), disk_limit=room(gigabytes, 10)) as node,
        Checkpointer(node.socket_path, "delta") as checkpointer,
    ):
        checkpointer.prepare(state)
        checkpointer.save(0, state)
        checkpointer.wait(0, "remote")
        shares, stored = [], []
        for step in range(1, steps + 1):
            shares.append(change(state, step))
            checkpointer.save(step, state)
            took = timed(lambda step=step: checkpointer.wait(step, "remote"))  # type: ignore[misc]
            snapshot = checkpointer.api.get(step)
            assert snapshot.new_bytes is not None
            stored.append(snapshot.new_bytes / snapshot.image_bytes)
            print(f"  step {step}: changed {shares[-1]:.2%}, stored {stored[-1]:.2%}, remote after {took:.2f} s")
    changed, mirrored = statistics.mean(shares), statistics.mean(stored)
    print(
        f"delta: {changed:.2%} of the bytes changed at each step, {mirrored:.2%} mirrored, at most {max(stored):.2%};"
    )
    print(f"  wanted at most 12 %: {verdict(max(stored) <= 0.12)}")


# -- restoring ---------------------------------------------------------------------------------------------------


def forget_cached(directory: str) -> list[str]:
    """Files below, none of whose pages is in the page cache any more."""
    files = [os.path.join(at, name) for at, _, names in os.walk(directory) for name in names]
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return files


def read_all(files: list[str], threads: int = 2) -> float:
    queue = deque((file, at) for file in files for at in range(0, os.path.getsize(file), CHUNK))

    def work() -> None:
        buffer = bytearray(CHUNK)
        while queue:
            try:
                file, at = queue.popleft()
            except IndexError:
                return
            fd = os.open(file, os.O_RDONLY)
            os.preadv(fd, [buffer], at)
            os.close(fd)

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for one in [pool.submit(work) for _ in range(threads)]:
                one.result()

    return timed(run)


def disk(gigabytes: float, rounds: int = 3) -> None:
    state = state_of(gigabytes)
    where = tempfile.mkdtemp(prefix="ebb-bench-", dir=os.environ.get("EBB_BENCH_DISK", tempfile.gettempdir()))
    try:
        with (
            NodeProcess(memory_limit=room(gigabytes, 4.5), disk_limit=room(gigabytes, 4), data_parent=where) as node,
            Checkpointer(node.socket_path, "disk") as checkpointer,
        ):
            checkpointer.save(1, state)
            checkpointer.wait(1, "remote")
            # The next one takes its place in memory.
            state["model"]["wte"] += 1
            checkpointer.save(2, state)
            checkpointer.wait(2, "remote")
            tier = os.path.join(node.data_dir, "disk", "b")
            ratios, speeds = [], []
            for _ in range(rounds):
                large = [file for file in forget_cached(tier) if os.path.getsize(file) > CHUNK]
                plain = read_all(large)
                forget_cached(tier)
                took = timed(lambda: checkpointer.restore(1, state))
                ratios.append(plain / took)
                speeds.append(bytes_of(state) / took / 1e9)
    finally:
        shutil.rmtree(where, ignore_errors=True)
    tell_restored("disk", "two threads read", speeds, ratios)


def tell_restored(name: str, peer: str, speeds: list[float], ratios: list[float]) -> None:
    ratio = statistics.median(ratios)
    print(f"{name}: {statistics.median(speeds):.2f} GB/s, {ratio:.2f} ({spread(ratios)}) of what {peer};")
    print(f"  wanted at least 0.7: {verdict(ratio >= 0.7)}")


@contextmanager
def minio() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="ebb-bench-minio-", dir="/dev/shm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "MINIO_ROOT_USER": KEY["access"], "MINIO_ROOT_PASSWORD": KEY["secret"]}
    command = [
        str(MINIO),
        "server",
        "--quiet",
        "--address",
        f"127.0.0.1:{port}",
        "--console-address",
        "127.0.0.1:0",
        directory,
    ]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def s3(gigabytes: float, rounds: int = 3) -> None:
    if not MINIO.exists():
        print("s3: not here: `npm run setup:peers -- --only minio` builds MinIO")
        return
    import boto3

    state = state_of(gigabytes)
    with minio() as endpoint:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=KEY["access"],
            aws_secret_access_key=KEY["secret"],
            region_name="us-east-1",
        )
        for _ in range(100):
            try:
                client.create_bucket(Bucket="mirror")
                break
            except Exception:
                time.sleep(0.1)
        env = {"AWS_ACCESS_KEY_ID": KEY["access"], "AWS_SECRET_ACCESS_KEY": KEY["secret"]}
        with (
            NodeProcess(
                f"--remote=s3://mirror?endpoint={endpoint}",
                memory_limit=room(gigabytes, 4.5),
                disk_limit=room(gigabytes, 4),
                env=env,
            ) as node,
            Checkpointer(node.socket_path, "s3") as checkpointer,
        ):
            checkpointer.save(1, state)
            checkpointer.wait(1, "remote")
            state["model"]["wte"] += 1
            checkpointer.save(2, state)
            checkpointer.wait(2, "remote")
            ratios, speeds = [], []
            for _ in range(rounds):
                # Only the object store has it.
                checkpointer.client.request_json(
                    "POST", "/v1/relocate", {"bucket": "checkpoints", "key": "s3/", "prefix": True, "tier": "remote"}
                )
                plain = read_objects(client, "mirror", "checkpoints/s3/000000000001/")
                took = timed(lambda: checkpointer.restore(1, state))
                ratios.append(plain / took)
                speeds.append(bytes_of(state) / took / 1e9)
    tell_restored("s3", "a parallel reader got", speeds, ratios)


def read_objects(client: Any, bucket: str, prefix: str, threads: int = 4) -> float:
    sizes = {row["Key"]: row["Size"] for row in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]}
    ranges = [(key, at, min(CHUNK, size - at)) for key, size in sizes.items() for at in range(0, size, CHUNK)]

    def get(one: tuple[str, int, int]) -> int:
        key, at, length = one
        body = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={at}-{at + length - 1}")["Body"]
        return len(body.read())

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(get, ranges)) == sum(sizes.values())

    return timed(run)


# -- training beside it ------------------------------------------------------------------------------------------


def training(gigabytes: float, window: float = 20, rounds: int = 6) -> None:
    """As many workers as processors multiply matrices. Windows without a snapshot and windows that begin with one take
    turns; what is compared are the steps in neighbouring ones, stalls included."""
    state = state_of(gigabytes)
    workers = len(os.sched_getaffinity(0))
    counts = [0] * workers
    stop = threading.Event()
    goes_on = threading.Event()
    goes_on.set()

    def work(n: int) -> None:
        matrix = np.random.default_rng(n).random((384, 384), dtype=np.float32)
        out = np.empty_like(matrix)
        while not stop.is_set():
            goes_on.wait()
            np.matmul(matrix, matrix, out=out)
            counts[n] += 1

    def steps_of(begin: Callable[[], None]) -> float:
        before, begun = sum(counts), time.perf_counter()
        begin()
        time.sleep(window - (time.perf_counter() - begun))
        return (sum(counts) - before) / (time.perf_counter() - begun)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
    with (
        NodeProcess(memory_limit=room(gigabytes, 4.5), disk_limit=room(gigabytes, 10)) as node,
        Checkpointer(node.socket_path, "training") as checkpointer,
    ):
        checkpointer.prepare(state)
        checkpointer.save(0, state)
        checkpointer.wait(0, "remote")
        for thread in threads:
            thread.start()

        def save(step: int) -> None:
            # The step waits for its state to be copied, as a training job does.
            goes_on.clear()
            checkpointer.save(step, state)
            goes_on.set()

        ratios, latest = [], []
        for step in range(1, rounds + 1):
            alone = steps_of(lambda: None)
            change(state, step)
            begun = time.perf_counter()
            beside = steps_of(lambda step=step: save(step))  # type: ignore[misc]
            checkpointer.wait(step, "remote")
            latest.append(time.perf_counter() - begun)
            ratios.append(beside / alone)
            print(f"  {alone:.0f} steps/s alone, {beside:.0f} in {window:.0f} s that begin with a snapshot")
        stop.set()
        for thread in threads:
            thread.join()
    ratio = statistics.median(ratios)
    print(
        f"training: {ratio:.1%} ({min(ratios):.1%} to {max(ratios):.1%}) of the steps, on {workers} processors,\n"
        f"  a snapshot of a tenth changed every {window:.0f} s, mirrored at most {max(latest):.1f} s later;\n"
        f"  wanted at least 95 %: {verdict(ratio >= 0.95)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--only", default="delta,disk,s3,training")
    arguments = parser.parse_args()
    # The loop's own threads are the parallelism.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in arguments.only.split(","):
        {"delta": delta, "disk": disk, "s3": s3, "training": training}[name](arguments.gigabytes)


if __name__ == "__main__":
    main()
