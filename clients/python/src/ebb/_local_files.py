"""Direct access to the node's files, for a client whose challenge the node answered under both directories.

I1  A directory is believed only when a file named after a secret of ours appears in it: a node on another host
    cannot make one here, whatever it knows of this host's files.
I2  Only paths of the form that nodes give to blobs are opened, no link is followed, and a file is used only when it
    is a plain file of the owner of that proof.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from typing import NamedTuple

from ._messages import HelloResponse
from .errors import IoFailedError

_BLOB_PATH = re.compile(r"b/[0-9a-f]{2}/[0-9a-f]{1,16}")
#: A link is refused, and a pipe that somebody put there keeps nobody waiting.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class _Place(NamedTuple):
    directory: str
    #: User id of the node, as this process sees it.
    owner: int


class LocalFiles:
    """Files that the node names relative to their tier's directory."""

    def __init__(self, memory: _Place, disk: _Place) -> None:
        self._places = (memory, disk)
        #: Directories of blobs that were found to be the node's: at most 256 a place.
        self._checked: set[str] = set()

    def path(self, tier: int, relative: str) -> str:
        """Absolute path.

        Raises:
            IoFailedError: no node calls a file so.
        """
        return os.path.join(self._place(tier, relative).directory, relative)

    def open(self, tier: int, relative: str, flags: int) -> int:
        """A descriptor of the file, checked; the caller closes it.

        Args:
            flags: ``os.O_RDONLY`` or ``os.O_RDWR``.

        Raises:
            OSError: it cannot be opened.
            IoFailedError: it is not a file of the node.
        """
        place = self._place(tier, relative)
        path = os.path.join(place.directory, relative)
        self._check_parents(place, path, relative)
        fd = os.open(path, flags | _FLAGS)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _not_own(relative, "it is no plain file")
            if found.st_uid != place.owner:
                raise _not_own(relative, f"it belongs to user {found.st_uid}, the node is {place.owner}")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _place(self, tier: int, relative: str) -> _Place:
        if tier not in (0, 1) or _BLOB_PATH.fullmatch(relative) is None:
            raise _not_own(relative, "no node calls a file so")
        return self._places[tier]

    def _check_parents(self, place: _Place, path: str, relative: str) -> None:
        parent = os.path.dirname(path)
        if parent in self._checked:
            return
        for directory in (os.path.dirname(parent), parent):
            found = os.lstat(directory)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != place.owner:
                raise _not_own(relative, f"{directory} is no directory of the node")
        self._checked.add(parent)


def new_challenge() -> str:
    """To be sent with `PROVE_HOST`, and known to nobody before."""
    return secrets.token_hex(16)


def find_local_files(hello: HelloResponse, challenge: str) -> LocalFiles | None:
    """None when this process does not see the files."""
    memory = _find_place(hello.memory_dir, challenge)
    disk = _find_place(hello.disk_dir, challenge)
    return None if memory is None or disk is None else LocalFiles(memory, disk)


def _find_place(where: str, challenge: str) -> _Place | None:
    if not os.path.isabs(where):
        return None
    try:
        proof = os.lstat(os.path.join(where, f".ebb-here-{challenge}"))
    except (OSError, ValueError):
        return None  # not there, or not ours to see: the other way works
    if not stat.S_ISREG(proof.st_mode) or not os.access(where, os.R_OK | os.X_OK):
        return None
    return _Place(where, proof.st_uid)


def _not_own(path: str, why: str) -> IoFailedError:
    return IoFailedError(f"the node named a file that is not its own: {path!r}: {why}", {"path": path})
