"""The config of a node: who may send, where results go, what is segmented by which model, and when.

It is a YAML file, checked by a schema. A name that it should not have is refused with the nearest that it may have.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.inferers.budget import read_budget
from icmoe_monai.utils.schema import Schema, find_fault

_AE: Schema = {
    "type": "string",
    "pattern": r"^(?=.*[^ ])[ -\[\]-~]{1,16}$",
    "description": "an AE title: 1 to 16 letters, digits and signs of ASCII, without a backslash",
}
_TEXT: Schema = {"type": "string", "minLength": 1, "description": "text"}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_TLS = {"certificate": _TEXT, "key": _TEXT, "authority": _TEXT}
_CALLER = {"ae": _AE, "address": _TEXT}
_DICOM_PEER = {"ae": _AE, "host": _TEXT, "port": _PORT, "tls": {"type": "object"}}
_WEB_PEER = {"url": _TEXT, "credentials": _TEXT, "ca": _TEXT}
_NODE: dict[str, Schema] = {
    "ae": _AE,
    "port": _PORT,
    "bind": _TEXT,
    "callers": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    "peers": {"type": "object"},
    "to": {"type": "array", "minItems": 1, "uniqueItems": True, "items": _TEXT},
    "experts": _TEXT,
    "checkpoint": _TEXT,
    "configs": _TEXTS,
    "quiet_seconds": _SECONDS,
    "timeout_seconds": _SECONDS,
    "most_associations": {"type": "integer", "minimum": 1},
    "most_tries": {"type": "integer", "minimum": 1},
    "reserve": {"type": "string", "description": "a size, such as 2GB"},
    "keep_days": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]},
    "health_bind": _TEXT,
    "health_port": {"anyOf": [_PORT, {"type": "null"}]},
    "tls": {"type": "object"},
}


@dataclass(frozen=True)
class Tls:
    """Files of a TLS connection: a certificate with its key, and the authority whose certificates the others have."""

    certificate: str
    key: str
    authority: str


@dataclass(frozen=True)
class Caller:
    """Who may send: an AE title, and the address or network that it calls from."""

    ae: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class DicomPeer:
    """Where results go by C-STORE."""

    ae: str
    host: str
    port: int
    tls: Tls | None = None


@dataclass(frozen=True)
class WebPeer:
    """Where results go by STOW-RS, and the files of the credentials and of the authorities' certificates."""

    url: str
    credentials: str | None = None
    ca: str | None = None


@dataclass(frozen=True)
class NodeConfig:
    """All that a node is told.

    Attributes:
        ae: Its own AE title.
        callers: Who may send.
        peers: Where results go, by name.
        port: Port that it listens at.
        bind: Address that it listens at, of this machine's.
        experts: Name of the pack of experts; None: the default.
        checkpoint: Weights of a training; None: those of the experts.
        configs: Configs laid over that of the inference.
        quiet_seconds: How long nothing of a study must have arrived for it to be complete.
        timeout_seconds: How long an association may be silent.
        most_associations: How many associations there may be at a time.
        most_tries: After how many tries a study or a result has failed.
        reserve: Bytes of the disk that stay free: nothing is accepted that would take of them.
        keep_days: How long received images are kept once their study's results are sent; None: for ever.
        health_bind: Address at which health and metrics are told.
        health_port: Port of it; None: they are not told.
        tls: Files of TLS; None: the node speaks plain DICOM.
    """

    ae: str
    callers: tuple[Caller, ...]
    peers: Mapping[str, DicomPeer | WebPeer]
    port: int = 11112
    bind: str = "127.0.0.1"
    experts: str | None = None
    checkpoint: str | None = None
    configs: tuple[str, ...] = ()
    quiet_seconds: float = 60.0
    timeout_seconds: float = 30.0
    most_associations: int = 10
    most_tries: int = 10
    reserve: int = 2 * 10**9
    keep_days: float | None = 7.0
    health_bind: str = "127.0.0.1"
    health_port: int | None = 11180
    tls: Tls | None = None


def read_node_config(path: str | Path, given: Mapping[str, Any]) -> NodeConfig:
    """Read and check the config of a node.

    Args:
        path: The YAML file.
        given: Settings that take the place of the file's, by name, as the command line gives them.

    Raises:
        InputError: If the file or a setting cannot be used; the sentence names it.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML ({kind_of(error)}): correct it.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is no config of a node: docs/pacs.md shows one.")
    content = {**content, **given}
    _check(content, _NODE, f"{path}", required=("ae", "callers", "peers", "to"))
    folder = Path(path).parent
    peers = {str(name): _peer(peer, f"{path}: peers {name}", folder) for name, peer in content["peers"].items()}
    for name in content["to"]:
        if name not in peers:
            raise InputError(f"{path}: to names {name}, and peers have no such name{_nearest(name, peers)}")
    plain = {name: content[name] for name in NodeConfig.__dataclass_fields__ if name in content}
    return NodeConfig(
        **plain
        | {
            "callers": tuple(_caller(caller, f"{path}: callers") for caller in content["callers"]),
            "peers": {name: peers[name] for name in content["to"]},
            "configs": tuple(content.get("configs", ())),
            "checkpoint": _file(content.get("checkpoint"), folder),
            "reserve": _size(content.get("reserve", "2GB"), path),
            "tls": _tls(content.get("tls"), f"{path}: tls", folder),
        }
    )


def _check(content: Any, known: Mapping[str, Schema], place: str, *, required: Iterable[str] = ()) -> None:
    """Check a table's names, and the value of each.

    Raises:
        InputError: If it has a name too many or too few, or a value is none that it may be.
    """
    if not isinstance(content, dict):
        raise InputError(f"{place} must be a table of names and values.")
    for name in content:
        if name not in known:
            raise InputError(f"{place} has an unknown name, {name}{_nearest(str(name), known)}")
    fault = find_fault({"type": "object", "required": list(required), "properties": known}, content)
    if fault:
        raise InputError(f"{place}: {fault}.")


def _nearest(name: str, names: Iterable[str]) -> str:
    found = get_close_matches(name, list(names), n=1)
    return f": did you mean {found[0]}?" if found else f": it may be {', '.join(names)}."


def _caller(content: Any, place: str) -> Caller:
    _check(content, _CALLER, place, required=_CALLER)
    try:
        network = ipaddress.ip_network(content["address"])
    except ValueError:
        raise InputError(
            f"{place}: {content['address']} is no address: write one as 10.0.0.5, or a network as 10.0.0.0/24."
        ) from None
    return Caller(content["ae"].strip(), network)


def _peer(content: Any, place: str, folder: Path) -> DicomPeer | WebPeer:
    if isinstance(content, dict) and "url" in content:
        _check(content, _WEB_PEER, place)
        files = {name: _file(content.get(name), folder) for name in ("credentials", "ca")}
        return WebPeer(**content | files)
    _check(content, _DICOM_PEER, place, required=("ae", "host", "port"))
    tls = _tls(content.get("tls"), f"{place}: tls", folder)
    return DicomPeer(content["ae"].strip(), content["host"], content["port"], tls)


def _tls(content: Any, place: str, folder: Path) -> Tls | None:
    if content is None:
        return None
    _check(content, _TLS, place, required=_TLS)
    return Tls(**{name: str(_file(content[name], folder)) for name in _TLS})


def _file(name: str | None, folder: Path) -> str | None:
    """Return the path of a file that the config names, from the config's folder."""
    return None if name is None else str((folder / name).absolute())


def _size(text: str, path: str | Path) -> int:
    try:
        return int(read_budget(text))
    except InputError:
        raise InputError(f"{path}: reserve must be a size, such as 2GB, got {text!r}.") from None
