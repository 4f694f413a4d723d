"""The scores of each protocol on pictures whose scores are known, and through the shipped configs."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from modes import Brightness
from monai.bundle import ConfigWorkflow
from monai.data.meta_tensor import MetaTensor
from PIL import Image

from icmoe_monai.data.releases import OFFICIAL
from icmoe_monai.data.splits import checksum
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.evaluation.objects import compare_objects, label_objects, object_scores
from icmoe_monai.evaluation.protocols import ProtocolMetrics
from icmoe_monai.transforms.votes import SplitVotesd
from icmoe_monai.weights.tensor_files import save_checkpoint

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


def item(name: str, predicted: np.ndarray, label: np.ndarray, path: str = "", **more: Any) -> dict[str, Any]:
    """Return what an evaluator has of a case, with one certain expert."""
    probability = torch.from_numpy(predicted > 0).float()[None]
    tensor = MetaTensor(torch.from_numpy(label > 0).to(torch.uint8)[None], meta={"filename_or_obj": path})
    pred = torch.cat([probability, probability, torch.ones_like(probability)])
    return SplitVotesd(expert_names=("only",))({"pred": pred, "label": tensor, "name": name, **more})


def evaluate(folder: Path, protocol: str, items: list[dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    engine = Engine(lambda _, batch: [batch])
    ProtocolMetrics(
        output_dir=folder, protocol=protocol, expert_names=("only",), num_bootstrap=50, **arguments
    ).attach(engine)  # fmt: skip
    engine.run(items)
    return json.loads((folder / "protocol.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def row(*values: int) -> np.ndarray:
    return np.array([values])


def filled(num_pixels: int) -> np.ndarray:
    return row(*[1] * num_pixels, *[0] * (20 - num_pixels))


def test_intervals_are_over_patients_where_these_are_known(tmp_path: Path) -> None:
    predicted = [filled(k) for k in (5, 5, 5, 10, 10, 10, 3)]
    items = [item(f"a{i}", mask, filled(10)) for i, mask in enumerate(predicted)]
    groups = ["a", "a", "a", "b", "b", "b", "c"]
    known = evaluate(tmp_path, "isic2017", [one | {"group": group} for one, group in zip(items, groups, strict=True)])
    unknown = evaluate(tmp_path, "isic2017", items)
    assert (known["cases"]["all"]["num_groups"], unknown["cases"]["all"]["num_groups"]) == (3, None)
    scores = [result["methods"]["voted"]["all"]["jaccard"] for result in (known, unknown)]
    assert scores[0]["mean"] == scores[1]["mean"]
    assert scores[0]["interval"][0] < 0.35 < scores[1]["interval"][0]  # of three patients, and of seven images
    busi = evaluate(tmp_path, "busi", [one | {"group": "a"} for one in items])
    assert busi["methods"]["voted"]["lesions"]["dice"]["interval"] is None  # of a single patient


# Jaccard index -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predicted", "label", "jaccard", "thresholded"),
    [
        (filled(20), filled(13), 0.65, 0.65),  # which is below 0.65 in single precision
        (filled(20), filled(12), 0.6, 0.0),
        (filled(10), filled(10), 1.0, 1.0),
        (filled(0), filled(10), 0.0, 0.0),
        (filled(10), filled(0), 0.0, 0.0),
        (filled(0), filled(0), 1.0, 1.0),
    ],
    ids=["at the threshold", "below", "perfect", "missed", "false alarm", "both empty"],
)
def test_jaccard_of_an_image(
    predicted: np.ndarray, label: np.ndarray, jaccard: float, thresholded: float, tmp_path: Path
) -> None:
    scores = evaluate(tmp_path, "isic2018", [item("a", predicted, label)])["methods"]["voted"]["all"]
    assert scores["jaccard"] == {"mean": jaccard, "interval": None}
    assert scores["thresholded_jaccard"]["mean"] == thresholded


@pytest.mark.parametrize(("protocol", "ranking"), [("isic2017", "jaccard"), ("isic2018", "thresholded_jaccard")])
def test_means_rank_the_challenges_of_both_years(protocol: str, ranking: str, tmp_path: Path) -> None:
    items = [item("a", filled(20), filled(12)), item("b", filled(10), filled(10)), item("c", filled(20), filled(14))]
    content = evaluate(tmp_path, protocol, items)
    assert content["ranking"] == ranking
    scores = content["methods"]["voted"]["all"]
    assert scores["jaccard"]["mean"] == pytest.approx((0.6 + 1 + 0.7) / 3, abs=1e-6)
    assert scores["thresholded_jaccard"]["mean"] == pytest.approx((0 + 1 + 0.7) / 3, abs=1e-6)
    low, high = scores["jaccard"]["interval"]
    assert 0.6 <= low < scores["jaccard"]["mean"] < high <= 1
    with open(tmp_path / "protocol.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(line["case"], line["jaccard"]) for line in rows if line["method"] == "voted"] == [
        ("a", "0.6"),
        ("b", "1"),
        ("c", "0.7"),
    ]
    assert {line["method"] for line in rows} == {"voted", "mean_vote", "only", "oracle"}


def test_the_official_part_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"ISIC_{i}" for i in range(3)]
    monkeypatch.setitem(OFFICIAL, "isic2017", OFFICIAL["isic2017"]._replace(checksums={"val": checksum(names)}))
    items = [item(name, filled(1), filled(1)) for name in names]
    assert evaluate(tmp_path, "isic2017", items)["cases"]["all"] == {
        "number": 3,
        "sha256": checksum(names),
        "part": "val",
        "num_groups": None,
    }
    assert evaluate(tmp_path, "isic2017", items[1:])["cases"]["all"]["part"] is None


# Normal images -------------------------------------------------------------------------------------------------------


def test_normal_images_are_scored_by_themselves(tmp_path: Path) -> None:
    items = [
        item("benign_1", filled(10), filled(5)),
        item("benign_2", filled(0), filled(5)),
        item("normal_1", filled(0), filled(0)),
        item("normal_2", filled(4), filled(0)),
        item("normal_3", filled(0), filled(0)),
    ]
    content = evaluate(tmp_path, "busi", items)
    assert {group: cases["number"] for group, cases in content["cases"].items()} == {"lesions": 2, "normals": 3}
    voted = content["methods"]["voted"]
    assert voted["normals"]["specificity"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert voted["normals"]["predicted_share"]["mean"] == pytest.approx(0.2 / 3, abs=1e-6)
    assert voted["lesions"]["dice"]["mean"] == pytest.approx((2 * 5 / 15 + 0) / 2, abs=1e-6)
    assert voted["lesions"]["jaccard"]["mean"] == 0.25


def test_a_set_without_normal_images_has_no_specificity(tmp_path: Path) -> None:
    normals = evaluate(tmp_path, "busi", [item("benign_1", filled(10), filled(5))])["methods"]["voted"]["normals"]
    assert normals["specificity"] == {"mean": None, "interval": None}


# Glands --------------------------------------------------------------------------------------------------------------


def glands(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((40, 60), np.uint8)
    for number, (top, left, bottom, right) in enumerate(boxes, 1):
        labels[top:bottom, left:right] = number
    return labels


LABELS = {  # the first two touch each other in testA_1: a mask would not tell them apart
    "testA_1": glands((5, 5, 15, 20), (5, 20, 15, 35), (25, 10, 35, 20)),
    "testA_2": glands((5, 5, 30, 30)),
    "testB_1": glands((10, 10, 20, 50)),
}
PREDICTED = {
    "testA_1": glands((5, 5, 15, 19), (5, 21, 15, 35), (38, 58, 40, 60)),
    "testA_2": glands((5, 5, 30, 28)),
    "testB_1": glands((10, 10, 20, 20), (10, 22, 20, 45)),
}


def gland_items(folder: Path, kind: str = "archive") -> list[dict[str, Any]]:
    items = []
    for name, labels in LABELS.items():
        path = folder / ("instances" if kind == "plain" else "labels") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(path)
        more = {} if kind == "plain" else {"label_kind": "instances"}
        path = folder / "masks" / f"{name}.png" if kind == "plain" else path
        items.append(item(name, PREDICTED[name], labels, str(path), **more))
    return items


@pytest.mark.parametrize("kind", ["archive", "plain"])
def test_test_a_and_b_are_scored_apart_and_together(kind: str, tmp_path: Path) -> None:
    content = evaluate(tmp_path, "glas", gland_items(tmp_path, kind))
    voted = content["methods"]["voted"]
    sums = {name: compare_objects(label_objects(PREDICTED[name] > 0), LABELS[name]) for name in LABELS}
    parts = {"testA": ["testA_1", "testA_2"], "testB": ["testB_1"], "all": list(LABELS)}
    assert {part: cases["number"] for part, cases in content["cases"].items()} == {"testA": 2, "testB": 1, "all": 3}
    for part, names in parts.items():
        for score, pooled in object_scores([sums[name] for name in names])._asdict().items():
            each = [getattr(object_scores([sums[name]]), score) for name in names]
            assert voted[part][score]["pooled"] == pytest.approx(pooled, abs=1e-6)
            assert voted[part][score]["mean_of_images"] == pytest.approx(np.mean(each), abs=1e-6)
    assert voted["testA"]["object_f1"]["pooled"] == pytest.approx(2 * 3 / 8, abs=1e-6)  # 3 found, 1 alarm, 1 missed
    assert voted["testB"]["object_f1"]["interval"] is None
    low, high = voted["testA"]["object_dice"]["interval"]
    assert low < voted["testA"]["object_dice"]["pooled"] < high


def test_small_predicted_objects_can_be_left_out(tmp_path: Path) -> None:
    scores = [
        evaluate(tmp_path, "glas", gland_items(tmp_path), min_object_pixels=pixels)["methods"]["voted"]["testA"]
        for pixels in (4, 5)
    ]
    assert [score["object_f1"]["pooled"] for score in scores] == pytest.approx([6 / 8, 6 / 7], abs=1e-6)


def test_other_names_are_only_scored_together(tmp_path: Path) -> None:
    items = gland_items(tmp_path)
    for number, case in enumerate(items):
        case["name"] = f"train_{number}"
    assert set(evaluate(tmp_path, "glas", items)["methods"]["voted"]) == {"all"}


def test_glands_without_numbers_are_refused(tmp_path: Path) -> None:
    items = gland_items(tmp_path, "plain")
    (tmp_path / "instances" / "testA_1.png").unlink()
    expected = (
        r"objects of .*testA_1\.png in a file instances/testA_1\.\* .* got 0 files: add it, or .* --protocol none"
    )
    with pytest.raises(InputError, match=expected):
        evaluate(tmp_path, "glas", items)
    Image.fromarray(LABELS["testA_1"][:9]).save(tmp_path / "instances" / "testA_1.png")
    with pytest.raises(InputError, match=r"testA_1\.png is 60x9, its mask 60x40: correct one"):
        evaluate(tmp_path, "glas", items)


# The handler ---------------------------------------------------------------------------------------------------------


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="protocol must be none or one of isic2017, isic2018, busi, glas, got 'isic'"):
        ProtocolMetrics(output_dir=tmp_path, protocol="isic")


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    items = gland_items(tmp_path)
    for run in ("first", "second"):
        evaluate(tmp_path / run, "glas", items)
    for name in ("protocol.csv", "protocol.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_second_run_of_one_handler_begins_anew(tmp_path: Path) -> None:
    engine = Engine(lambda _, batch: [batch])
    ProtocolMetrics(output_dir=tmp_path, protocol="isic2017", expert_names=("only",)).attach(engine)
    for _ in range(2):
        engine.run([item("a", filled(1), filled(1))])
    assert json.loads((tmp_path / "protocol.json").read_text())["cases"]["all"]["number"] == 1


def test_the_voted_scores_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="icmoe_monai"):
        evaluate(tmp_path, "glas", gland_items(tmp_path))
    assert "glas, testA (2 images): object_f1 0.75, object_dice" in caplog.text


# Through the shipped configs -----------------------------------------------------------------------------------------


def put_set(folder: Path, *, with_instances: bool = True) -> None:
    """Write three pictures in which glands are bright, and what a mask and a training need."""
    names = [*LABELS, "train_1", "train_2"]
    for name in names:
        labels = LABELS.get(name, LABELS["testA_1"])
        pictures = {"images": np.where(labels[..., None], 250, 20).repeat(3, axis=2), "masks": (labels > 0) * 255}
        for kind, values in {**pictures, **({"instances": labels} if with_instances else {})}.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(folder / kind / f"{name}.png")
    splits = {"train": ["train_1"], "val": ["train_2"], "test": list(LABELS)}
    (folder / "splits.json").write_text(json.dumps(splits))


def run_bundle(tmp_path: Path, overlay: str, **overrides: Any) -> Path:
    save_checkpoint(Brightness().state_dict(), tmp_path / "brightness.pt")
    flow = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in ("train.json", f"datasets/{overlay}.yaml", "evaluate.json")],
        workflow_type="train", run_id="evaluating", logging_file=False, dataset_dir=str(tmp_path / "set"),
        output_dir=str(tmp_path / "out"), checkpoint=str(tmp_path / "brightness.pt"), experts=["basic"],
        network_def={"_target_": "modes.Brightness"}, image_size=64, longest_side=64, num_workers=0, device="cpu",
        num_pictures=0, num_bootstrap=20, **overrides,
    )  # fmt: skip
    flow.initialize()
    flow.run()
    flow.finalize()
    return tmp_path / "out"


GROUPS = {
    "glas": ({"testA", "testB", "all"}, "object_f1"),
    "isic": ({"all"}, "thresholded_jaccard"),
    "busi": ({"lesions", "normals"}, "jaccard"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("overlay", GROUPS)
def test_an_overlay_switches_its_protocol_on(overlay: str, tmp_path: Path) -> None:
    put_set(tmp_path / "set")
    out = run_bundle(tmp_path, overlay)
    content = json.loads((out / "protocol.json").read_text())
    groups, score = GROUPS[overlay]
    assert set(content["methods"]["voted"]) == groups
    assert set(content["methods"]) == set(json.loads((out / "summary.json").read_text())["methods"])
    values = [scores[score] for group, scores in content["methods"]["voted"].items() if group != "normals"]
    assert all(next(iter(value.values())) > 0.7 for value in values)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("layout", ["plain", "archive"])
def test_glands_are_counted_by_the_numbers_in_the_files(layout: str, tmp_path: Path) -> None:
    """Two that touch are one in the prediction, so that one of four is missed; a binary label would not tell."""
    put_set(tmp_path / "set")
    if layout == "archive":
        for folder, suffix in (("images", ""), ("instances", "_anno")):
            for path in (tmp_path / "set" / folder).iterdir():
                Image.open(path).save(tmp_path / "set" / f"{path.stem}{suffix}.bmp")
        for folder in ("images", "masks", "instances"):
            shutil.rmtree(tmp_path / "set" / folder)
    voted = json.loads((run_bundle(tmp_path, "glas") / "protocol.json").read_text())["methods"]["voted"]
    assert voted["testA"]["object_f1"]["pooled"] == pytest.approx(2 * 3 / 7, abs=1e-6)
    assert voted["testB"]["object_f1"]["pooled"] == 1


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_masks_without_instances_are_evaluated_without_the_protocol_of_glas(tmp_path: Path) -> None:
    put_set(tmp_path / "set", with_instances=False)
    with pytest.raises((RuntimeError, InputError)) as raised:
        run_bundle(tmp_path, "glas")
    with pytest.raises(InputError, match=r"The protocol glas needs the numbered objects of .*masks.testA_1\.png"):
        raise find_input_error(raised.value) or raised.value
    out = run_bundle(tmp_path, "glas", protocol="none")
    assert (out / "summary.json").is_file()
    assert not (out / "protocol.json").exists()
