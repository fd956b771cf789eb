from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

import ebb
from support import NodeProcess, open_client

_numbers = itertools.count()


@pytest.fixture(scope="session")
def node() -> Iterator[NodeProcess]:
    """Shared by all tests that leave it running."""
    with NodeProcess() as process:
        yield process


@pytest.fixture
def own_node() -> Iterator[NodeProcess]:
    """For tests that kill it."""
    with NodeProcess() as process:
        yield process


@pytest.fixture(params=["local", "frames", "http"])
def client(request: pytest.FixtureRequest, node: NodeProcess) -> Iterator[ebb.Client]:
    """By the node's files; through the node by frames and HTTP; and by HTTP alone, as behind a plain proxy."""
    with open_client(node, request.param) as opened:
        yield opened


@pytest.fixture
def local(node: NodeProcess) -> Iterator[ebb.Client]:
    with ebb.Client(node.socket_url) as opened:
        yield opened


@pytest.fixture
def bucket(node: NodeProcess) -> str:
    """A fresh one, in memory."""
    name = f"bucket-{next(_numbers)}"
    with ebb.Client(node.socket_url) as opened:
        opened.create_bucket(name, "ephemeral")
    return name
