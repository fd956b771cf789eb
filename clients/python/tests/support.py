"""A real daemon in a process of its own, on temporary directories."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType

import ebb

REPO = Path(__file__).resolve().parents[3]
OWN_NODE = REPO / "node_modules/.bin/node"
READY = re.compile(r'"url":"([^"]+)","s3Url":"([^"]+)".*"msg":"ready"')
START_TIMEOUT_S = 60
#: For programs whose losses are compared: on a busy machine, several threads add up in another order, and spin.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class NodeProcess:
    """`kill` is SIGKILL, `stop` SIGTERM; `start` takes the same directories and the same port again."""

    def __init__(
        self,
        *args: str,
        memory_limit: str = "256MiB",
        disk_limit: str = "1GiB",
        data_parent: str = "/dev/shm",
        env: dict[str, str] | None = None,
    ) -> None:
        self.data_dir = tempfile.mkdtemp(prefix="ebb-py-data-", dir=data_parent)
        self.memory_dir = tempfile.mkdtemp(prefix="ebb-py-mem-", dir="/dev/shm")
        self.socket_path = os.path.join(self.data_dir, "ebb.sock")
        self.url = ""
        self.s3_url = ""
        self.log = ""
        self._args = [f"--memory-limit={memory_limit}", f"--disk-limit={disk_limit}", *args]
        self._env = env or {}
        self._listen = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def socket_url(self) -> str:
        return f"unix://{self.socket_path}"

    def start(self) -> None:
        ready = threading.Event()
        command = [
            str(OWN_NODE),
            "--conditions=source",
            str(REPO / "packages/server/src/main.ts"),
            "node",
            f"--data={self.data_dir}",
            f"--memory-dir={self.memory_dir}",
            f"--socket={self.socket_path}",
            f"--listen={self._listen}",
            "--s3-listen=127.0.0.1:0",
            *self._args,
        ]
        env = {name: value for name, value in os.environ.items() if not name.startswith("EBB_")} | self._env
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
        )
        self._process = process
        threading.Thread(target=self._read_log, args=(process, ready), daemon=True).start()
        if not ready.wait(START_TIMEOUT_S) or process.poll() is not None:
            raise RuntimeError(f"the node did not start ({process.poll()}):\n{self.log}")
        self._listen = self.url.split("//")[1]

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        shutil.rmtree(self.memory_dir, ignore_errors=True)

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, how: signal.Signals) -> int:
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(how)
        code = process.wait(timeout=60)
        if process.stderr is not None:
            process.stderr.close()
        self._process = None
        return code

    def _read_log(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                self.log += line
                found = READY.search(line)
                if found is not None:
                    self.url, self.s3_url = found[1], found[2]
                    ready.set()
        except ValueError:
            pass  # closed by the end
        ready.set()


def open_client(node: NodeProcess, how: str) -> ebb.Client:
    """`how`: through files, frames, or HTTP alone."""
    opened = ebb.Client(node.url, path="auto" if how == "local" else "http")
    if how == "http":
        assert opened._frames is not None
        opened._frames.close()
        opened._frames = None
    return opened
