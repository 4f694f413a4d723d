"""The rooms of the package: what each hands on, and that none grows past what one can look through."""

from __future__ import annotations

import re
from pathlib import Path
from pydoc import locate

import pytest

import icmoe_monai

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "icmoe_monai"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
CONFIGS = "".join(path.read_text() for path in sorted((ROOT / "configs").glob("**/*.*")))
DOCUMENTS = "".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
MOST_MODULES = 20


def test_a_config_names_a_room_and_never_a_file():
    named = set(re.findall(r"icmoe_monai((?:\.\w+)+)", CONFIGS))
    assert len(named) > 50
    for dotted in named:
        room, name = dotted.split(".")[1:]  # two parts: a file between them would be a third
        assert room in ROOMS or room in ("settings", "checks"), dotted
        assert locate(f"icmoe_monai.{room}.{name}") is not None, dotted


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_hands_on_what_configs_and_users_name_and_nothing_else(room: str):
    module = locate(f"icmoe_monai.{room}")
    public = set(getattr(module, "__all__", ()))
    by_configs = set(re.findall(rf"icmoe_monai\.{room}\.(\w+)", CONFIGS))
    assert by_configs <= public
    by_users = {name for name in public if name in icmoe_monai.__all__ or re.search(rf"`[\w.]*\b{name}`", DOCUMENTS)}
    assert public == by_configs | by_users
    assert all(getattr(module, name).__module__.startswith(f"icmoe_monai.{room}.") for name in public)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_what_it_may_import(room: str):
    first, _, rest = (locate(f"icmoe_monai.{room}").__doc__ or "").partition("\n\n")
    assert first.endswith(".")
    assert re.match(r"(May import|Imports nothing)", rest)


def test_no_folder_holds_more_modules_than_one_can_look_through():
    folders = {path.parent for path in PACKAGE.glob("**/*.py")}
    assert len(folders) > 15
    for folder in folders:
        assert len(list(folder.glob("*.py"))) <= MOST_MODULES, folder


def test_the_tests_have_the_rooms_folders():
    assert {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} >= set(ROOMS)
