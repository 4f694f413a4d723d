"""A node and its peers over TLS, in which both sides show a certificate."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from dicom_node import (
    NODE,
    SENDER,
    SOCKETS,
    Store,
    closed_sockets,
    echo,
    new_study,
    result_of,
    running_node,
    send,
    wait_until,
    write_config,
)
from orthanc import free_ports
from pynetdicom import AE
from pynetdicom.sop_class import Verification

__all__ = ["closed_sockets"]  # a fixture of all tests here
pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not there"),
    pytest.mark.filterwarnings(*SOCKETS),
]


def certificate(folder: Path, name: str) -> dict[str, str]:
    """Make a certificate that is its own authority."""
    files = {"certificate": str(folder / f"{name}.pem"), "key": str(folder / f"{name}.key")}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command, "-keyout", files["key"], "-out", files["certificate"]], check=True, capture_output=True, timeout=60
    )
    return files | {"authority": files["certificate"]}


def echo_by_tls(port: int, files: dict[str, str], trusted: str) -> bool:
    context = ssl.create_default_context(cafile=trusted)
    context.load_cert_chain(files["certificate"], files["key"])
    node = AE(ae_title=SENDER)
    node.acse_timeout = node.dimse_timeout = node.network_timeout = 10
    node.add_requested_context(Verification)
    association = node.associate("127.0.0.1", port, ae_title=NODE, tls_args=(context, "localhost"))
    if not association.is_established:
        return False
    association.send_c_echo()
    association.release()
    return True


def test_only_a_caller_with_a_trusted_certificate_is_heard(tmp_path: Path) -> None:
    ours, theirs = certificate(tmp_path, "ours"), certificate(tmp_path, "theirs")
    (port,) = free_ports(1)
    config = write_config(tmp_path / "node.yaml", port=port, store=1, tls=ours, timeout_seconds=3)
    # beside a connection whose handshake never comes
    with running_node(tmp_path / "node", config), socket.create_connection(("127.0.0.1", port)):
        assert echo_by_tls(port, ours, ours["certificate"])
        assert not echo(port)
        assert not echo_by_tls(port, theirs, ours["certificate"])
        assert echo_by_tls(port, ours, ours["certificate"])


def test_results_go_to_a_peer_over_tls(tmp_path: Path) -> None:
    ours = certificate(tmp_path, "ours")
    store = Store()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours["authority"])
    context.load_cert_chain(ours["certificate"], ours["key"])
    context.verify_mode = ssl.CERT_REQUIRED
    with store.running(context):
        (port,) = free_ports(1)
        peers = {"STORE": {"ae": "STORE", "host": "127.0.0.1", "port": store.port, "tls": ours}}
        config = write_config(tmp_path / "node.yaml", port=port, store=1, peers=peers)
        with running_node(tmp_path / "node", config):
            images = new_study()
            send(images, port)
            wait_until(lambda: len(store.arrived) == 1, 30)
    assert store.arrived == {result_of(images[0]): 1}


def test_certificates_that_are_none_are_told(tmp_path: Path) -> None:
    ours = certificate(tmp_path, "ours") | {"key": str(tmp_path / "none.key")}
    config = write_config(tmp_path / "node.yaml", port=free_ports(1)[0], store=1, tls=ours)
    with (
        pytest.raises(AssertionError, match="certificates of TLS cannot be used"),
        running_node(tmp_path / "n", config),
    ):
        pass
