"""The client for asyncio: the same calls, each on a thread of the loop's executor."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

from ._client import Client
from ._infos import BucketInfo, ListPage, ObjectInfo, ObjectProperties, Waited
from ._messages import Ack, Affected
from ._puts import PutData
from ._reader import ObjectMap
from ._staged import Committed


class AsyncClient:
    """``async with ebb.AsyncClient(…) as client``; takes what `Client` takes.

    A call that is cancelled goes on in its thread, and its answer is dropped.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._arguments = (args, kwargs)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The synchronous client underneath. RuntimeError outside of ``async with``."""
        if self._client is None:
            raise RuntimeError("use `async with ebb.AsyncClient(…) as client`")
        return self._client

    async def __aenter__(self) -> AsyncClient:
        args, kwargs = self._arguments
        self._client = await asyncio.to_thread(Client, *args, **kwargs)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.client.close)

    async def create_bucket(self, name: str, preset: str = "buffered", **policy: Any) -> BucketInfo:
        return await asyncio.to_thread(self.client.create_bucket, name, preset, **policy)

    async def buckets(self) -> builtins.list[BucketInfo]:
        return await asyncio.to_thread(self.client.buckets)

    async def put(self, bucket: str, key: str, data: PutData, **options: Any) -> Committed:
        return await asyncio.to_thread(self.client.put, bucket, key, data, **options)

    async def get(self, bucket: str, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await asyncio.to_thread(self.client.get, bucket, key, offset, length)

    async def get_into(self, bucket: str, key: str, buffer: Any, offset: int = 0) -> int:
        return await asyncio.to_thread(self.client.get_into, bucket, key, buffer, offset)

    async def open_map(self, bucket: str, key: str) -> ObjectMap:
        return await asyncio.to_thread(self.client.open_map, bucket, key)

    async def stat(self, bucket: str, key: str) -> ObjectInfo:
        return await asyncio.to_thread(self.client.stat, bucket, key)

    async def head(self, bucket: str, key: str) -> ObjectProperties:
        return await asyncio.to_thread(self.client.head, bucket, key)

    async def exists(self, bucket: str, key: str) -> bool:
        return await asyncio.to_thread(self.client.exists, bucket, key)

    async def list(self, bucket: str, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        after: str | None = start_after
        while after is not None:
            page = await self.list_page(bucket, prefix, start_after=after)
            for info in page.objects:
                yield info
            after = page.next

    async def list_page(self, bucket: str, prefix: str = "", **options: Any) -> ListPage:
        return await asyncio.to_thread(self.client.list_page, bucket, prefix, **options)

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> None:
        await asyncio.to_thread(self.client.delete, bucket, key, if_match=if_match)

    async def delete_prefix(self, bucket: str, prefix: str) -> Affected:
        return await asyncio.to_thread(self.client.delete_prefix, bucket, prefix)

    async def copy(self, bucket: str, key: str, to_key: str, **options: Any) -> ObjectProperties:
        return await asyncio.to_thread(self.client.copy, bucket, key, to_key, **options)

    async def rename(self, bucket: str, key: str, to_key: str, **options: Any) -> None:
        await asyncio.to_thread(self.client.rename, bucket, key, to_key, **options)

    async def rename_prefix(self, bucket: str, prefix: str, to_prefix: str, **options: Any) -> Affected:
        return await asyncio.to_thread(self.client.rename_prefix, bucket, prefix, to_prefix, **options)

    async def wait(self, bucket: str, key: str, durability: Ack = "remote", **options: Any) -> Waited:
        return await asyncio.to_thread(self.client.wait, bucket, key, durability, **options)

    async def request_json(
        self, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        return await asyncio.to_thread(self.client.request_json, method, path, body, query, **options)
