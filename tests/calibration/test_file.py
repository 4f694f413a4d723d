"""The calibration file: which is found, what is refused, what it makes of a case; and how it is fitted and written."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calibration_cases import EXPERTS, SETTINGS, cases, find, fit
from ignite.engine import Engine
from monai.data.meta_tensor import MetaTensor

from icmoe_monai.calibration.appearance import LabelledFeatures
from icmoe_monai.calibration.file import (
    OUTPUT_SETTINGS,
    ApplyCalibrationd,
    Calibration,
    calibration_path,
    find_calibration,
    find_window_calibration,
    read_calibration,
)
from icmoe_monai.calibration.fit import FitCalibration, mean_dice, names_digest
from icmoe_monai.calibration.no_lesion import _deal, fit_no_lesion
from icmoe_monai.calibration.ood import fit_out_of_distribution
from icmoe_monai.calibration.references import References
from icmoe_monai.calibration.score import score_from
from icmoe_monai.errors import InputError
from icmoe_monai.networks.pooling import FEATURES
from icmoe_monai.transforms.vote_features import TakeVoteFeaturesd
from icmoe_monai.transforms.votes import SplitVotesd


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    fit(folder, cases(30, empty=8))
    return folder


def test_what_is_written(calibrated: Path) -> None:
    content = read_calibration(calibrated / "best.calibration.json")
    assert content["settings"] == json.loads(json.dumps(SETTINGS))
    assert content["model"]["checkpoint"] == "best.pt"
    assert content["data"] | {"names_sha256": "", "mean_dice": 0} == {
        **{"split": "val", "num_images": 30, "num_with_lesion": 22, "num_lesion_free": 8},
        **{"names_sha256": "", "mean_dice": 0},
    }
    assert content["control"]["num_images"] == 22
    assert content["control"]["bound"] <= 0.1
    assert content["fit"]["quality"]["spearman"] > 0.5
    assert content["fit"]["no_lesion"]["sensitivity"] == content["fit"]["no_lesion"]["specificity"] == 1.0
    text = (calibrated / "best.calibration.json").read_text()
    assert "case 1" not in text
    assert str(calibrated) not in text
    assert [path.name for path in sorted(calibrated.iterdir())] == ["best.calibration.json", "best.pt"]


def test_the_same_images_give_the_same_file_in_any_order_of_batches(calibrated: Path, tmp_path: Path) -> None:
    items = cases(30, empty=8)
    checkpoint = calibrated / "best.pt"
    handler = FitCalibration(
        path=tmp_path / "again.json",
        split="val",
        weights={"checkpoint": checkpoint},
        settings=SETTINGS,
        lesion_sensitivity=0.9,
    )
    engine = Engine(lambda engine, batch: batch)
    handler.attach(engine)
    engine.state.epoch_length = 30
    engine.run([items[:8], items[8:16], items[16:]], epoch_length=3)
    again, first = handler.content, read_calibration(calibrated / "best.calibration.json")
    for part in ("quality", "control", "no_lesion", "data", "review_below"):
        assert json.loads(json.dumps(again[part])) == first[part], part


def test_a_calibration_is_found_beside_its_checkpoint(calibrated: Path) -> None:
    found = find(calibrated)
    assert found.is_there
    assert (found.file, found.reason) == ("best.calibration.json", None)
    assert found.summary()["control"]["alpha"] == 0.1
    assert find(calibrated, str(calibrated / "best.calibration.json")).digest == found.digest


@pytest.mark.parametrize("path", [None, "none"])
def test_none_is_none(path: str | None, calibrated: Path) -> None:
    found = find(calibrated, path)
    assert not found.is_there
    assert found.reason == "No calibration was asked for."
    item = {"pred": torch.rand(1, 4, 4)}
    assert ApplyCalibrationd(calibration=found)(item) == item


def test_without_a_file_beside_the_checkpoint_nothing_is_calibrated(tmp_path: Path) -> None:
    assert find(tmp_path).reason == "There is no best.calibration.json beside the checkpoint."


@pytest.mark.parametrize("path", ["auto", "named"])
def test_a_calibration_of_another_model_is_refused(path: str, calibrated: Path, tmp_path: Path) -> None:
    file = tmp_path / "best.calibration.json"
    file.write_bytes((calibrated / file.name).read_bytes())
    (tmp_path / "best.pt").write_bytes(b"other weights")
    with pytest.raises(
        InputError, match=r"best\.calibration\.json is of another model: it was fitted to best\.pt \(SHA"
    ):
        find(tmp_path, "auto" if path == "auto" else str(file))


def test_other_settings_are_refused_where_the_file_is_named_and_told_where_it_is_not(
    calibrated: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = str(calibrated / "best.calibration.json")
    with pytest.raises(
        InputError, match=r"fitted with other settings \(voting adaptive and here mean, overlap 0\.5 and here 0\.25\)"
    ):
        find(calibrated, file, voting="mean", overlap=0.25)
    found = find(calibrated, voting="mean")
    said = "was fitted with other settings (voting adaptive and here mean)."
    assert found.reason == f"The calibration best.calibration.json {said}"
    assert found.reason[:-1] in caplog.text
    assert not found.is_there


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("{", r"is no JSON \(line 1, column 2\): calibrate again"),
        ("[" * 100_000, "is nested too deeply: calibrate again"),
        ("[]", "is no calibration of this version"),
        ('{"format": "icmoe_monai calibration 0", "model": {}, "settings": {}}', "is no calibration of this version"),
        ('{"format": "icmoe_monai calibration 1"}', "is damaged, it has no model: calibrate again"),
    ],
    ids=["empty", "damaged", "deep", "other", "older", "bare"],
)
def test_what_is_no_calibration_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        find_calibration(str(tmp_path / "c.json"), checkpoint=None, settings=SETTINGS)
    with pytest.raises(InputError, match="is not a file"):
        find_calibration(str(tmp_path / "d.json"), checkpoint=None, settings=SETTINGS)


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the place of every value of a calibration, but of those that identify the model and the fit."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if path or key not in ("model", "settings", "fit", "versions"):
            yield (*path, key)
            yield from places(value, (*path, key))


def changed(content: dict[str, Any], place: tuple, value: Any) -> dict[str, Any]:
    """Return a calibration with another value at a place; `...` takes it out."""
    content = copy.deepcopy(content)
    node = content
    for key in place[:-1]:
        node = node[key]
    if value is ...:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    return content


def test_every_number_out_of_its_range_is_refused(calibrated: Path, tmp_path: Path) -> None:
    content = read_calibration(calibrated / "best.calibration.json")
    numbers = [place for place in places(content) if isinstance(at(content, place), (int, float))]
    assert len(numbers) > 60
    taken, told = [], set()
    for place in numbers:
        for value in (math.nan, math.inf, -math.inf, -1e308, 1e308, 10**400, True, "0.5", [0.5], {}):
            (tmp_path / "c.json").write_text(json.dumps(changed(content, place, value)))
            try:
                read_calibration(tmp_path / "c.json")
            except InputError as error:
                told.add(str(error))
            else:
                taken.append((place, value))
    assert taken == []
    assert all("calibrate again" in sentence and "\n" not in sentence for sentence in told)


@pytest.mark.parametrize("value", [..., None, [], {}, "x", 5, [[]], {"a": 1}], ids=repr)
def test_a_calibration_of_another_shape_is_one_sentence_or_works(value: Any, calibrated: Path, tmp_path: Path) -> None:
    content = read_calibration(calibrated / "best.calibration.json")
    (tmp_path / "best.pt").write_bytes((calibrated / "best.pt").read_bytes())
    item = {**cases(1)[0], "disagreement": torch.zeros(1, 32, 32)}
    item["pred"] = item["probability"]
    refused = 0
    for place in [*places(content), *[(name,) for name in ("model", "settings", "fit", "versions")]]:
        (tmp_path / "best.calibration.json").write_text(json.dumps(changed(content, place, value)))
        try:
            calibration = find(tmp_path)
        except InputError:
            refused += 1
        else:
            assert json.dumps(calibration.summary())
            ApplyCalibrationd(calibration=calibration)(item)
    assert refused > 40


def test_a_figure_that_the_vote_has_not_is_told(calibrated: Path, tmp_path: Path) -> None:
    content = read_calibration(calibrated / "best.calibration.json")
    content["quality"]["features"][0] = "load_9"
    calibration = Calibration(content, file="c.json")
    with pytest.raises(InputError, match="needs the vote's load_9, which this network's has not"):
        calibration.predict_dice(cases(1)[0]["vote_features"])


def at(content: Any, place: tuple) -> Any:
    for key in place:
        content = content[key]
    return content


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "models").glob("*.calibration.json")))
def test_the_shipped_calibrations_are_sound(file: Path) -> None:
    assert read_calibration(file)["data"]["split"] == "val"


def test_what_is_made_of_a_case(calibrated: Path) -> None:
    calibration = find(calibrated)
    seen, further = cases(30, empty=8), cases(12, empty=3, seed=9)
    apply = ApplyCalibrationd(calibration=calibration)
    called: list[tuple[bool, bool]] = []
    for item in seen + further:
        made = apply({**item, "pred": item["probability"]})
        assert torch.equal(made["pred"], item["probability"])
        assert made["calibrated"].shape == item["probability"].shape
        assert torch.equal(made["controlled"].bool(), item["probability"].as_tensor() >= calibration.threshold)
        assert made["review"] == (made["predicted_dice"] < calibration.review_below)
        called.append((bool((item["label"] == 0).all()), made["no_lesion"]))
        assert made["no_lesion"] == (made["no_lesion_probability"] > calibration.content["no_lesion"]["threshold"])
    assert all(answer for is_empty, answer in called if is_empty)
    assert np.mean([not answer for is_empty, answer in called if not is_empty]) >= 0.9  # as was stated
    predicted = [calibration.predict_dice(item["vote_features"]) for item in further]
    true = [mean_dice(item["voted"], item["label"], 1) for item in further]
    assert np.corrcoef(predicted, true)[0, 1] > 0.4


def with_score(calibrated: Path, folder: Path) -> Calibration:
    """Return the calibration with a score that knows features along the first axis alone."""
    content = read_calibration(calibrated / "best.calibration.json")
    along = [np.eye(8)[:1] + np.random.default_rng(i).normal(0, 0.05, (1, 8)) for i in range(40)]
    content["out_of_distribution"] = fit_out_of_distribution(np.concatenate(along), along, along, false_alarms=0.05)[0]
    (folder / "best.calibration.json").write_text(json.dumps(content))
    (folder / "best.pt").write_bytes((calibrated / "best.pt").read_bytes())
    return find(folder)


OF_LIKE_IMAGES = ("predicted_dice", "no_lesion_probability", "no_lesion", "area_thresholds")


def test_of_an_unlike_case_nothing_is_said_that_holds_for_like_ones(calibrated: Path, tmp_path: Path) -> None:
    apply = ApplyCalibrationd(calibration=with_score(calibrated, tmp_path), review_below=0.0)
    item = {**cases(1)[0], "note": "", "is_blank": False}
    item["pred"] = item["probability"]
    like, unlike = (apply({**item, FEATURES: features}) for features in (np.eye(8)[:1], np.eye(8)[1:2]))
    assert all(like[name] is not None for name in OF_LIKE_IMAGES)
    assert (like["out_of_distribution"], like["review"], like["note"]) == (False, False, "")
    assert 0 <= like["ood_score"] < 1 < unlike["ood_score"]
    assert like["ood_percentile"] < unlike["ood_percentile"] == 100
    assert {name: unlike[name] for name in OF_LIKE_IMAGES} == dict.fromkeys(OF_LIKE_IMAGES)
    assert (unlike["out_of_distribution"], unlike["review"]) == (True, True)
    assert unlike["note"].startswith("case 0 is unlike what the model was trained on")
    assert torch.equal(unlike["controlled"], like["controlled"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_features_that_are_no_numbers_make_a_case_unlike(value: float, calibrated: Path, tmp_path: Path) -> None:
    item = {**cases(1)[0], FEATURES: np.full((1, 8), value)}
    item["pred"] = item["probability"]
    made = ApplyCalibrationd(calibration=with_score(calibrated, tmp_path))(item)
    assert made["out_of_distribution"] is True
    assert math.isfinite(json.loads(json.dumps(made["ood_score"])))


def test_an_unlike_case_keeps_the_note_that_it_has(calibrated: Path, tmp_path: Path) -> None:
    item = {**cases(1)[0], "note": "It is dark.", FEATURES: np.eye(8)[1:2]}
    item["pred"] = item["probability"]
    made = ApplyCalibrationd(calibration=with_score(calibrated, tmp_path))(item)
    assert made["note"].startswith("It is dark. case 0 is unlike")


def test_a_calibration_of_an_earlier_version_says_nothing_of_what_it_has_not(calibrated: Path, tmp_path: Path) -> None:
    content = read_calibration(calibrated / "best.calibration.json")
    del content["no_lesion"]["sensitivity"]
    for part in ("area", "out_of_distribution"):
        del content[part]
        del content["fit"][part]
    (tmp_path / "best.calibration.json").write_text(json.dumps(content))
    (tmp_path / "best.pt").write_bytes((calibrated / "best.pt").read_bytes())
    item = {**cases(1)[0], FEATURES: np.eye(8)[:1]}
    item["pred"] = item["probability"]
    made = ApplyCalibrationd(calibration=find(tmp_path))(item)
    new = ("ood_score", "ood_percentile", "out_of_distribution", "area_thresholds")
    assert {name: made[name] for name in new} == dict.fromkeys(new)
    assert made["predicted_dice"] is not None
    assert made["no_lesion"] is not None


def test_windows_are_judged_where_the_settings_of_whole_images_differ(calibrated: Path, tmp_path: Path) -> None:
    with_score(calibrated, tmp_path)
    settings = {name: value for name, value in SETTINGS.items() if name != "longest_side"} | {"overlap": 0.25}
    found = find_window_calibration("auto", checkpoint=tmp_path / "best.pt", settings=settings)
    assert set(found.summary()) == {"file", "sha256", "reason", "data"}
    scores = found.scores(np.eye(8)[[0, 1, 1]])
    told = found.judge(scores)
    assert told["windows_out_of_distribution"] == pytest.approx(2 / 3)
    assert told["out_of_distribution"] is True
    assert told["ood_score"] == scores[1] > 1
    assert found.judge(scores[:2])["out_of_distribution"] is False  # half of them is not more than half
    other = find_window_calibration("auto", checkpoint=tmp_path / "best.pt", settings=settings | {"image_size": 128})
    assert other.scores(np.eye(8)) == []


def test_a_review_threshold_of_ones_own(calibrated: Path) -> None:
    item = cases(1)[0]
    item["pred"] = item["probability"]
    for threshold, advised in ((1.0, True), (0.0, False)):
        made = ApplyCalibrationd(calibration=find(calibrated), review_below=threshold)(item)
        assert made["review"] is advised
    with pytest.raises(InputError, match="review_below must be a Dice score between 0 and 1, or null, got 80"):
        ApplyCalibrationd(calibration=Calibration(), review_below=80)


def test_what_was_not_fitted_is_not_invented(tmp_path: Path) -> None:
    handler = fit(tmp_path, cases(9), alpha=0.2)
    assert handler.content["no_lesion"] is None
    assert handler.content["quality"] is None
    assert handler.content["review_below"] is None
    assert "there are 9 with a lesion, 0 without: not fitted" in handler.content["fit"]["no_lesion"]["reason"]
    item = cases(1)[0]
    made = ApplyCalibrationd(calibration=find(tmp_path), review_below=0.5)({**item, "pred": item["probability"]})
    told = ("predicted_dice", "review", "no_lesion_probability", "no_lesion")
    assert {key: made[key] for key in told} == dict.fromkeys(told)
    assert "controlled" in made


def test_a_failed_case_is_passed_over(calibrated: Path) -> None:
    item = {"failure": "a.png is empty.", "pred": torch.zeros(1, 2, 2)}
    assert ApplyCalibrationd(calibration=find(calibrated))(item) == item


@pytest.mark.parametrize("split", ["test", "train"])
def test_only_validation_images_calibrate(split: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"fitted on the validation images \(split val\), .*, got split '{split}'"):
        fit(tmp_path, cases(2), split=split)


def test_too_few_images_for_alpha_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"alpha 0\.1 needs at least 9 validation images with foreground, and there are 6"
    ):
        fit(tmp_path, cases(10, empty=4))
    with pytest.raises(InputError, match=r"review_share must be a share between 0 and 1, got 2"):
        fit(tmp_path, cases(10), review_share=2)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_folder_that_cannot_be_written_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"):
        fit(tmp_path, cases(10), path=tmp_path / "file" / "c.json")


def test_images_of_both_kinds_are_told_apart_by_their_own_vote() -> None:
    items = cases(24, empty=10)
    features = [item["vote_features"] for item in items]
    part, told = fit_no_lesion(features, [i < 10 for i in range(24)], sensitivity=0.9)
    assert part is not None
    assert 0 < part["threshold"] < 1
    assert (told["sensitivity"], told["specificity"], told["auroc"]) == (1.0, 1.0, 1.0)
    shuffled = [np.random.default_rng(i).permutation([i < 10 for i in range(24)]).tolist() for i in range(6)]
    by_chance = [fit_no_lesion(features, is_empty, sensitivity=0.9)[1] for is_empty in shuffled]
    fitted = [chance for chance in by_chance if chance["reason"] is None]
    assert 0 < len(fitted) < 6  # where the lower peaks are those of lesions, nothing is fitted
    assert np.mean([chance["sensitivity"] + chance["specificity"] for chance in fitted]) < 1.4
    assert all(0.5 <= chance["auroc"] < 0.8 for chance in fitted)


@pytest.mark.parametrize(("sensitivity", "fewest"), [(0.95, 24), (0.9, 12), (0.5, 5)])
def test_with_too_few_lesions_for_a_sensitivity_nothing_is_decided(sensitivity: float, fewest: int) -> None:
    for with_lesion in (fewest - 1, fewest):
        features = [item["vote_features"] for item in cases(with_lesion + 8, empty=8)]
        part, told = fit_no_lesion(features, [i < 8 for i in range(with_lesion + 8)], sensitivity=sensitivity)
        assert (part is not None) == (with_lesion == fewest)
        assert (told["reason"] is None) == (with_lesion == fewest)
    assert told["num_with_lesion"] == fewest


def test_images_of_too_few_groups_decide_nothing_of_lesions() -> None:
    features = [item["vote_features"] for item in cases(40, empty=10)]
    is_empty = [i < 10 for i in range(40)]
    lesions_alike, none_alike = [*range(10), *[99] * 30], [*[0] * 10, *range(1, 31)]
    two_patients = [*[0] * 5, *[1] * 5, *[0] * 15, *[1] * 15]
    refused = [(numbers, "too few groups") for numbers in (lesions_alike, none_alike, two_patients)]
    for numbers, reason in (*refused, (range(40), None)):
        part, told = fit_no_lesion(features, is_empty, sensitivity=0.9, groups=[str(number) for number in numbers])
        assert (part is None) == (reason is not None)
        assert (told["reason"] is None) if reason is None else (reason in told["reason"])


def test_peaks_that_are_higher_without_a_lesion_tell_nothing() -> None:
    peaks = np.random.default_rng(0).normal(size=60) + (np.arange(60) < 20)
    part, told = fit_no_lesion([{"peak": peak} for peak in peaks], [i < 20 for i in range(60)], sensitivity=0.9)
    assert part is None
    assert "do not have the lower peaks" in told["reason"]


def test_a_patient_with_and_without_a_lesion_is_in_one_fold() -> None:
    empty = np.arange(60) % 3 == 0
    groups = np.array([f"patient {i // 4}" for i in range(60)])
    folds = _deal(empty, groups, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert all(empty[folds == fold].any() and (~empty[folds == fold]).any() for fold in range(5))


def test_the_groups_of_images_reach_the_fits(tmp_path: Path) -> None:
    items = [{**item, "group": "one"} for item in cases(12)]
    of_one = fit(tmp_path, items).content
    assert of_one["fit"]["temperature"]["nll_after"] is None
    assert "All images are of one group" in of_one["fit"]["quality"]["reason"]
    none_alike = [{**item, "group": "one"} if i < 10 else item for i, item in enumerate(cases(40, empty=10))]
    assert "too few groups" in fit(tmp_path, none_alike).content["fit"]["no_lesion"]["reason"]


def test_what_is_told_of_the_answers_is_of_images_that_nothing_was_fitted_to() -> None:
    """With few images a threshold chosen on predictions looks much better on them than on new images."""

    def draw(n: int, seed: int) -> tuple[list[dict[str, float]], list[bool]]:
        rng = np.random.default_rng(seed)
        empty = rng.permutation(np.arange(n) < 0.4 * n)
        rows = rng.normal(size=(n, 2)) + np.outer(empty, [-1, 1])
        return [dict(zip(("peak", "appearance"), map(float, row), strict=True)) for row in rows], empty.tolist()

    told, true = [], []
    for seed in range(8):
        part, rates = fit_no_lesion(*draw(150, seed), sensitivity=0.9, seed=seed)
        assert part is not None
        told.append([rates["sensitivity"], rates["specificity"]])
        features, empty = draw(1000, 100 + seed)
        called = np.array([score_from(part["score"])(case) > part["threshold"] for case in features])
        true.append([(~called[~np.array(empty)]).mean(), called[empty].mean()])
    assert np.mean(told, axis=0) == pytest.approx(np.mean(true, axis=0), abs=0.05)
    assert np.mean(true, axis=0)[0] >= 0.9 - 0.02  # the sensitivity that was asked for, of images that nobody has seen


def pooled(empty: np.ndarray, seed: int) -> np.ndarray:
    """Return features of images, (n, 6), of which the second is larger without a lesion."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(empty), 6)) + np.outer(empty, np.eye(6)[1] * 8)


class Looks:
    """Stand for `ReferenceImages`: training images of which some show no lesion, and views of the validation images."""

    false_alarms = 0.05

    def __init__(self, items: list[dict[str, Any]], *, num_lesion_free: int, is_out_of_fold: bool = False) -> None:
        empty = np.arange(120) < num_lesion_free
        training = LabelledFeatures(pooled(empty, 1), empty, np.arange(120).astype(str))
        views = {item["name"]: item[FEATURES] for item in items}
        nothing = (None, None, views)
        self.found = References(*nothing if is_out_of_fold else (training, training.features, views))

    def look(self) -> References:
        return self.found


def alike(n: int, *, seed: int = 0, of: str = "case") -> list[dict[str, Any]]:
    """Return cases, half of them without a lesion, whose votes look the same and whose features do not."""
    items = cases(n, seed=seed)
    empty = np.arange(n) % 2 == 0
    for i, (item, features) in enumerate(zip(items, pooled(empty, 2 + seed), strict=True)):
        item |= {"name": f"{of} {i}", "pred": item["probability"], FEATURES: np.stack([features - 1, features + 1])}
        item["fold"] = i // 2 % 3
        if empty[i]:
            item["label"] = torch.zeros_like(item["label"])
    return items


@pytest.mark.parametrize("is_out_of_fold", [False, True], ids=["validation", "folds"])
def test_what_the_vote_cannot_tell_the_frozen_features_do(is_out_of_fold: bool, tmp_path: Path) -> None:
    items = alike(60)
    (tmp_path / "vote").mkdir()
    alone = fit(tmp_path / "vote", items).content
    references = Looks(items, num_lesion_free=60, is_out_of_fold=is_out_of_fold)
    both = fit(tmp_path, items, references=references, split="out_of_fold" if is_out_of_fold else "val").content
    assert alone["fit"]["no_lesion"]["auroc"] < 0.7 < 0.85 < both["fit"]["no_lesion"]["auroc"]
    assert both["fit"]["no_lesion"]["appearance_auroc"] > 0.98
    assert list(alone["no_lesion"]["score"]["features"]) == ["peak"]
    assert list(both["no_lesion"]["score"]["features"]) == ["peak", "appearance"]
    peak, appearance = both["no_lesion"]["score"]["coefficients"]
    assert appearance == -peak > 0  # they count alike
    apply = ApplyCalibrationd(calibration=find(tmp_path))
    further = alike(60, seed=5, of="further")
    told = [apply({**item, "out_of_distribution": None}) for item in further]
    called = np.array([made["no_lesion"] for made in told], dtype=bool)
    empty = np.arange(60) % 2 == 0
    assert called[empty].mean() > 0.4 > 0.2 > called[~empty].mean()


def test_from_too_few_lesion_free_training_images_nothing_is_learnt(tmp_path: Path) -> None:
    items = alike(40)
    for number in (19, 20):
        content = fit(tmp_path, items, references=Looks(items, num_lesion_free=number)).content
        told = content["fit"]["no_lesion"]
        assert ("appearance" in content["no_lesion"]) == (number == 20)
        assert (told["appearance_reason"] is None) == (number == 20)
        assert (told["appearance_auroc"] is None) == (number == 19)
    assert find(tmp_path).is_there


def test_groups_of_which_too_few_are_lesion_free_teach_nothing(tmp_path: Path) -> None:
    items = alike(40)
    references = Looks(items, num_lesion_free=40)
    training = references.found.training
    for number in (4, 5):
        groups = np.where(training.is_empty, np.arange(120) % number, np.arange(120)).astype(str)
        references.found = references.found._replace(training=training._replace(groups=groups))
        content = fit(tmp_path, items, references=references).content
        assert ("appearance" in content["no_lesion"]) == (number == 5)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration that has learnt from frozen features."""
    folder, items = tmp_path_factory.mktemp("learnt"), alike(40)
    fit(folder, items, references=Looks(items, num_lesion_free=40))
    return folder


def test_features_that_are_not_there_or_no_numbers_tell_nothing_of_lesions(learnt: Path) -> None:
    content = read_calibration(learnt / "best.calibration.json")
    calibration, figures = Calibration({**content, "out_of_distribution": None}, file="c.json"), {"peak": 1.0}
    nothing = dict.fromkeys(("no_lesion_probability", "no_lesion"))
    assert calibration.judge_lesion(figures, np.zeros((2, 6)))["no_lesion"] is not None
    assert calibration.judge_lesion(figures, None) == nothing
    assert calibration.judge_lesion(figures, np.full((2, 6), np.nan)) == nothing
    for judge in (lambda pooled: calibration.judge_lesion(figures, pooled), Calibration(content, file="c.json").judge):
        with pytest.raises(
            InputError, match=r"c\.json is of 6 pooled features, and this network has 7: calibrate again"
        ):
            judge(np.zeros((2, 7)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_features": 5}, r"no_lesion#appearance#weights must be 5 finite numbers of 4 bytes"),
        ({"weights": "AAAA"}, r"no_lesion#appearance#weights must be 6 finite numbers of 4 bytes"),
        ({"weights": "?"}, r"no_lesion#appearance#weights must be 6 finite numbers"),
        ({"weights": "AADAfwAAwH8AAMB/AADAfwAAwH8AAMB/"}, r"no_lesion#appearance#weights must be 6 finite numbers"),
        ({"num_features": 3, "weights": "AAAAAAAAAAAAAAAA"}, "num_features must be out_of_distribution's, 6"),
        (None, "no_lesion#score needs appearance if it uses it, and only then"),
    ],
    ids=["fewer", "shorter", "no-base64", "no-numbers", "other-network", "none"],
)
def test_weights_that_cannot_be_the_fits_are_refused(
    changes: dict[str, Any] | None, sentence: str, learnt: Path, tmp_path: Path
) -> None:
    content = read_calibration(learnt / "best.calibration.json")
    if changes is None:
        del content["no_lesion"]["appearance"]
    else:
        content["no_lesion"]["appearance"] |= changes
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        read_calibration(tmp_path / "c.json")


def test_three_classes_are_calibrated_and_controlled_together(tmp_path: Path) -> None:
    split, take, items = SplitVotesd(out_channels=3, expert_names=EXPERTS), TakeVoteFeaturesd(out_channels=3), []
    for i in range(12):
        label = torch.zeros(1, 24, 24, dtype=torch.int64)
        label[:, 4 : 12 + i % 4, 4:12], label[:, 14:20, 6 : 18 + i % 3] = 1, 2
        logits = 2 * torch.nn.functional.one_hot(label[0], 3).permute(2, 0, 1) + torch.randn(2, 3, 24, 24)
        experts = torch.softmax(logits, dim=1)
        pred = MetaTensor(torch.cat([experts.mean(0), experts.flatten(0, 1), torch.full((2, 24, 24), 0.5)]))
        items.append(split(take({"pred": pred, "label": label, "name": f"case {i}"})))
    handler = fit(tmp_path, items, out_channels=3, settings=SETTINGS | {"out_channels": 3})
    assert len(handler.content["temperature"]["bias"]) == 3
    assert handler.content["fit"]["temperature"]["nll_after"] < handler.content["fit"]["temperature"]["nll_before"]
    made = ApplyCalibrationd(calibration=find(tmp_path, out_channels=3))({**items[0], "pred": items[0]["probability"]})
    assert made["calibrated"].shape == (3, 24, 24)
    assert torch.allclose(made["calibrated"].sum(0), torch.ones(24, 24))
    assert made["controlled"].unique().tolist() == [0, 1, 2]
    assert (made["controlled"] > 0).sum() > (items[0]["voted"] > 0).sum()


def test_names_are_known_again_in_any_order_and_are_not_kept() -> None:
    assert names_digest(["b", "a"]) == names_digest(["a", "b"]) != names_digest(["a", "c"])


def test_every_output_setting_is_compared(calibrated: Path) -> None:
    for name in OUTPUT_SETTINGS:
        changes = copy.deepcopy({name: "changed"})
        assert name in (find(calibrated, **changes).reason or ""), name


def test_where_it_is_looked_for() -> None:
    assert calibration_path("models/model.pt") == str(Path("models/model.calibration.json"))
