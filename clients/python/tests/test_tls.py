"""A node with TLS: bytes and calls over HTTP, and nobody is trusted unseen."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ebb
from ebb import errors
from support import NodeProcess
from test_client import MIB, noise

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True, timeout=30)
    return tmp_path / "cert.pem"


@pytest.fixture
def tls_node(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeProcess]:
    # It looks like another host: no node is behind what this one calls its socket.
    monkeypatch.setattr("ebb._client._node_id", lambda address: None)
    with NodeProcess(f"--tls-cert={certificate}", f"--tls-key={certificate.with_name('key.pem')}") as process:
        yield process


def test_objects_and_names_over_https(tls_node: NodeProcess, certificate: Path) -> None:
    data = noise(3 * MIB)
    assert tls_node.url.startswith("https://")
    with ebb.Client(tls_node.url, ca_file=str(certificate)) as client:
        assert (client.path, client.is_connected) == ("http", False)
        client.create_bucket("bucket", "ephemeral")
        client.put("bucket", "k", data)
        assert client.get("bucket", "k") == data
        assert [info.key for info in client.list("bucket")] == ["k"]
        with pytest.raises(errors.UnsupportedError):
            client.stage("bucket", "other")


def test_a_certificate_that_is_not_trusted_is_refused(tls_node: NodeProcess) -> None:
    with pytest.raises(errors.ConfigInvalidError, match="ca_file"):
        ebb.Client(tls_node.url)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigInvalidError):
        ebb.Client("https://127.0.0.1:1", ca_file=str(tmp_path / "none"))
    with pytest.raises(errors.ConfigInvalidError, match="key"):
        ebb.Client("https://127.0.0.1:1", cert_file="cert.pem")
