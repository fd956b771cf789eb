"""Digests of blocks, by OpenSSL: that of Python itself, called without the GIL, or the one in ``cryptography``.

The digest is GMAC with a public key (docs/checkpoint-format.md): it finds accidents at the speed of memory, not malice.
From 3.1 on, OpenSSL computes it with the 512-bit instructions of newer processors, two and a half times as fast. So
where Python is linked to an older one, as on Debian 12 and Ubuntu 24.04, ``cryptography`` is used if it is installed:
it brings its own.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
from typing import Any, Callable, Protocol

from .._locks import new_lock

DIGEST_BYTES = 16
_KEY = b"ebb-checkpoint/1"
_NONCE = bytes(12)
_GET_TAG = 0x10  # EVP_CTRL_AEAD_GET_TAG
_FAST_FROM = 0x30100000


class BlockDigest(Protocol):
    """Computes digests, one at a time: each thread has its own."""

    def of(self, address: int, length: int) -> bytes:
        """16 bytes: the digest of `length` bytes at `address`."""


def is_available() -> bool:
    """Whether there is an OpenSSL that can be called; else the node verifies."""
    return _provider() is not None


class ThreadDigests(threading.local):
    """A `BlockDigest` for each thread that asks."""

    def __init__(self) -> None:
        self._own: BlockDigest | None = None

    def get(self) -> BlockDigest:
        if self._own is None:
            provider = _provider()
            if provider is None:
                raise RuntimeError("this Python has no OpenSSL that can be called")
            self._own = provider()
        return self._own


# -- the OpenSSL that Python is linked to ------------------------------------------------------------------------


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
    lib.OpenSSL_version_num.restype = ctypes.c_ulong
    lib.EVP_aes_128_gcm.restype = pointer
    lib.EVP_CIPHER_CTX_new.restype = pointer
    lib.EVP_CIPHER_CTX_free.argtypes = [pointer]
    lib.EVP_CIPHER_CTX_free.restype = None
    lib.EVP_EncryptInit_ex.argtypes = [pointer, pointer, pointer, ctypes.c_char_p, ctypes.c_char_p]
    lib.EVP_EncryptUpdate.argtypes = [pointer, pointer, pointer, pointer, integer]
    lib.EVP_EncryptFinal_ex.argtypes = [pointer, pointer, pointer]
    lib.EVP_CIPHER_CTX_ctrl.argtypes = [pointer, integer, integer, pointer]


class LinkedDigest:
    """By `ctypes`: other threads run Python meanwhile."""

    def __init__(self, library: Any) -> None:
        self._lib = library
        self._context = ctypes.c_void_p(library.EVP_CIPHER_CTX_new())
        self._tag = ctypes.create_string_buffer(DIGEST_BYTES)
        self._moved = ctypes.c_int()
        self._check(library.EVP_EncryptInit_ex(self._context, library.EVP_aes_128_gcm(), None, _KEY, _NONCE))

    def __del__(self) -> None:
        context, self._context = getattr(self, "_context", None), ctypes.c_void_p()
        if context:
            self._lib.EVP_CIPHER_CTX_free(context)

    def of(self, address: int, length: int) -> bytes:
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


# -- the OpenSSL in `cryptography` -------------------------------------------------------------------------------


class CryptographyDigest:
    """It keeps the GIL, for about 12 µs a block of 256 KiB."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        self._cipher = Cipher(algorithms.AES(_KEY), modes.GCM(_NONCE))

    def of(self, address: int, length: int) -> bytes:
        encryptor: Any = self._cipher.encryptor()
        encryptor.authenticate_additional_data(memoryview((ctypes.c_ubyte * length).from_address(address)).cast("B"))
        encryptor.finalize()
        tag: bytes = encryptor.tag
        return tag


def _cryptography_version() -> int:
    """Of the OpenSSL in it; 0: it is not installed, or too old to say."""
    try:
        from cryptography.hazmat.backends.openssl.backend import backend

        return int(backend.openssl_version_number())
    except Exception:  # a broken installation of what is optional
        return 0


# -- the one that is used ----------------------------------------------------------------------------------------

_lock = new_lock()
_chosen: list[Callable[[], BlockDigest] | None] = []


def _provider() -> Callable[[], BlockDigest] | None:
    with _lock:
        if not _chosen:
            _chosen.append(_choose())
        return _chosen[0]


def _choose() -> Callable[[], BlockDigest] | None:
    library = _load()
    is_fast = library is not None and library.OpenSSL_version_num() >= _FAST_FROM
    if not is_fast and _cryptography_version() >= _FAST_FROM:
        return CryptographyDigest
    return None if library is None else lambda: LinkedDigest(library)
