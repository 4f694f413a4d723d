"""The config of a node: what it may hold, and the sentence for each thing that it may not."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

from icmoe_monai.errors import InputError
from icmoe_monai.pacs.node.config import DicomPeer, WebPeer, read_node_config

GOOD: dict[str, Any] = {
    "ae": "ICMOE",
    "callers": [{"ae": "ORTHANC", "address": "10.0.0.5"}],
    "peers": {
        "STORE": {"ae": "ORTHANC", "host": "10.0.0.5", "port": 4242},
        "WEB": {"url": "https://pacs.example/dicom-web", "credentials": "secrets/pacs.json"},
    },
    "to": ["STORE"],
}


def read(tmp_path: Path, given: dict[str, Any] | None = None, **changed: Any) -> Any:
    content = {**GOOD, **changed}
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in content.items() if value != "left out"}))
    return read_node_config(path, given or {})


def test_what_is_not_set_is_careful(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.bind, config.health_bind, config.port) == ("127.0.0.1", "127.0.0.1", 11112)
    assert config.reserve == 2 * 10**9
    assert config.tls is None
    assert config.callers[0].network == ipaddress.ip_network("10.0.0.5/32")
    assert config.peers == {"STORE": DicomPeer("ORTHANC", "10.0.0.5", 4242)}


def test_paths_are_from_the_folder_of_the_config(tmp_path: Path) -> None:
    config = read(tmp_path, to=["WEB"], checkpoint="best.pt")
    assert config.peers["WEB"] == WebPeer("https://pacs.example/dicom-web", str(tmp_path / "secrets" / "pacs.json"))
    assert config.checkpoint == str(tmp_path / "best.pt")


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    config = read(tmp_path, {"ae": "OTHER", "port": 104, "to": ["STORE", "WEB"]}, port=5)
    assert (config.ae, config.port, list(config.peers)) == ("OTHER", 104, ["STORE", "WEB"])


def peer(**changed: Any) -> dict[str, Any]:
    return {"STORE": {**GOOD["peers"]["STORE"], **changed}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"quiet_second": 5}, "has an unknown name, quiet_second: did you mean quiet_seconds?"),
        ({"callers": [{"ae": "A", "adress": "10.0.0.5"}]}, "callers has an unknown name, adress: did you mean address"),
        ({"peers": peer(hots="a")}, "peers STORE has an unknown name, hots: did you mean host?"),
        (
            {"peers": {"STORE": {"url": "https://a", "token": "abc"}}},
            "peers STORE has an unknown name, token: it may be",
        ),
        ({"tls": {"certificat": "a"}}, "tls has an unknown name, certificat: did you mean certificate?"),
        ({"to": ["STOR"]}, "to names STOR, and peers have no such name: did you mean STORE?"),
        ({"to": "left out"}, "it has no to"),
        ({"callers": "left out"}, "it has no callers"),
        ({"callers": []}, "callers must be a list of at least one"),
        ({"callers": [{"ae": "A"}]}, "it has no address"),
        ({"callers": [{"ae": "A", "address": "pacs.example"}]}, "pacs.example is no address"),
        ({"ae": "A" * 17}, "ae must be an AE title"),
        ({"ae": "   "}, "ae must be an AE title"),
        ({"ae": "A\\B"}, "ae must be an AE title"),
        ({"peers": peer(port=0)}, "peers STORE: port must be a whole number from 1 to 65535, got 0"),
        ({"peers": peer(host=5)}, "peers STORE: host must be text, got 5"),
        ({"peers": {"STORE": "ORTHANC"}}, "peers STORE must be a table"),
        ({"port": "11112"}, "port must be a whole number"),
        ({"quiet_seconds": 0}, "quiet_seconds must be a number above 0, got 0"),
        ({"reserve": "much"}, "reserve must be a size, such as 2GB, got 'much'"),
        ({"keep_days": -1}, "keep_days must be a number of at least 0, or None"),
        ({"tls": {"certificate": "a"}}, "it has no key"),
    ],
)
def test_what_it_may_not_hold_is_told(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read(tmp_path, **changed)
    assert told in str(raised.value)
    assert str(tmp_path / "node.yaml") in str(raised.value)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "", "\xff"], ids=["list", "no YAML", "empty", "no UTF-8"])
def test_a_file_that_is_no_config_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"node\.yaml"):
        read_node_config(path, {})
    with pytest.raises(InputError, match=r"none\.yaml cannot be read as YAML"):
        read_node_config(tmp_path / "none.yaml", {})
