"""The client for asyncio."""

from __future__ import annotations

import asyncio

import pytest

import ebb
from support import NodeProcess


def test_the_main_calls(node: NodeProcess, bucket: str) -> None:
    async def run() -> None:
        async with ebb.AsyncClient(node.url) as client:
            await asyncio.gather(*(client.put(bucket, str(n), b"x" * n) for n in range(20)))
            read = await asyncio.gather(*(client.get(bucket, str(n)) for n in range(20)))
            assert read == [b"x" * n for n in range(20)]
            assert {info.key async for info in client.list(bucket)} == {str(n) for n in range(20)}
            await client.rename(bucket, "1", "one")
            await client.copy(bucket, "one", "copy")
            assert (await client.head(bucket, "copy")).size_bytes == (await client.stat(bucket, "one")).size_bytes == 1
            target = bytearray(5)
            assert await client.get_into(bucket, "5", target) == 5
            with await client.open_map(bucket, "5") as mapped:
                assert bytes(mapped.view) == b"x" * 5
            await client.delete(bucket, "one")
            assert not await client.exists(bucket, "one")
            assert (await client.wait(bucket, "5", "memory")).durability == "memory"
            assert (await client.rename_prefix(bucket, "1", "y")).objects == 10
            assert (await client.delete_prefix(bucket, "")).objects == 20
            assert bucket in [found.name for found in await client.buckets()]
            assert (await client.request_json("GET", "/v1/status"))["state"] == "ready"
            await client.create_bucket(f"{bucket}-async", "ephemeral")

    asyncio.run(run())


def test_it_says_when_it_is_not_open() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = ebb.AsyncClient("http://127.0.0.1:1").client
