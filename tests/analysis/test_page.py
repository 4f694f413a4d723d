"""The analysis's figures, each drawn, and its page: what it says, what it leaves out, and that it asks for nothing."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icmoe_monai.analysis import figures as analysis_figures
from icmoe_monai.analysis import pictures as analysis_pictures
from icmoe_monai.analysis.ambiguity import LEVELS, MEASURES
from icmoe_monai.analysis.page import ONE_EXPERT, render_analysis
from icmoe_monai.analysis.pixels import REGIONS, CasePixels

NAMES = ("basic", "semantic", "adaptive")


def case_of(num_experts: int) -> CasePixels:
    rng = np.random.default_rng(0)
    draw = {region: rng.dirichlet(np.ones(num_experts), 40) for region in REGIONS}
    shares = np.linspace(0.1, 0.3, num_experts)
    square = rng.random((num_experts, num_experts))
    return CasePixels(
        drawn=draw, votes={}, right={}, shares={}, differ=square, both_wrong=square, alone_right=shares,
        alone_wrong=shares, positions=rng.random((num_experts, 24, 24)),
    )  # fmt: skip


def ambiguity_of(measures: tuple[str, ...] = MEASURES) -> dict:
    column = dict.fromkeys(measures, 0.4)
    return {
        family: {
            "levels": [{"level": level, "mean": column, "low": column, "high": column} for level in levels],
            "spearman": {name: {"pooled": 0.1, "within_phantoms": None} for name in measures},
        }
        for family, levels in LEVELS.items()
    }


def phantoms() -> dict:
    maps = {"probability": np.eye(20), "disagreement": np.eye(20)}
    picture = {"image": np.full((20, 20, 3), 90, np.uint8), **maps}
    return {family: [picture] * len(levels) for family, levels in LEVELS.items()}


def similarities(*names: str) -> dict:
    rng = np.random.default_rng(0)
    cosines = {group: rng.uniform(-1, 1, 50) for group in ("foreground", "background", "between")}
    return {name: {**cosines, "separation": 0.5, "auc": 0.8} for name in names}


def spread_of(num_experts: int, with_embeddings: bool, num_classes: int) -> dict:
    places = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % num_classes
    names = NAMES[:num_experts]
    spread = {depth: dict.fromkeys(names, places) for depth in ("features", "decoded")}
    return spread | ({"embeddings": {"semantic": places}} if with_embeddings else {})


def epochs() -> list[dict[str, float]]:
    keys = ("val_mean_dice", "val_vote_entropy", "val_disagreement", *(f"val_load_{name}" for name in NAMES))
    return [{"epoch": float(epoch), **dict.fromkeys(keys, epoch / 5)} for epoch in (1, 2, 4)]


def shown_case(name: str, num_experts: int) -> dict:
    right = np.random.default_rng(0).random((num_experts, 30, 40)) > 0.5
    label = np.zeros((30, 40), int)
    label[5:15, 5:25] = 1
    return {"name": name, "image": np.full((30, 40, 3), 120, np.uint8), "label": label, "right": right}


PAIRS = {"basic, semantic": {"differ": 0.1, "both_wrong": 0.2}}
BEFORE, AFTER = similarities("a: b"), similarities("a: b", "c: d")
FIGURES = {
    "votes": lambda: analysis_figures.draw_votes([case_of(3)] * 2, NAMES),
    "load": lambda: analysis_figures.draw_load({"basic": 0.95, "semantic": 0.05}, 0.1),
    "pairs": lambda: analysis_figures.draw_pairs(PAIRS, NAMES[:2]),
    "positions": lambda: analysis_figures.draw_positions([case_of(3)], NAMES),
    "training": lambda: analysis_figures.draw_training(epochs(), {name: f"val_load_{name}" for name in NAMES}, 0.1),
    "tsne": lambda: analysis_pictures.draw_spread(spread_of(3, True, 2)),
    "tsne of one": lambda: analysis_pictures.draw_spread(spread_of(1, False, 3)),
    "tsne of one with embeddings": lambda: analysis_pictures.draw_spread(spread_of(1, True, 2)),
    "similarity": lambda: analysis_pictures.draw_similarity(BEFORE, AFTER, ("x", "y")),
    "nothing similar": lambda: analysis_pictures.draw_similarity({}, {"a: b": None}, ("x", "y")),
    "wins": lambda: analysis_pictures.draw_wins([shown_case("a $5 日本 \udcfc", 3)] * 4, NAMES),
    "wins of two": lambda: analysis_pictures.draw_wins([shown_case("a", 2)], NAMES[:2]),
    "ambiguity": lambda: analysis_pictures.draw_ambiguity(ambiguity_of(), phantoms()),
    "ambiguity for one": lambda: analysis_pictures.draw_ambiguity(ambiguity_of(("uncertainty",)), phantoms()),
}  # fmt: skip


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
@pytest.mark.filterwarnings("ignore:Glyph .* missing from font:UserWarning")
def test_a_figure_is_wide_and_not_blank(draw):
    with Image.open(io.BytesIO(analysis_figures.to_png(draw()))) as image:
        assert image.width == 1200
        picture = image.convert("RGB")
    assert (np.asarray(picture) != 255).any(2).mean() > 0.01
    assert len(picture.getcolors(picture.width * picture.height)) > 30


def test_wins_are_in_the_experts_colours():
    right = np.array([[[True, True, False, True]], [[True, False, False, True]], [[True, False, False, False]]])
    drawn = (255 * analysis_pictures._wins_map(right)).round().astype(int)[0].tolist()
    assert drawn == [[0xEE] * 3, [0x00, 0x72, 0xB2], [0x22] * 3, [0xB0] * 3]


def content_of(num_experts: int = 3, **fields: object) -> dict:
    names = NAMES[:num_experts]
    entry = {"cases": 2, "share": 0.2, "mean_vote": dict.fromkeys(names, 0.4), "right": dict.fromkeys(names, 0.9)}
    votes = {"vote_entropy": 0.9, "disagreement": 0.1}
    votes |= {f"{key}_{name}": 0.05 if name == "adaptive" else 0.4 for name in names for key in ("load", "mean_vote")}
    several = {"pairs": PAIRS, "wins": {name: {"alone_right": 0.02, "alone_wrong": 0.03} for name in names}}
    compared = {"before": {"separation": 0.1, "auc": 0.5}, "after": {"separation": 0.6, "auc": 0.9}}
    return {
        "num_cases": 2,
        "experts": list(names),
        "before": "other.pt",
        "dead_below": 0.1,
        "dead_experts": ["adaptive"] if num_experts > 2 else [],
        "votes": votes,
        "regions": dict.fromkeys(REGIONS, entry),
        **(several if num_experts > 1 else {}),
        "features": {"features: basic": compared, "decoded: basic": {"before": None, "after": None}},
        "ambiguity": {"look": "dermoscopy", **ambiguity_of()},
        "training": None,
        "settings": {"checkpoint": "<b>best</b>.pt", "versions": {"monai": "1.6.1"}},
        **fields,
    }


def pictures() -> dict[str, bytes]:
    file = io.BytesIO()
    Image.new("RGB", (600, 60), "navy").save(file, format="PNG")
    names = ("load", "regions", "pairs", "wins", "positions", "tsne", "similarity", "ambiguity", "training")
    return dict.fromkeys(names, file.getvalue())


def test_page_holds_its_figures_and_asks_nothing_of_a_network():
    page = render_analysis(content_of(), pictures())
    assert "default-src 'none'; img-src data:;" in page
    assert "<script" not in page
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 8  # all but the training's
    assert all(base64.b64decode(each.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG") for each in sources)
    assert not re.findall(r'(?:href|src)="(?!#|data:)', page)
    assert "&lt;b&gt;best&lt;/b&gt;.pt" in page
    for words in ("Dead expert: adaptive (5.0 %)", "other.pt", "0.10, 0.60", "-, -", "0.40, 90 %", "--training_dir"):
        assert words in page, words


def test_training_is_there_if_it_was_given():
    training = {"dead_in_epochs": {"basic": [], "adaptive": [3, 4]}, "epochs": []}
    page = render_analysis(content_of(training=training), pictures())
    assert "3, 4" in page
    assert "never" in page
    assert "Left out" not in page


def test_one_expert_is_told_what_is_left_out():
    content = content_of(1, ambiguity={"look": "ultrasound", **ambiguity_of(("uncertainty",))})
    page = render_analysis(content, pictures())
    assert page.count(ONE_EXPERT) == 5  # load, regions, pairs, wins, training
    assert "Disagreement and vote entropy are left out" in page
    assert "One expert: nothing votes" in page


def test_network_without_features_is_told():
    assert "is no mixture of experts over a trunk" in render_analysis(content_of(features={}), pictures())


def test_page_is_seen_in_a_browser(tmp_path: Path):
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no browser is installed")
    page, seen = tmp_path / "analysis.html", tmp_path / "page.png"
    page.write_text(render_analysis(content_of(), pictures()), encoding="utf-8")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    switches += ["--enable-logging=stderr", "--virtual-time-budget=2000", "--window-size=1200,1600"]
    command = [browser, *switches, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={seen}", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert b"CONSOLE" not in ended.stderr
    with Image.open(seen) as image:
        assert ((np.asarray(image.convert("RGB")) == (0, 0, 128)).all(2)).sum() > 20_000  # its figures are shown
