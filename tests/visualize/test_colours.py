from __future__ import annotations

import re
from pathlib import Path

import icmoe_monai
from icmoe_monai.visualize import colours


def test_the_colours_stand_in_one_file() -> None:
    root = Path(icmoe_monai.__file__).parent
    mine = Path(colours.__file__)
    known = {getattr(colours, name).lower() for name in dir(colours) if name.isupper() and name != "EXPERT_COLOURS"}
    assert len(known) == 8
    known -= {colours.BLACK}
    for path in [*root.rglob("*.py"), *(root.parent / "benchmarks").rglob("*.py")]:
        if path != mine:
            assert known.isdisjoint(re.findall(r"#[0-9a-f]{6}", path.read_text().lower())), path


def test_experts_have_colours_of_their_own() -> None:
    assert len(set(colours.EXPERT_COLOURS)) == 7
    assert colours.BLACK not in colours.EXPERT_COLOURS
