"""Where a node listens, and how its TLS is checked. Mirror of the TypeScript client's ``node-address.ts``."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .errors import ConfigInvalidError, RequestInvalidError

DEFAULT_NODE = "http://127.0.0.1:9700"


@dataclass(frozen=True)
class NodeAddress:
    #: As given, for messages.
    text: str
    host: str
    port: int
    #: Path of a Unix socket; then host and port only fill the Host header.
    socket_path: str | None = None
    is_tls: bool = False

    @property
    def is_this_host(self) -> bool:
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_node_address(text: str) -> NodeAddress:
    """``http://host:port``, ``https://host:port``, ``unix:///path``, ``unix:/path`` or ``/path``.

    Raises:
        RequestInvalidError: it is none of these.
    """
    if text.startswith("/"):
        return NodeAddress(text=text, host="localhost", port=80, socket_path=text)
    if text.startswith("unix:"):
        path = unquote(text[len("unix:") :])
        path = path[2:] if path.startswith("//") else path
        if not path.startswith("/"):
            raise _bad_address(text, "a Unix socket needs an absolute path")
        return NodeAddress(text=text, host="localhost", port=80, socket_path=path)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise _bad_address(text, str(error)) from error
    if url.scheme not in ("http", "https"):
        raise _bad_address(text, f"the scheme {url.scheme or '(none)'}:// is not known")
    if url.hostname is None:
        raise _bad_address(text, "it names no host")
    if url.path not in ("", "/") or url.query or url.fragment:
        raise _bad_address(text, "it has a path")
    if url.username is not None or url.password is not None:
        raise _bad_address("(hidden)", "it has credentials")
    is_tls = url.scheme == "https"
    return NodeAddress(text=text, host=url.hostname, port=port or (443 if is_tls else 80), is_tls=is_tls)


def find_node(node: str | None) -> str:
    """What was given, else ``EBB_NODE``, else the address a node has unless it is told another."""
    return node or os.environ.get("EBB_NODE") or DEFAULT_NODE


def open_tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Trusts ``ca_file``, else what Python trusts; shows the certificate if there is one. All files are PEM.

    Raises:
        ConfigInvalidError: a file cannot be read, or a certificate has no key.
    """
    if (cert_file is None) != (key_file is None):
        raise ConfigInvalidError("a certificate of the client needs its key, and a key its certificate")
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalidError(f"the TLS files cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _bad_address(text: str, why: str) -> RequestInvalidError:
    return RequestInvalidError(
        f'"{text}" is not the address of a node, such as {DEFAULT_NODE} or unix:///run/ebb.sock: {why}'
    )
