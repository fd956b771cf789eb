"""Digests of blocks, by the OpenSSL that Python itself is linked to: no further package, and without the GIL.

The digest is GMAC with a public key (docs/checkpoint-format.md): it finds accidents at the speed of memory, not malice.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from typing import Any

DIGEST_BYTES = 16
_KEY = b"ebb-checkpoint/1"
_NONCE = bytes(12)
_GET_TAG = 0x10  # EVP_CTRL_AEAD_GET_TAG


def _load() -> ctypes.CDLL | None:
    candidates = []
    try:
        import _hashlib

        candidates.append(getattr(_hashlib, "__file__", None))
    except ImportError:
        pass
    candidates += [ctypes.util.find_library("crypto"), "libcrypto.so.3", "libcrypto.so.1.1"]
    for name in candidates:
        if name is None:
            continue
        try:
            library = ctypes.CDLL(name)
            _declare(library)
        except (OSError, AttributeError):
            continue
        return library
    return None


def _declare(lib: Any) -> None:
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    lib.EVP_aes_128_gcm.restype = pointer
    lib.EVP_CIPHER_CTX_new.restype = pointer
    lib.EVP_CIPHER_CTX_free.argtypes = [pointer]
    lib.EVP_CIPHER_CTX_free.restype = None
    lib.EVP_EncryptInit_ex.argtypes = [pointer, pointer, pointer, ctypes.c_char_p, ctypes.c_char_p]
    lib.EVP_EncryptUpdate.argtypes = [pointer, pointer, pointer, pointer, integer]
    lib.EVP_EncryptFinal_ex.argtypes = [pointer, pointer, pointer]
    lib.EVP_CIPHER_CTX_ctrl.argtypes = [pointer, integer, integer, pointer]


_library = _load()


def is_available() -> bool:
    """Whether this Python's OpenSSL can be called; else the node verifies."""
    return _library is not None


class BlockDigest:
    """Computes digests, one at a time: each thread has its own."""

    def __init__(self) -> None:
        if _library is None:
            raise RuntimeError("this Python has no OpenSSL that can be called")
        self._lib = _library
        self._context = ctypes.c_void_p(_library.EVP_CIPHER_CTX_new())
        self._tag = ctypes.create_string_buffer(DIGEST_BYTES)
        self._moved = ctypes.c_int()
        self._check(_library.EVP_EncryptInit_ex(self._context, _library.EVP_aes_128_gcm(), None, _KEY, _NONCE))

    def __del__(self) -> None:
        context, self._context = getattr(self, "_context", None), ctypes.c_void_p()
        if context:
            self._lib.EVP_CIPHER_CTX_free(context)

    def of(self, address: int, length: int) -> bytes:
        """16 bytes: the digest of `length` bytes at `address`. The GIL is not held while it reads them."""
        lib, context = self._lib, self._context
        self._check(lib.EVP_EncryptInit_ex(context, None, None, None, _NONCE))
        self._check(lib.EVP_EncryptUpdate(context, None, ctypes.byref(self._moved), address, length))
        self._check(lib.EVP_EncryptFinal_ex(context, None, ctypes.byref(self._moved)))
        self._check(lib.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, DIGEST_BYTES, self._tag))
        return self._tag.raw

    @staticmethod
    def _check(done: int) -> None:
        if done != 1:
            raise RuntimeError("OpenSSL refused to compute a digest")


class ThreadDigests(threading.local):
    """A `BlockDigest` for each thread that asks."""

    def __init__(self) -> None:
        self._own: BlockDigest | None = None

    def get(self) -> BlockDigest:
        if self._own is None:
            self._own = BlockDigest()
        return self._own
