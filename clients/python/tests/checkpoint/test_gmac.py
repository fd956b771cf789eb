"""Digests by every OpenSSL that there is, against the golden vectors, and which of them is taken."""

import json
from typing import Callable

import numpy as np
import pytest

from ebb.checkpoint import _gmac
from ebb.checkpoint._gmac import BlockDigest, CryptographyDigest, LinkedDigest
from support import REPO

VECTORS = json.loads((REPO / "packages/protocol/vectors/block-digests.json").read_text(encoding="utf-8"))["blocks"]
LIBRARY = _gmac._load()


def linked() -> BlockDigest:
    assert LIBRARY is not None, "the Python of the tests has an OpenSSL"
    return LinkedDigest(LIBRARY)


def by_cryptography() -> BlockDigest:
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    return CryptographyDigest()


@pytest.mark.parametrize("make", [linked, by_cryptography])
def test_vectors(make: Callable[[], BlockDigest]) -> None:
    digest = make()
    for _ in range(2):
        for vector in VECTORS:
            block = (np.arange(vector["length"], dtype=np.int64) ** 2 % 251).astype(np.uint8)
            assert digest.of(block.ctypes.data, block.size).hex() == vector["digest"]


@pytest.mark.parametrize(
    ("own", "other", "wanted"),
    [
        (0x30500000, 0x40000000, LinkedDigest),
        (0x30000130, 0x40000000, CryptographyDigest),
        (0x30000130, 0x30000000, LinkedDigest),
        (0x30000130, 0, LinkedDigest),
        (None, 0x40000000, CryptographyDigest),
        (None, 0, None),
    ],
)
def test_the_fast_one_is_taken_and_any_before_none(
    own: "int | None", other: int, wanted: "type[BlockDigest] | None", monkeypatch: pytest.MonkeyPatch
) -> None:
    if wanted is CryptographyDigest:
        pytest.importorskip("cryptography", reason="cryptography is not installed")

    class Library:
        """The one that is there, of another version."""

        def __getattr__(self, name: str) -> object:
            return getattr(LIBRARY, name)

        def OpenSSL_version_num(self) -> "int | None":  # noqa: N802
            return own

    monkeypatch.setattr(_gmac, "_load", lambda: None if own is None else Library())
    monkeypatch.setattr(_gmac, "_cryptography_version", lambda: other)
    provider = _gmac._choose()
    assert (provider is None) == (wanted is None)
    assert provider is None or wanted is None or type(provider()) is wanted
