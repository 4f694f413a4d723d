"""What docs/pacs.md gives to run the node by: systemd takes the unit, and the commands are those of this program."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dicom_node import SOCKETS, running_node, write_config
from orthanc import free_ports

from icmoe_monai.commands.words import read_words, take_log

pytestmark = pytest.mark.filterwarnings(*SOCKETS)
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pacs.md").read_text()


def block(language: str, first: str) -> str:
    """Return the one block of the page in a language that has a given first line."""
    (found,) = re.findall(rf"```{language}\n({re.escape(first)}\n.*?)```", PAGE, re.DOTALL)
    return str(found)


def docker(instruction: str) -> list[str]:
    """Return the words of an instruction of the Dockerfile."""
    (found,) = re.findall(rf"^{instruction} (\[.*\])$", block("dockerfile", "FROM python:3.12-slim"), re.MULTILINE)
    return list(json.loads(found))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = block("ini", "[Unit]").replace("/opt/icmoe/bin/icmoe", "/bin/true")  # where users install it
    assert complaints(tmp_path / "icmoe.service", unit) == []
    wrong = unit.replace("TimeoutStopSec=10min", "TimeoutStopSec=ten").replace("UMask", "UMaks")
    assert len(complaints(tmp_path / "wrong.service", wrong)) == 2


def complaints(path: Path, unit: str) -> list[str]:
    """Return what systemd says of a unit."""
    path.write_text(unit)
    found = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    return [line for line in found.stderr.splitlines() if path.name in line]


@pytest.mark.parametrize("by", ["systemd", "Docker"])
def test_the_nodes_command_is_one_of_this_program(by: str) -> None:
    (of_unit,) = re.findall("^ExecStart=(.*)$", block("ini", "[Unit]"), re.MULTILINE)
    program, *words = shlex.split(of_unit) if by == "systemd" else docker("ENTRYPOINT")
    assert Path(program).name == "icmoe"
    words, log = take_log(words)
    given: Any = read_words(words, [])[0]
    assert (log, given.command, given.config) == ("json", "listen", ["/etc/icmoe/node.yaml"])
    assert given.output == ("/var/lib/icmoe" if by == "systemd" else "/data")


def test_dockers_check_of_health_tells_a_node_that_takes_nothing(tmp_path: Path) -> None:
    program, *words = docker("HEALTHCHECK CMD")
    assert program == "python"
    for number, (reserve, is_well) in enumerate((("1MB", True), ("999999999GB", False))):
        port, health = free_ports(2)
        config = write_config(tmp_path / "node.yaml", port=port, store=1, health_port=health, reserve=reserve)
        with running_node(tmp_path / str(number), config):
            check = [sys.executable, *(word.replace("11180", str(health)) for word in words)]
            assert (subprocess.run(check, capture_output=True, check=False).returncode == 0) is is_well
