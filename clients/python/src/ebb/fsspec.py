"""``ebb://bucket/path`` for fsspec, and so for pandas, zarr, PyTorch's distributed checkpoints, and others.

Installing this package makes the protocol known; ``fsspec.filesystem("ebb", node=…)`` takes what `ebb.Client` takes.

A directory is there while an object's key begins with its path; one that was made stays while it is empty. Files are
published whole at their close, or at the end of a transaction; ``mv`` of a file or a directory is one step. Nothing
is cached.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike, stringify_path

from ._client import Client
from ._files import ReadFile, WriteFile, split_url
from ._infos import ListPage, ObjectInfo
from ._locks import new_lock
from ._retry import with_reopen
from .errors import BucketExistsError, DirectoryNotEmptyError, NameInvalidError, NotFoundError

Info = dict[str, Any]

#: What fsspec itself passes to a file system of any kind, or takes of its options.
_FSSPEC_OPTIONS = frozenset(
    (
        *("add_aliases", "add_docs", "asynchronous", "auto_mkdir", "batch_size", "block_size", "fo", "loop"),
        *("default_block_size", "default_cache_options", "default_cache_type"),
        *("listings_expiry_time", "max_paths", "skip_instance_cache", "use_listings_cache"),
        *("protocol", "target_options", "target_protocol"),
    )
)


class EbbFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Args: node, job, path, ca_file, cert_file, key_file: as `ebb.Client` takes them."""

    protocol = "ebb"
    root_marker = ""

    def __init__(
        self,
        node: str | None = None,
        job: str | None = None,
        path: str = "auto",
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        **storage_options: Any,
    ) -> None:
        unknown = sorted(set(storage_options) - _FSSPEC_OPTIONS)
        if unknown:
            raise TypeError(
                f"unknown storage option {', '.join(unknown)}; ebb knows node, job, path, ca_file, cert_file, key_file"
            )
        super().__init__(**storage_options)
        self._arguments: dict[str, Any] = {
            "node": node,
            "job": job,
            "path": path,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
        }
        self._client: Client | None = None
        self._client_lock = new_lock()

    @property
    def client(self) -> Client:
        """Opened by the first call that needs it, and again when it was closed: fsspec gives one file system to all who
        ask for the same."""
        with self._client_lock:
            if self._client is None or self._client.is_closed:
                self._client = Client(**self._arguments)
            return self._client

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """``/bucket/key`` is ``bucket/key``, as with file systems of other object stores."""
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return super()._strip_protocol(path).lstrip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"ebb://{self._strip_protocol(name)}"

    # -- looking ---------------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> Info:
        path = self._strip_protocol(path)
        bucket, key = split_url(path)
        try:
            if not key:
                if bucket:
                    self.client.bucket(bucket)
                return _directory(path)
            return _file(self.client.stat(bucket, key))
        except _MISSING as error:
            if key and isinstance(error, FileNotFoundError) and self._is_directory(bucket, key):
                return _directory(path)
            raise _not_found(path) from error

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        bucket, key = split_url(path)
        if not bucket:
            found = [_directory(row.name) for row in self.client.buckets()]
        else:
            try:
                found = self._list_directory(bucket, f"{key}/" if key else "")
            except _MISSING as error:
                raise _not_found(path) from error
            if not found and key and not self._is_directory(bucket, key):
                found = [self.info(path)]
        return found if detail else [row["name"] for row in found]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        path = self._strip_protocol(path)
        bucket, key = split_url(path)
        if not bucket or maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        # One listing without a delimiter, where the general way lists each directory.
        try:
            found = [
                _file(row) for row in self.client.list(bucket, f"{key}/" if key else "") if not row.key.endswith("/")
            ]
            if not found and key:
                found = [_file(self.client.stat(bucket, key))]
        except _MISSING:
            found = []
        return {row["name"]: row for row in found} if detail else [row["name"] for row in found]

    def exists(self, path: str, **kwargs: Any) -> bool:
        try:
            self.info(path)
            return True
        except FileNotFoundError:
            return False

    def created(self, path: str) -> datetime:
        """When the version there is was committed, in UTC."""
        info = self.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(path)
        created: datetime = info["created"]
        return created

    def modified(self, path: str) -> datetime:
        """As `created`: a version does not change."""
        return self.created(path)

    def ukey(self, path: str) -> str:
        """Another one for each version."""
        info = self.info(path)
        return hashlib.sha256(f"{info['name']}@{info.get('etag', '')}".encode()).hexdigest()

    def checksum(self, path: str) -> int:
        """Another one for each version; 64 bits of the hash of its ETag."""
        return int(self.ukey(path)[:16], 16)

    # -- reading ---------------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        bucket, key = self._object(path)
        if mode == "rb":
            with _naming(path):
                return _ReadFile(self, bucket, key)
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(f"the mode {mode!r} is not offered: rb, wb, xb and ab are")
        kwargs = {name: value for name, value in kwargs.items() if name not in _READ_OPTIONS}
        with _naming(path):
            return WriteFile(self.client, bucket, key, mode, autocommit=autocommit, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        bucket, key = self._object(path)
        with _naming(path):
            if start is None and end is None:
                return self.client.get(bucket, key)
            return with_reopen(lambda: self._read_ranges(path, [(start, end)]))[0]

    def get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **kwargs: Any
    ) -> None:
        def get() -> None:
            super(EbbFileSystem, self).get_file(rpath, lpath, callback=callback, outfile=outfile, **kwargs)

        if outfile is not None or isfilelike(lpath):  # what was written there cannot be taken back
            get()
        else:
            with_reopen(get)

    def cat_ranges(
        self, paths: list[str], starts: Any, ends: Any, max_gap: Any = None, on_error: str = "return", **kwargs: Any
    ) -> list[Any]:
        """Each object is opened once, whatever the number of its ranges."""
        if max_gap is not None:
            raise NotImplementedError("max_gap")
        if not isinstance(paths, list):
            raise TypeError("paths is a list")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(starts) == len(ends) == len(paths):
            raise ValueError("paths, starts and ends are of one length")
        found: list[Any] = [None] * len(paths)
        for path in dict.fromkeys(paths):
            wanted = [at for at, name in enumerate(paths) if name == path]
            try:
                with _naming(path):
                    pieces = with_reopen(lambda: self._read_ranges(path, [(starts[at], ends[at]) for at in wanted]))  # noqa: B023
                for at, piece in zip(wanted, pieces):
                    found[at] = piece
            except Exception as error:
                if on_error != "return":
                    raise
                for at in wanted:
                    found[at] = error
        return found

    def _read_ranges(self, path: str, ranges: Sequence[tuple[int | None, int | None]]) -> list[bytes]:
        """Of one version."""
        with self.client.open(*self._object(path)) as reader:
            return [reader.read(*_bounds(start, end, reader.size_bytes)) for start, end in ranges]

    # -- writing ---------------------------------------------------------------------------------------------

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        if self._intrans:
            with self.open(path, "xb" if mode == "create" else "wb", **kwargs) as file:
                file.write(value)
            return
        bucket, key = self._object(path)
        self.client.put(bucket, key, value, if_none_match=mode == "create", **kwargs)

    def put_file(
        self, lpath: str, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        size = os.path.getsize(lpath)
        callback.set_size(size)
        if self._intrans:
            with open(lpath, "rb") as source, self.open(rpath, "xb" if mode == "create" else "wb", **kwargs) as target:
                while piece := source.read(self.blocksize):
                    target.write(piece)
        else:
            bucket, key = self._object(rpath)
            self.client.put(bucket, key, Path(lpath), if_none_match=mode == "create", **kwargs)
        callback.absolute_update(size)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Another name for the same bytes; none are copied."""
        from_bucket, from_key = self._object(path1)
        to_bucket, to_key = self._object(path2)
        try:
            self.client.copy(from_bucket, from_key, to_key, to_bucket=to_bucket)
        except NotFoundError:
            if not self._is_directory(from_bucket, from_key):
                raise FileNotFoundError(path1) from None
            self.makedirs(path2, exist_ok=True)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """A file, or with ``recursive`` a directory, changes its name in one step; patterns and lists are copied and
        deleted. Into a directory that is there, or when ``path2`` ends in ``/``, it keeps its last name."""
        path1, path2 = stringify_path(path1), stringify_path(path2)
        if not (isinstance(path1, str) and isinstance(path2, str)) or maxdepth is not None or _is_pattern(path1):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        contents_only = recursive and path1.endswith("/")
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if source == target:
            return
        is_file = self.isfile(source)
        if not is_file and not self.isdir(source):
            raise FileNotFoundError(path1)
        if not contents_only and (path2.endswith("/") or self.isdir(target)):
            target = f"{target}/{source.rsplit('/', 1)[-1]}"
        from_bucket, from_key = self._object(source)
        to_bucket, to_key = self._object(target)
        if is_file:
            self.client.rename(from_bucket, from_key, to_key, to_bucket=to_bucket)
            return
        if not recursive:
            raise IsADirectoryError(f"{path1} is a directory: mv(…, recursive=True)")
        if f"{target}/".startswith(f"{source}/"):
            raise ValueError(f"cannot move {path1} into itself")
        self.client.rename_prefix(from_bucket, f"{from_key}/", f"{to_key}/", to_bucket=to_bucket)

    rename = mv
    move = mv

    # -- directories and deletion ----------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """A directory that stays while it is empty. With ``create_parents`` the bucket is made when it is missing;
        other parents need not be there. Keyword arguments are those of `ebb.Client.create_bucket`."""
        path = self._strip_protocol(path)
        bucket, key = split_url(path)
        if not bucket:
            raise ValueError("a directory needs a name")
        if self.exists(path):
            raise FileExistsError(path)
        if not key or (create_parents and not self.exists(bucket)):
            self._make_bucket(bucket, **kwargs)
        if key:
            self.client.make_directory(bucket, key)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        path = self._strip_protocol(path)
        try:
            self.mkdir(path)
        except FileExistsError:
            if not exist_ok or self.isfile(path):
                raise

    def rmdir(self, path: str) -> None:
        path = self._strip_protocol(path)
        bucket, key = split_url(path)
        if not key:
            self.client.delete_bucket(bucket)
            return
        try:
            self.client.remove_directory(bucket, key)
        except NotFoundError:
            if self._is_directory(bucket, key):
                raise DirectoryNotEmptyError(f"{path} has objects", {"bucket": bucket, "path": key}) from None
            raise FileNotFoundError(path) from None

    def rm_file(self, path: str) -> None:
        bucket, key = self._object(path)
        with _naming(path):
            self.client.delete(bucket, key)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """With ``recursive`` a directory goes with all that is in it, at one stroke."""
        paths = [path] if isinstance(path, (str, os.PathLike)) else path
        for name in paths:
            for found in self.expand_path(name, recursive=False):
                self._remove(found, recursive=recursive, maxdepth=maxdepth)

    def _remove(self, path: str, *, recursive: bool, maxdepth: int | None) -> None:
        if self.isfile(path):
            self.rm_file(path)
        elif not self.isdir(path):
            raise _not_found(path)
        elif not recursive:
            raise IsADirectoryError(f"{path} is a directory: rm(…, recursive=True)")
        elif maxdepth is not None:
            super().rm(path, recursive=True, maxdepth=maxdepth)
        else:
            bucket, key = split_url(path)
            self.client.delete_prefix(bucket, f"{key}/" if key else "")
            if not key:
                self.client.delete_bucket(bucket)

    # -- inside ----------------------------------------------------------------------------------------------

    def _object(self, path: str) -> tuple[str, str]:
        bucket, key = split_url(self._strip_protocol(path))
        if not key:
            raise IsADirectoryError(f"{path} names no object: ebb://bucket/path")
        return bucket, key

    def _make_bucket(self, bucket: str, **policy: Any) -> None:
        with contextlib.suppress(BucketExistsError):  # made meanwhile, with another policy
            self.client.create_bucket(bucket, **policy)

    def _is_directory(self, bucket: str, key: str) -> bool:
        try:
            page = self.client.list_page(bucket, f"{key}/", limit=1)
        except _MISSING:
            return False
        return bool(page.objects)

    def _pages(self, bucket: str, prefix: str) -> Iterator[ListPage]:
        after: str | None = ""
        while after is not None:
            page = self.client.list_page(bucket, prefix, delimiter="/", start_after=after)
            yield page
            after = page.next

    def _list_directory(self, bucket: str, prefix: str) -> list[Info]:
        found: list[Info] = []
        for page in self._pages(bucket, prefix):
            found += [_file(row) for row in page.objects if row.key != prefix]
            found += [_directory(f"{bucket}/{name.rstrip('/')}") for name in page.prefixes]
        return found


class _ReadFile(ReadFile):
    """With what other file systems' open files have."""

    def __init__(self, fs: EbbFileSystem, bucket: str, key: str) -> None:
        self.fs = fs
        super().__init__(fs.client, bucket, key)

    @property
    def closed(self) -> bool:
        return bool(super().closed)

    @closed.setter
    def closed(self, _: bool) -> None:
        """fsspec's caches say so after they have closed a file."""

    @property
    def details(self) -> Info:
        """Gives what the file system's `info` gives, for the version that is open."""
        with contextlib.suppress(FileNotFoundError):
            found = self.fs.info(self.path)
            if found.get("etag") == self.opened.etag:
                return found
        etag, version = self.opened.etag, self.opened.version
        row = {"name": self.path, "size": self.size, "type": "file"}
        return {**row, "etag": etag, "ETag": etag, "version": version}

    def info(self) -> Info:
        return self.details

    @property
    def full_name(self) -> str:
        return self.fs.unstrip_protocol(self.path)

    @property
    def loc(self) -> int:
        return self.tell()

    @property
    def cache(self) -> Any:
        """fsspec puts its caches of blocks here; without one, bytes come straight from the node."""
        raw: Any = self.raw
        return raw.cache

    @cache.setter
    def cache(self, cache: Any) -> None:
        raw: Any = self.raw
        raw.cache = cache

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Bytes up to and with `char`, or to the end."""
        found = bytearray()
        while piece := self.read(blocks or self.blocksize):
            at = piece.find(char)
            if at >= 0:
                found += piece[: at + len(char)]
                self.seek(at + len(char) - len(piece), os.SEEK_CUR)
                break
            found += piece
        return bytes(found)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._reader.read(start, max(0, end - start))

    def _arguments(self) -> tuple[Any, ...]:
        return (self.fs, *split_url(self.path))


#: No object can have such a path, or none has.
_MISSING = (FileNotFoundError, NameInvalidError)
#: Options that readers of other file systems take: writers take them without effect.
_READ_OPTIONS = ("cache_type", "size", "block_size", "cache_options", "fill_cache")


def _not_found(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """What is missing is told by the path that was asked for, as other file systems do."""
    try:
        yield
    except FileNotFoundError as error:
        error.filename = path
        raise


def _directory(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}


def _file(row: ObjectInfo) -> Info:
    created = datetime.fromtimestamp(row.created_at_ms / 1000, tz=timezone.utc)
    return {
        "name": f"{row.bucket}/{row.key}",
        "size": row.size_bytes,
        "type": "file",
        "created": created,
        # A version does not change. The names are those of other object stores.
        "mtime": created,
        "LastModified": created,
        "etag": row.etag,
        "ETag": row.etag,
        "version": row.version,
        "crc32c": row.crc32c,
        "durability": row.durability,
    }


def _bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """As slices have them, as offset and length."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(0, last - first)


def _is_pattern(path: str) -> bool:
    return any(char in path for char in "*?[")
