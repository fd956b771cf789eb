"""Direct access to the node's files: for a client that finds the node's nonce under both directories."""

from __future__ import annotations

import os

from ._messages import HelloResponse


class LocalFiles:
    """Absolute paths of files that the node names relative to their tier's directory."""

    def __init__(self, memory_dir: str, disk_dir: str) -> None:
        self._dirs = (memory_dir, disk_dir)

    def path(self, tier: int, relative: str) -> str:
        return os.path.join(self._dirs[tier], relative)


def find_local_files(hello: HelloResponse) -> LocalFiles | None:
    """None when this process does not see the files."""
    dirs = (hello.memory_dir, hello.disk_dir)
    if all(_sees_probe(where, hello.probe_name, hello.probe_nonce) for where in dirs):
        return LocalFiles(*dirs)
    return None


def _sees_probe(where: str, name: str, nonce: str) -> bool:
    if not (where and name and nonce):
        return False
    try:
        with open(os.path.join(where, name), encoding="utf-8") as probe:
            return probe.read().strip() == nonce and os.access(where, os.R_OK | os.X_OK)
    except (OSError, UnicodeDecodeError):
        return False  # not there, or not ours to read: the other path works
