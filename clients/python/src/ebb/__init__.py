"""Python client of Ebb, a per-node service for the data between the steps of a job.

On the node itself bytes go through the node's files; elsewhere through HTTP, with no change of code::

    import ebb

    with ebb.Client() as client:
        client.create_bucket("results")
        client.put("results", "greeting.txt", b"hello")
        assert client.get("results", "greeting.txt") == b"hello"
"""

from ._aio import AsyncClient
from ._client import Client
from ._infos import BucketInfo, ListPage, ObjectInfo, ObjectProperties, Waited
from ._messages import Ack, Affected
from ._reader import ObjectMap, ObjectReader
from ._retry import DEFAULT_RETRY, NO_RETRY, RetryPolicy
from ._staged import Committed, StagedFile
from ._version import __version__
from .errors import ERRORS, EbbError

__all__ = [
    "DEFAULT_RETRY",
    "ERRORS",
    "NO_RETRY",
    "Ack",
    "Affected",
    "AsyncClient",
    "BucketInfo",
    "Client",
    "Committed",
    "EbbError",
    "ListPage",
    "ObjectInfo",
    "ObjectMap",
    "ObjectProperties",
    "ObjectReader",
    "RetryPolicy",
    "StagedFile",
    "Waited",
    "__version__",
]
