from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

import ebb
from ebb.checkpoint import Checkpointer
from support import NodeProcess

_numbers = itertools.count()


@pytest.fixture
def run() -> str:
    """The name of a fresh run."""
    return f"run-{next(_numbers)}"


@pytest.fixture
def checkpointer(node: NodeProcess, run: str) -> Iterator[Checkpointer]:
    with ebb.Client(node.socket_url) as client, Checkpointer(client, run) as opened:
        yield opened
