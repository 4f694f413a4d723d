from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from icmoe_monai.evaluation.pictures import PredictionPictures, prediction_grid


def case_of(height: int = 24, width: int = 30, *, num_experts: int = 3, label: bool = True) -> dict:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[4:12, 3:20] = 1
    return {
        "name": "cost $5 and $6/日本 \udcfc.png",
        "image": np.full((height, width, 3), 200, dtype=np.uint8),
        "label": mask if label else None,
        "voted": mask[::-1],
        "expert_probabilities": np.stack([mask * 0.9] * num_experts),
        "votes": np.full((num_experts, height, width), 1 / num_experts),
        "disagreement": mask * 0.3,
    }


def item_of(folder: Path, name: str, num_classes: int) -> dict:
    Image.fromarray(np.tile(np.arange(0, 200, 4, dtype=np.uint8), (40, 1))).save(folder / name)
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(3, num_classes, 40, 50, generator=generator)
    return {
        "image": MetaTensor(torch.zeros(3, 32, 32), meta={"filename_or_obj": str(folder / name)}),
        "name": name,
        "label": None,
        "voted": torch.zeros(1, 40, 50),
        "expert_probabilities": probabilities if num_classes == 1 else probabilities.softmax(1),
        "votes": torch.rand(3, 40, 50, generator=generator).softmax(0),
    }


def run(handler: PredictionPictures, items: list[dict]) -> None:
    evaluator = Engine(lambda engine, batch: [batch])
    handler.attach(evaluator)
    evaluator.run(items)


def test_grid_is_a_page_of_readable_width(tmp_path: Path) -> None:
    path = tmp_path / "new" / "grid.png"
    prediction_grid([case_of(), case_of(40, 20, label=False)], path)
    with Image.open(path) as image:
        assert image.width == 1440
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in [(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)]:  # the legend's patches
        assert (pixels == colour).all(1).sum() > 100
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("fill", [0, 1], ids=["nothing", "everything"])
def test_mask_without_a_border_is_no_warning(tmp_path: Path, fill: int) -> None:
    case = case_of(num_experts=1)
    case["voted"] = case["label"] = np.full((24, 30), fill)
    prediction_grid([case], tmp_path / "grid.png", expert_names=["only"])


@pytest.mark.parametrize(
    ("cases", "names", "message"),
    [
        ([], ["a"], "at least one case, got 0"),
        ([case_of()], ["a", "b"], "must have 2 experts, got 3 maps and 3 votes"),
        ([case_of()], [], "must be 1 to 7 names, got 0"),
    ],
    ids=["no case", "other experts", "no names"],
)
def test_what_cannot_be_drawn(tmp_path: Path, cases: list[dict], names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prediction_grid(cases, tmp_path / "grid.png", expert_names=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_classes", [1, 3], ids=["binary", "classes"])
def test_handler_keeps_small_pictures_of_some_cases(tmp_path: Path, num_classes: int) -> None:
    handler = PredictionPictures(output_dir=tmp_path / "out", num_cases=1)
    items = [item_of(tmp_path, name, num_classes) for name in ("0.png", "a b.png", "c.png")]
    run(handler, items)
    (case,) = handler.cases
    assert case["name"] == "a b.png"
    # The file's own pixels, not the normalised ones.
    np.testing.assert_array_equal(case["image"][..., 0], np.asarray(Image.open(tmp_path / "a b.png")))
    probabilities = items[1]["expert_probabilities"]
    foreground = probabilities[:, 0] if num_classes == 1 else probabilities[:, 1:].sum(1)
    np.testing.assert_allclose(case["expert_probabilities"], foreground, atol=1e-6)
    agreement = [
        (probabilities[i] * probabilities[j]).sum(0)
        + ((1 - probabilities[i]) * (1 - probabilities[j])).sum(0) * (num_classes == 1)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    np.testing.assert_allclose(case["disagreement"], 1 - torch.stack(agreement).mean(0), atol=1e-6)
    assert (tmp_path / "out" / "predictions.png").is_file()


def test_large_images_are_kept_small(tmp_path: Path) -> None:
    item = item_of(tmp_path, "a.png", 1)
    Image.new("RGB", (900, 300)).save(tmp_path / "a.png")
    handler = PredictionPictures(output_dir=tmp_path)
    run(handler, [item])
    shapes = {key: np.shape(handler.cases[0][key]) for key in ("image", "voted", "votes")}
    assert shapes == {"image": (107, 320, 3), "voted": (107, 320), "votes": (3, 107, 320)}
