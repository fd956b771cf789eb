"""The directory contract: whatever a tool writes into a directory becomes one snapshot, and comes back as a directory.

Each file is a shard of plain bytes, named by its path in the directory. The shard ``/``, which no file can be, names
directories that have no files.

I1  The snapshot has all files, or there is none: an exception in the ``with`` block saves nothing.
I2  A directory that is restored appears whole: it is written under another name beside, made durable, and renamed.
I3  No file is written outside of it, whatever a snapshot says.
I4  A directory that `directory` gave is locked while its process lives. One of ours without a lock is what a process
    that was killed has left: it goes with the next `Checkpointer` or `directory`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import shutil
import stat
import tempfile
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import (
    AlreadyExistsError,
    DataCorruptError,
    IoFailedError,
    RequestInvalidError,
    TierFullError,
    UnsupportedError,
)
from . import _arrays
from ._api import Plan, PlannedPart, Snapshot
from ._copy import CHUNK_BYTES, Copier
from ._image import Shard, align
from ._image_writer import ImageWriter, Layout, layout_of
from ._restore import Wanted, fetch

if TYPE_CHECKING:
    from ._checkpointer import Checkpointer, Save

INDEX = "/"
_SHM = "/dev/shm"
#: Before the names of directories that `directory` makes.
_PLACE = "ebb-directory-"
#: Files that are written back at once.
_BATCH_FILES = 256
_BATCH_BYTES = 1024 * 1024 * 1024


class _Found(NamedTuple):
    """What a directory holds, in the order of the names."""

    files: list[tuple[str, int]]
    empty_directories: list[str]


@contextlib.contextmanager
def directory(
    owner: Checkpointer, step: int, metadata: Mapping[str, str] | None, *, overwrite: bool, within: str | None
) -> Iterator[Path]:
    place = within or (_SHM if os.access(_SHM, os.W_OK) else tempfile.gettempdir())
    remove_left(place)
    with contextlib.ExitStack() as held:
        path = _make_place(place, f"{_PLACE}{owner.run}-{step}-", held)
        yield path
        owner.settle(save_directory(owner, step, path, metadata, overwrite=overwrite))


def _make_place(parent: str, prefix: str, held: contextlib.ExitStack) -> Path:
    """A directory with a lock on it that ends with this process (I4), and one that nobody took for left before that."""
    while True:
        path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        held.callback(shutil.rmtree, path, ignore_errors=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, fd)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is removed there either
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.isdir(path):
            return Path(path)


def remove_left(parent: str = _SHM) -> None:
    """Removes what `directory` made for processes of this user that were killed (I4)."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(parent):
            if entry.name.startswith(_PLACE) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_if_left(entry.path)


def _remove_if_left(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)


def save_directory(
    owner: Checkpointer,
    step: int,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None,
    *,
    overwrite: bool,
) -> Save:
    owner.raise_failure()
    root = os.fspath(path)
    found = _look(root)
    index = json.dumps({"directories": found.empty_directories}, ensure_ascii=False).encode()
    layout = _lay_out(found, len(index))

    def fill(image: ImageWriter) -> None:
        _read_files(root, layout.shards[:-1], image, owner.copier)
        image.put(layout.shards[-1], index)
        image.seal(layout)

    return owner.save_image(step, layout.image_bytes, fill, metadata, overwrite=overwrite)


def restore_directory(
    owner: Checkpointer, plan: Plan, path: str | os.PathLike[str], parts: Sequence[str], *, overwrite: bool
) -> Snapshot:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not overwrite and target.exists() and any(target.iterdir()):
        raise AlreadyExistsError(f"{target} is there, and not empty", {"path": str(target)})
    beside = target.parent / f".{target.name}.ebb-{uuid.uuid4().hex[:12]}"
    beside.mkdir()
    try:
        written: dict[str, str] = {}
        for name in parts:
            _write_part(owner, plan.parts[name], beside, written)
        for directory_path, _, _ in os.walk(beside):
            _sync(directory_path)
        _put_in_place(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return plan.snapshot


def _look(root: str) -> _Found:
    files: list[tuple[str, int]] = []
    empty: list[str] = []
    for place, directories, names in os.walk(root, onerror=_raise):
        directories.sort()
        inner = os.path.relpath(place, root)
        for name in sorted(names):
            full = os.path.join(place, name)
            found = os.stat(full)
            if not stat.S_ISREG(found.st_mode):
                raise UnsupportedError(f"{full} is no plain file: a snapshot of a directory holds files alone")
            files.append((os.path.normpath(os.path.join(inner, name)), found.st_size))
        linked = [name for name in directories if os.path.islink(os.path.join(place, name))]
        if linked:
            raise UnsupportedError(f"{os.path.join(place, linked[0])} links to a directory: copy that instead")
        if not names and not directories and inner != ".":
            empty.append(inner)
    return _Found(files, empty)


def _raise(error: OSError) -> None:
    raise error


def _lay_out(found: _Found, index_bytes: int) -> Layout:
    shards: list[Shard] = []
    end = 0
    for name, length in [*found.files, (INDEX, index_bytes)]:
        shards.append(Shard(name, align(end), length))
        end = shards[-1].offset + length
    return layout_of(shards)


def _read_files(root: str, shards: Sequence[Shard], image: ImageWriter, copier: Copier) -> None:
    """By a few threads, a piece of a file at a time."""
    pieces = deque(
        (shard, at, min(CHUNK_BYTES, shard.length - at))
        for shard in shards
        for at in range(0, shard.length, CHUNK_BYTES)
    )

    def work() -> None:
        while True:
            try:
                shard, at, length = pieces.popleft()
            except IndexError:
                return
            try:
                start = shard.offset + at
                _read_piece(os.path.join(root, shard.name), at, image.view[start : start + length])
            except BaseException:
                pieces.clear()
                raise

    copier.run(work, len(pieces))


def _read_piece(path: str, at: int, target: memoryview) -> None:
    with open(path, "rb", buffering=0) as file:
        done = 0
        while done < len(target):
            got = os.preadv(file.fileno(), [target[done:]], at + done)
            if got == 0:
                raise RequestInvalidError(f"{path} became shorter while it was saved")
            done += got


def _write_part(owner: Checkpointer, part: PlannedPart, root: Path, written: dict[str, str]) -> None:
    index = part.by_name.get(INDEX)
    if index is None:
        raise UnsupportedError(f"part {part.name} holds no directory: restore it by what saved it")
    text = np.empty(index.length, np.uint8)
    checks = owner.verify and part.digests is not None
    fetch(owner.client, part, [Wanted(index.offset, index.length, _arrays.address(text))], owner.copier, verify=checks)
    try:
        empty = [str(one) for one in json.loads(text.tobytes())["directories"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorruptError(f"the list of directories of part {part.name} is broken: {error}") from error
    for name in empty:
        _inside(root, name).mkdir(parents=True, exist_ok=True)
    files = [shard for shard in part.shards if shard.name != INDEX]
    for shard in files:
        before = written.setdefault(shard.name, part.name)
        if before != part.name:
            raise RequestInvalidError(
                f"{shard.name} is in the parts {before} and {part.name}: say which part to restore"
            )
    while files:
        batch: list[Shard] = []
        size = 0
        while files and len(batch) < _BATCH_FILES and (size == 0 or size + files[-1].length <= _BATCH_BYTES):
            batch.append(files.pop())
            size += batch[-1].length
        _write_files(owner, part, root, batch)


def _write_files(owner: Checkpointer, part: PlannedPart, root: Path, shards: Sequence[Shard]) -> None:
    """Their bytes are compared, and go straight into the pages of the files."""
    with contextlib.ExitStack() as opened:
        wanted: list[Wanted] = []
        files: list[tuple[int, mmap.mmap | None]] = []
        for shard in shards:
            target = _inside(root, shard.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            opened.callback(os.close, fd)
            mapping = None
            if shard.length > 0:
                mapping = _map(fd, shard.length, target)
                pages = np.frombuffer(mapping, np.uint8)
                wanted.append(Wanted(shard.offset, shard.length, _arrays.address(pages)))
                del pages
                opened.callback(mapping.close)
            files.append((fd, mapping))
        fetch(owner.client, part, wanted, owner.copier, slots=owner.slots, verify=owner.verify)
        for fd, mapping in files:
            if mapping is not None:
                mapping.flush()
            os.fsync(fd)


def _map(fd: int, length: int, path: Path) -> mmap.mmap:
    try:
        os.posix_fallocate(fd, 0, length)  # want of space is an error here, and would be a signal later
        return mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise TierFullError(f"no room for {length} bytes of {path}", {"needBytes": length}) from error
        raise IoFailedError(f"cannot write {path}: {error}") from error


def _inside(root: Path, name: str) -> Path:
    """(I3)"""
    inner = PurePosixPath(name)
    if inner.is_absolute() or not inner.parts or ".." in inner.parts or "\0" in name:
        raise DataCorruptError(f"{name!r} is no path in a directory", {"name": name})
    return root / inner


def _put_in_place(beside: Path, target: Path) -> None:
    """In one step where there is nothing, or an empty directory; else what was there goes aside before."""
    try:
        os.rename(beside, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        aside = tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent)
        os.rename(target, os.path.join(aside, "old"))
        os.rename(beside, target)
        shutil.rmtree(aside, ignore_errors=True)
    _sync(target.parent)


def _sync(path: str | os.PathLike[str]) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
