"""Features of the frozen parts on the disk: right, of nothing but what they were made from, and hard to lose."""

from __future__ import annotations

import copy
import csv
import errno
import logging
import os
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folders import put_demo_set
from modes import in_training, randomise
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose, EnsureTyped, RandFlipd, RandGaussianNoised, ResizeWithPadOrCropd
from torch import Tensor

from icmoe_monai.data.cases import find_cases
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.networks.decoder import NoDetail
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.training import feature_cache as module
from icmoe_monai.training.feature_cache import CacheFeatures, FrozenFeatures, PrepareFeatures
from icmoe_monai.training.feature_files import hold, is_sound, read_features, write_features
from icmoe_monai.transforms.load import LoadImage2Dd

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "configs" / "train.json")
CPU = torch.device("cpu")
HOW = {"device": CPU, "amp": False, "batch_size": 4, "num_workers": 0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    return put_demo_set(folder)


@pytest.fixture
def cases(dataset: Path) -> list[dict]:
    return find_cases(str(dataset))["train"][:3]


@pytest.fixture(scope="module")
def network() -> ICMoE:
    torch.manual_seed(0)
    made = ICMoE(detail=ImagePyramid())
    randomise(made.detail, 0.1)
    return made


def transform(noise: float = 0.1) -> Compose:
    return Compose(
        [
            LoadImage2Dd(["image", "label"], out_channels=1),
            ResizeWithPadOrCropd(["image", "label"], (32, 48)),
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=1),
            RandGaussianNoised("image", prob=1.0, std=noise),
            EnsureTyped(["image", "label"], track_meta=False),
        ]
    )


def make(cases: list[dict], folder: Path, **settings: object) -> FrozenFeatures:
    given = {"transform": transform(), "num_views": 2, "dtype": "float32", **settings}
    return FrozenFeatures(data=cases, folder=folder, **given)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}


def is_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Tell whether features differ by rounding alone, by which a pass of another number of images may differ.

    A feature near 0 is a sum of some as large as the largest, so that its error follows those.
    """
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name], value, rtol=0, atol=1e-5 * float(value.abs().max()))
        for name, value in expected.items()
    )


def count_trunk(network: ICMoE, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of images of each pass of the trunk."""
    seen: list[int] = []
    trunk = type(network).trunk

    def counting(self: ICMoE, image: Tensor) -> Tensor:
        seen.append(len(image))
        return trunk(self, image)

    monkeypatch.setattr(type(network), "trunk", counting)
    return seen


def test_features_are_those_of_the_view_and_give_the_networks_output(
    cases: list[dict], network: ICMoE, tmp_path: Path
) -> None:
    found = make(cases, tmp_path)
    found.fill(network, **HOW)
    views = [[read_features(path) for path in files] for files in found.files]
    trained = in_training(network)
    for case, files in zip(cases, views, strict=True):
        for view, item in enumerate(files):
            again = found.transform
            again.set_random_state(seed=found._seed_of(module._digest_case(case), view))
            image = again(case)["image"][None]
            with torch.no_grad():
                expected = trained(image)
                levels = [item[f"level{i}"][None] for i in range(4)]
                output = trained.segment(item["tokens"][None], levels)
            for one, other in zip(output, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert not torch.equal(views[0][0]["tokens"], views[0][1]["tokens"])
    assert not torch.equal(views[0][0]["tokens"], views[1][0]["tokens"])
    assert views[0][0]["label"].dtype == torch.float32


def test_halves_differ_by_their_rounding_and_take_half_the_room(
    cases: list[dict], network: ICMoE, tmp_path: Path
) -> None:
    kept = {}
    for dtype in ("float32", "float16"):
        found = make(cases[:1], tmp_path, dtype=dtype, num_views=1)
        found.fill(network, **HOW)
        kept[dtype] = found.files[0][0]
    full, half = (read_features(kept[dtype]) for dtype in ("float32", "float16"))
    assert not torch.equal(full["tokens"], half["tokens"])
    for name in full:
        torch.testing.assert_close(half[name], full[name], rtol=1e-3, atol=1e-3)
    assert kept["float16"].stat().st_size < 0.6 * kept["float32"].stat().st_size


def test_an_item_is_any_of_the_views(cases: list[dict], network: ICMoE, tmp_path: Path) -> None:
    found = make(cases, tmp_path)
    found.fill(network, **HOW)
    found.set_random_state(seed=0)
    drawn = {found[1]["tokens"].sum().item() for _ in range(20)}
    assert drawn == {read_features(path)["tokens"].sum().item() for path in found.files[1]}
    assert len(drawn) == 2
    assert len(found) == 3


def test_what_is_there_is_not_computed_again(
    cases: list[dict], network: ICMoE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(cases, tmp_path).fill(network, **HOW)
    seen = count_trunk(network, monkeypatch)
    renamed = [{**case, "name": f"other_{case['name']}"} for case in reversed(cases)]
    make(renamed, tmp_path).fill(network, **HOW)
    assert seen == []
    more = make(cases, tmp_path, num_views=3)
    more.fill(network, **HOW)
    assert sum(seen) == 1 + 3  # one image tells the size


@pytest.mark.parametrize(
    "change", ["transform", "seed", "dtype", "encoder", "detail", "depth", "amp", "image", "label"]
)
def test_what_was_made_from_something_else_is_not_found(
    change: str, cases: list[dict], network: ICMoE, tmp_path: Path
) -> None:
    case, other = dict(cases[0]), network
    features = make([case], tmp_path / "features")
    features.fill(network, **HOW)
    settings: dict = {}
    how = dict(HOW)
    if change in ("transform", "seed", "dtype"):
        settings = {"transform": {"transform": transform(0.2)}, "seed": {"seed": 1}, "dtype": {"dtype": "float16"}}[
            change
        ]
    elif change in ("encoder", "detail", "depth"):
        other = ICMoE(detail=ImagePyramid(), expert_depth=3 if change == "depth" else 2)
        for part in ("encoder", "detail"):
            getattr(other, part).load_state_dict(getattr(network, part).state_dict())
        with torch.no_grad():
            if change != "depth":
                next(getattr(other, change).parameters()).view(-1)[0] += 1e-3
    elif change == "amp":
        how["amp"] = True
    else:
        case[change] = str(shutil.copy(case[change], tmp_path / Path(case[change]).name))
        before = make([case], tmp_path / "features")
        before.fill(network, **HOW)
        assert before.files == features.files  # another place, the same content
        shutil.copy(cases[1][change], case[change])
    changed = make([case], tmp_path / "features", **settings)
    changed.fill(other, **how)
    assert not {path for files in changed.files for path in files} & {
        path for files in features.files for path in files
    }


def test_a_writer_that_was_killed_loses_nothing(
    cases: list[dict], network: ICMoE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(cases, tmp_path / "whole")
    whole.fill(network, **HOW)
    written: list[Path] = []

    def killed(content: dict[str, Tensor], path: Path) -> None:
        if len(written) == 3:
            path.with_name(".0123456789ab.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        write_features(content, path)
        written.append(path)

    found = make(cases, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_features", killed)
        with pytest.raises(KeyboardInterrupt):
            found.fill(network, **HOW)
    stamps = {path: path.stat().st_mtime_ns for path in written}
    seen = count_trunk(network, monkeypatch)
    again = make(cases, tmp_path / "cut")
    again.fill(network, **HOW)
    assert sum(seen) == 1 + 3
    assert {path: path.stat().st_mtime_ns for path in written} == stamps
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_file_is_noticed_and_made_anew(
    damage: str, cases: list[dict], network: ICMoE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = make(cases, tmp_path)
    found.fill(network, **HOW)
    path = found.files[1][0]
    content, before = path.read_bytes(), read_features(path)
    broken = {"cut": content[:-10], "flipped": content[:-1] + bytes([content[-1] ^ 1]), "emptied": b""}[damage]
    path.write_bytes(broken)
    with pytest.raises(InputError, match="were damaged and are removed: run the same training again"):
        read_features(path)
    with pytest.raises(InputError, match="are gone from"):
        read_features(path)
    path.write_bytes(broken)
    with caplog.at_level(logging.WARNING):
        make(cases, tmp_path).fill(network, **HOW)
    assert "were damaged and are removed: they are computed anew." in caplog.text
    after = read_features(path)
    assert is_alike(after, before)
    assert not is_alike(after, read_features(found.files[1][1]))


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    cases: list[dict], network: ICMoE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    with pytest.raises(InputError, match=r"6 views' features take 0\.00 GB in .* and 0\.00 GB are free there: give"):
        make(cases, tmp_path).fill(network, **HOW)
    assert files_of(tmp_path) == set()


def test_a_disk_that_becomes_full_is_told_and_what_is_there_is_kept(
    cases: list[dict], network: ICMoE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, moved = make(cases, tmp_path), os.replace

    def full(source: Path, target: Path) -> None:
        if len(files_of(tmp_path)) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        moved(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space left on device"):
            found.fill(network, **HOW)
    kept = files_of(tmp_path)
    assert len(kept) == 2
    assert all(is_sound(tmp_path / name) for name in kept)


def test_a_second_process_waits_for_the_first_and_computes_nothing(
    cases: list[dict], network: ICMoE, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(cases, tmp_path)
    first.fill(network, **HOW)
    seen = count_trunk(network, monkeypatch)
    second = threading.Thread(target=make(cases, tmp_path).fill, args=(network,), kwargs=HOW)
    with caplog.at_level(logging.INFO), hold(first.files[0][0].parent):
        second.start()
        while "waiting for it" not in caplog.text:
            time.sleep(0.01)
        assert second.is_alive()
    second.join(10)
    assert not second.is_alive()
    assert seen == []


def test_a_folder_that_cannot_be_used_is_told(cases: list[dict], network: ICMoE, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write .* in .*choose another folder"):
        make(cases, tmp_path / "file").fill(network, **HOW)


def test_features_that_are_too_large_for_halves_are_refused(cases: list[dict], network: ICMoE, tmp_path: Path) -> None:
    large = copy.deepcopy(network)
    with torch.no_grad():
        large.encoder.pos_embed.fill_(1e5)
    with pytest.raises(
        InputError, match=r"features \(tokens\) are not finite as float16: set --features_dtype float32"
    ):
        make(cases[:1], tmp_path, dtype="float16").fill(large, **HOW)
    make(cases[:1], tmp_path, dtype="float32").fill(large, **HOW)


def test_other_trainings_features_are_told_of(
    cases: list[dict], network: ICMoE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(cases, tmp_path).fill(network, **HOW)
    with caplog.at_level(logging.INFO):
        make(cases, tmp_path, seed=1).fill(network, **HOW)
    assert "GB of other trainings' features lie beside them and may be deleted" in caplog.text


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_views": 0}, "num_views must be a whole number of at least 1, got 0"),
        ({"dtype": "int8"}, "features_dtype"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, sentence: str, cases: list[dict], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        make(cases, tmp_path, **settings)


@pytest.mark.parametrize("built", [lambda: ICMoE(train_trunk=True), ICMoE])
def test_parts_that_are_trained_are_not_kept(built: Callable[[], ICMoE], cases: list[dict], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a frozen encoder and a frozen image pyramid"):
        make(cases, tmp_path).fill(built(), **HOW)


def test_a_network_without_detail_has_tokens_only(cases: list[dict], tmp_path: Path) -> None:
    found = make(cases[:1], tmp_path)
    found.fill(ICMoE(detail=NoDetail()), **HOW)
    assert set(found[0]) == {"tokens", "label"}
    tokens, _, (levels,), _ = PrepareFeatures()({name: value[None] for name, value in found[0].items()}, CPU)
    assert tokens.shape == (1, 2, 3, 192)
    assert levels == []


def test_features_without_the_image_do_not_serve_an_expert_that_needs_it(cases: list[dict], tmp_path: Path) -> None:
    pyramid = ImagePyramid()
    for own in (None, {"adaptive": "lite1"}):  # of the same frozen part
        found = make(cases[:1], tmp_path, num_views=1)
        found.fill(ICMoE(backbone=None, detail=pyramid, own_network=own), **HOW)
    image = torch.as_tensor(found[0]["level4"])
    assert image.shape == (3, 32, 48)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_wrapped_network_is_refused(cases: list[dict], tmp_path: Path) -> None:
    handler = CacheFeatures(features=make(cases, tmp_path), network=torch.nn.Identity(), device="cpu")
    with pytest.raises(InputError, match="cache_features is for an ICMoE in one process, not for a Identity"):
        handler(None)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
class TestTraining:
    """The bundle's training, with `--cache_features True`."""

    def train(self, dataset: Path, output: Path, **overrides: object) -> list[dict]:
        arguments = {
            "dataset_dir": str(dataset), "output_dir": str(output), "image_size": 64, "num_workers": 0, "device": "cpu",
            "batch_size": 4, "min_steps": 1, "max_epochs": 2, "features_dtype": "float32", **overrides,
        }  # fmt: skip
        flow = ConfigWorkflow(config_file=TRAIN, workflow_type="train", logging_file=False, **arguments)
        flow.initialize()
        flow.run()
        flow.finalize()
        with (output / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def test_is_the_same_as_without_the_cache_where_nothing_is_random(self, dataset: Path, tmp_path: Path) -> None:
        random = ("flip_rows", "flip_columns", "affine", "intensity_scale", "intensity_shift", "noise", "blur")
        still = {f"augmentation#{name}#prob": 0.0 for name in random}
        plain = self.train(dataset, tmp_path / "plain", **still)
        cached = self.train(dataset, tmp_path / "cached", cache_features=True, num_views=1, **still)
        for one, other in zip(plain, cached, strict=True):
            for name in ("train_loss", "val_mean_dice", "val_adaptive_dice"):
                assert float(one[name]) == pytest.approx(float(other[name]), rel=2e-3), name
        assert float(plain[0]["train_loss"]) == pytest.approx(float(cached[0]["train_loss"]), rel=1e-4)

    def test_goes_the_same_way_whether_the_files_were_there_or_not(
        self, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared = {"cache_features": True, "features_dir": str(tmp_path / "features"), "num_views": 2, "max_epochs": 1}
        first = self.train(dataset, tmp_path / "first", **shared)
        files = files_of(tmp_path / "features")
        second = self.train(dataset, tmp_path / "second", **shared)
        assert files_of(tmp_path / "features") == files
        assert len(files) == 2 * len(find_cases(str(dataset))["train"])
        assert first[0]["train_loss"] == second[0]["train_loss"]

    def test_says_that_whole_networks_have_no_features(self, dataset: Path, tmp_path: Path) -> None:
        with pytest.raises((RuntimeError, InputError)) as raised:
            self.train(dataset, tmp_path, cache_features=True, backbone="vit_t", own_network=None, pretrained=None)
        assert "set --cache_features False" in str(find_input_error(raised.value))
