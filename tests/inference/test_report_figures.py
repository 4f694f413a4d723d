from __future__ import annotations

import re

import pytest
from records import done

from icmoe_monai.inference.report_figures import draw_figures, is_number

AMOUNT, CONFIDENCE, SECONDS = "How much was found", "Confidence and how much was found", "Time per case"


@pytest.mark.parametrize(
    ("cases", "titles"),
    [
        ([], []),
        ([done()], []),
        ([done(), done("b.png")], [AMOUNT, CONFIDENCE, SECONDS]),
        ([done(reliability=None), done("b.png", reliability=None, seconds=None)], [AMOUNT]),
        ([done(f"{n}.png", (0,), area_mm2=[0.0]) for n in range(3)], [AMOUNT, CONFIDENCE, SECONDS]),
        ([done(f"{n}.png", seconds=float("nan")) for n in range(2)], [AMOUNT, CONFIDENCE]),
    ],
    ids=["no case", "one done", "two done", "fast voting", "nothing found", "no number"],
)
def test_figures_need_two_cases(cases: list[dict], titles: list[str]) -> None:
    assert [title for title, _ in draw_figures(cases, ["lesion"])] == titles


@pytest.mark.parametrize(("areas", "unit"), [((1.5, 2.5), "area found"), ((1.5, None), "share of the picture")])
def test_areas_are_shown_where_every_case_is_calibrated(areas: tuple[float | None, ...], unit: str) -> None:
    cases = [done(f"{n}.png", area_mm2=area and [area]) for n, area in enumerate(areas)]
    assert unit in dict(draw_figures(cases, ["lesion"]))[AMOUNT]


def test_figures_take_the_colours_of_the_page_and_share_no_ids() -> None:
    drawn = "".join(svg for _, svg in draw_figures([done(), done("b.png", (99,))], ["lesion"]))
    assert "currentColor" in drawn
    assert "var(--mark)" in drawn
    assert "<style" not in drawn
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert len(ids) == len(set(ids)) > 0


def test_what_is_a_number() -> None:
    assert [is_number(value) for value in (1, 0.5, float("inf"), None, "1")] == [True, True, False, False, False]
