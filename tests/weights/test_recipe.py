"""The recipe in a checkpoint: written, read, taken by a config, and refused where it is contradicted."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import monai.handlers
import pytest
import torch
from ignite.engine import Engine
from recipes import OTHERS, TRAINED
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.baselines import Baseline
from icmoe_monai.networks.blueprint import blueprint_of
from icmoe_monai.networks.decoder import NoDetail
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.sam import BACKBONES, build_sam_encoder
from icmoe_monai.training.checkpoints import LastCheckpoint
from icmoe_monai.weights.checkpoint import load_weights, read_recipe, save_weights
from icmoe_monai.weights.handlers import CheckpointLoader
from icmoe_monai.weights.official import OFFICIAL_WEIGHTS
from icmoe_monai.weights.pyramid import load_pyramid_weights, save_pyramid_weights
from icmoe_monai.weights.recipe import SETTINGS, Recipe, find_recipe, make_recipe
from icmoe_monai.weights.recipe_checks import check_recipe, check_resumed, check_split
from icmoe_monai.weights.sam import save_sam_weights, trunk_fingerprint
from icmoe_monai.weights.tensor_files import save_checkpoint

FIXED = [name for name, may_differ in SETTINGS.items() if not may_differ]
FREE = [name for name, may_differ in SETTINGS.items() if may_differ]


def small(**arguments: Any) -> ICMoE:
    return ICMoE(**{"experts": ["basic", "semantic"], "expert_depth": 1, "detail": NoDetail(), **arguments})


def recipe_of(network: nn.Module, **arguments: Any) -> dict[str, Any]:
    return make_recipe(settings=TRAINED, network=network, pretrained="/home/somebody/trunk.safetensors", **arguments)


def refused(sentence: str) -> Any:
    return pytest.raises(InputError, match=sentence)


@pytest.mark.parametrize(("name", "whole"), [("a.pt", False), ("a.pt", True), ("a.safetensors", False),
                                             ("a.safetensors", True)])  # fmt: skip
def test_a_file_of_each_kind_holds_the_recipe_and_is_read_by_everybody(name, whole, tmp_path):
    network = small()
    segments = [{"label": "wart", "category": ["1", "SCT", "a"], "type": ["2", "SCT", "b"]}]
    recipe = recipe_of(network, segments=segments, modality="dermoscopy", training_set={"num_images": 3})
    save_weights(network, tmp_path / name, whole=whole, recipe=recipe)
    found, is_whole = read_recipe(tmp_path / name)
    trunk = {"fingerprint": trunk_fingerprint(network.encoder), "source": "trunk.safetensors"}
    assert found == {**recipe, "trunk": trunk}
    assert is_whole == whole
    assert (found["segments"], found["modality"], found["mask_values"]) == (segments, "dermoscopy", [0, 255])
    assert b"somebody" not in (tmp_path / name).read_bytes()
    other = small()
    other.encoder.load_state_dict(network.encoder.state_dict())
    load_weights(other, tmp_path / name)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())
    if name.endswith(".pt"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert not whole or content.keys() == network.state_dict().keys()  # a state dict and nothing else: the zoo's
        loader = monai.handlers.CheckpointLoader(str(tmp_path / name), {"model": small()}, strict=False)
        loader(Engine(lambda engine, batch: None))


def test_masks_of_several_classes_hold_their_numbers():
    settings = {**TRAINED, "out_channels": 3}
    assert make_recipe(settings=settings, network=small())["mask_values"] == [0, 1, 2]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_taken_from_the_recipe_and_noted_or_refused_where_it_is_contradicted(name, caplog):
    assert TRAINED.keys() == OTHERS.keys() == SETTINGS.keys()
    trained = Recipe(recipe_of(small()), path="runs/best.pt")
    assert trained.setting(name, "default") == TRAINED[name]
    assert Recipe().setting(name, "default") == "default"
    trained.check(TRAINED)
    assert trained.unlike(TRAINED) == {}
    here = {**TRAINED, name: OTHERS[name]}
    assert trained.unlike(here) == {name: {"trained": TRAINED[name], "here": OTHERS[name]}}
    caplog.set_level(logging.INFO)
    if name in FREE:
        trained.check(here)
        assert caplog.messages == [f"best.pt was trained with {name} {TRAINED[name]}, and here it is {OTHERS[name]}."]
        return
    with pytest.raises(InputError) as raised:
        trained.check(here)
    assert str(raised.value).startswith(
        f"best.pt was trained with {name} {TRAINED[name]}, and here it is {OTHERS[name]}: leave --{name} out"
    )
    Recipe().check(here)


def test_a_run_without_one_of_the_settings_is_not_asked_for_it():
    Recipe(recipe_of(small())).check({name: value for name, value in TRAINED.items() if name != "longest_side"})


def test_an_older_file_is_told_of_once_and_changes_nothing(tmp_path, caplog):
    save_weights(small(), tmp_path / "old.pt")
    found = find_recipe(tmp_path / "old.pt")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("old.pt does not say how it was trained")
    found.check(OTHERS)
    network = small(communicate=False)
    assert found.network(network, "cpu") is network
    assert (found.pyramid("b"), found.segments(1)[0]["label"]) == ("b", "lesion")


def test_a_file_without_a_recipe_is_of_the_default_of_its_time(tmp_path):
    save_weights(small(), tmp_path / "old.pt")
    old = find_recipe(tmp_path / "old.pt")
    assert [old.setting(name, "now") for name in ("backbone", "own_network", "image_size")] == ["vit_t", None, "now"]
    assert [Recipe().setting(name, "now") for name in ("backbone", "own_network")] == ["now", "now"]


def test_without_a_recipe_the_backbone_tells_the_encoders_weights():
    shipped = str(Path("models") / "sam_vit_t_medical.safetensors")
    sources = {None: None, "vit_t": shipped, "vit_b": "sam_vit_b", "vit_l": "sam_vit_l", "vit_h": "sam_vit_h"}
    assert {backbone: Recipe().encoder(backbone, "models") for backbone in (None, *BACKBONES)} == sources


def test_a_recipe_can_be_passed_over_and_no_file_has_none(tmp_path, caplog):
    network = small()
    save_weights(network, tmp_path / "best.pt", recipe=recipe_of(network))
    assert find_recipe(tmp_path / "best.pt").content
    assert not find_recipe(tmp_path / "best.pt", "none").content
    assert not find_recipe(None).content
    assert not find_recipe(tmp_path / "nowhere.pt").content
    with refused("recipe must be auto or none, got 'maybe'"):
        find_recipe(tmp_path / "best.pt", "maybe")
    assert caplog.messages == []


def test_a_damaged_recipe_is_refused(tmp_path):
    save_checkpoint({"model": {}, "trunk": {}, "recipe": [1, 2]}, tmp_path / "best.pt")
    with refused(
        "The recipe in .*best.pt is damaged, it must be a table, got .*: train again, or go without, --recipe none"
    ):
        find_recipe(tmp_path / "best.pt")


@pytest.mark.parametrize("place", ["beside", "models", "cache"])
def test_a_file_of_frozen_weights_is_found_again_by_its_name(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ICMOE_CACHE", str(tmp_path / "cache"))
    trained = Recipe({"settings": {}, "pretrained": "mine.pth"}, path=tmp_path / "beside" / "best.pt")
    models = tmp_path / "models"
    with refused(r"best.pt was trained on the encoder mine.pth, which lies neither beside it .*with --pretrained\."):
        trained.encoder("vit_b", models)
    (tmp_path / place).mkdir()
    (tmp_path / place / "mine.pth").touch()
    assert trained.encoder("vit_b", models) == str(tmp_path / place / "mine.pth")


def test_official_weights_are_found_by_their_name_and_a_file_that_holds_all_needs_none(tmp_path):
    name = next(iter(OFFICIAL_WEIGHTS))
    assert Recipe({"settings": {}, "pretrained": name}).encoder("vit_t", "models") == name
    content = {"settings": {}, "pretrained": "../mine.pth", "pyramid": None}
    assert Recipe(content, path=tmp_path / "model.pt", is_whole=True).encoder("vit_t", tmp_path) is None
    assert Recipe(content, path=tmp_path / "model.pt").pyramid(str(tmp_path / "a.pth")) is None
    with refused("on the encoder mine.pth"):  # no path out of the folders that are searched
        Recipe(content, path=tmp_path / "models" / "model.pt").encoder("vit_t", tmp_path / "models")


def test_a_whole_file_refuses_another_encoder_and_pyramid_by_their_fingerprints(tmp_path):
    encoder = build_sam_encoder("vit_t")
    save_sam_weights(encoder, tmp_path / "renamed.safetensors")
    save_sam_weights(build_sam_encoder("vit_t"), tmp_path / "other.safetensors")
    network = small()
    network.encoder.load_state_dict(encoder.state_dict())
    save_weights(network, tmp_path / "model.pt", whole=True, recipe=recipe_of(network))
    trained = find_recipe(tmp_path / "model.pt")
    check_recipe(trained, settings=TRAINED, pretrained=str(tmp_path / "renamed.safetensors"))
    check_recipe(trained, settings=TRAINED, pretrained=None)
    with refused(r"model.pt was trained with pretrained trunk.safetensors \(fingerprint .*other.safetensors .*leave"):
        check_recipe(trained, settings=TRAINED, pretrained=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("size", ["lite0", "lite2"])
def test_a_whole_file_refuses_another_pyramid_of_its_own_size(size, tmp_path):
    for name in ("renamed", "other"):
        save_pyramid_weights(ImagePyramid(size=size), tmp_path / f"{name}.safetensors")
    network = configured(detail=ImagePyramid(size=size))
    load_pyramid_weights(tmp_path / "renamed.safetensors", network.detail)
    save_weights(network, tmp_path / "model.pt", whole=True, recipe=recipe_of(network) | {"pyramid": "trained"})
    trained = find_recipe(tmp_path / "model.pt")
    check_recipe(trained, settings=TRAINED, pyramid=str(tmp_path / "renamed.safetensors"))
    with refused(r"model.pt was trained with pyramid trained \(fingerprint .*other.safetensors .*leave"):
        check_recipe(trained, settings=TRAINED, pyramid=str(tmp_path / "other.safetensors"))


SET = {"num_images": 7, "sha256": "a", "seen_sha256": "v", "set_sha256": "s", "split_seed": 0}
FOLD = {"folds": 5, "fold": 2}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (SET, None),
        (SET | {"sha256": "b", "set_sha256": "t", "split_seed": 1}, None),  # of another hospital, say
        (SET | {"sha256": "b", "split_seed": 1}, r"some of its val images.*training's --split_seed 0 \(here it is 1\)"),
        (SET | {"sha256": "b"}, r"some of its val images were trained on: give the training's splits\.json"),
        (SET | FOLD | {"sha256": "b"}, r"some of its val images were trained on: leave --folds 5 --fold 2 out, or"),
    ],
    ids=["same", "another set", "another seed", "other lists", "a fold"],
)
def test_images_that_were_trained_on_are_not_taken_for_unseen_ones(found, sentence):
    trained = Recipe(recipe_of(small(), training_set=SET), path="best.pt")
    with refused(sentence) if sentence else nullcontext():
        check_split(trained, found=found, split="val")
    check_split(trained, found=found, split="train")
    check_split(Recipe(), found=found, split="val")
    check_split(Recipe(recipe_of(small(), training_set={"num_images": 7, "sha256": "a"})), found=found, split="val")


@pytest.mark.parametrize(
    ("found", "here"),
    [(SET, "there are no folds"), (SET | {"folds": 5, "fold": 1}, "--folds 5 --fold 1")],
    ids=["no folds", "another fold"],
)
def test_a_models_own_fold_is_asked_for_but_not_to_look_at_the_test_images(found, here):
    trained = Recipe(recipe_of(small(), training_set=SET | FOLD), path="best.pt")
    check_split(trained, found=SET | FOLD, split="val")
    other = found | {"sha256": "b"}
    with refused(rf"some of its val images were trained on: give the training's --folds 5 --fold 2 \(here {here}\)"):
        check_split(trained, found=other, split="val")
    check_split(trained, found=other, split="test")
    with refused("some of its test images were trained on"):
        check_split(trained, found=other | {"seen_sha256": "w"}, split="test")


@pytest.mark.parametrize(
    ("known", "found", "sentence"),
    [
        ({}, {}, None),
        ({}, {"folds_sha256": "g", "folds": 4}, r"give the training's --folds 5 \(here --folds 4\)"),
        ({}, {"folds_sha256": "g", "set_sha256": "t"}, "seen some of their own: give the set as it was"),
        ({"folds_sha256": None}, {}, "seen some of their own"),
    ],
    ids=["same", "other folds", "a set that has changed", "a file that does not say"],
)
def test_the_images_of_all_folds_are_those_of_the_training_whatever_the_set(known, found, sentence):
    all_folds = SET | {"folds": 5, "folds_sha256": "f"}
    trained = Recipe(recipe_of(small(), training_set=all_folds | known), path="ensemble.pt")
    with refused(sentence) if sentence else nullcontext():
        check_split(trained, found=all_folds | found, split="out_of_fold")


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (SET, None),
        (SET | {"num_images": 8, "sha256": "b", "set_sha256": "t"}, r"other images \(7, and here 8\): resume with the"),
        (SET | {"sha256": "b", "split_seed": 1}, r"other images.*give the training's --split_seed 0"),
    ],
    ids=["same", "another set", "another seed"],
)
def test_a_training_goes_on_with_its_own_images_only(found, sentence):
    begun = recipe_of(small(), training_set=SET)
    with refused(sentence) if sentence else nullcontext():
        check_resumed(begun, begun | {"training_set": found}, "last.pt")


def trained_with(network: nn.Module) -> Recipe:
    return Recipe(recipe_of(network), path="best.pt")


def configured(**arguments: Any) -> ICMoE:
    """Return a network as the configs define it, with settings of this run."""
    return ICMoE(**{"experts": ["basic", "semantic"], "expert_depth": 1, "detail": ImagePyramid(), **arguments})


@pytest.mark.parametrize(
    "network",
    [lambda: small(), lambda: configured(communicate=False), lambda: configured(rank=4),
     lambda: Baseline(network=small(), out_channels=1)],
    ids=["detail", "communicate", "rank", "baseline"],
)  # fmt: skip
def test_the_network_is_the_trained_one_where_the_config_leaves_it_open(network):
    expected = network()
    found = trained_with(expected).network(configured(), "cpu")
    assert blueprint_of(found) == blueprint_of(expected)
    same = network()
    assert trained_with(expected).network(same, "cpu") is same


def test_what_a_use_decides_of_the_network_stays_as_it_is_here():
    found = trained_with(small(voting="adaptive", train_trunk=True)).network(configured(voting="mean"), "cpu")
    assert isinstance(found.detail, NoDetail)
    assert found.voting.strategy == "mean"
    assert not any(weight.requires_grad for weight in found.encoder.parameters())
    here = configured(voting="best", best_expert=1)
    assert trained_with(configured()).network(here, "cpu") is here


@pytest.mark.parametrize(
    ("here", "sentence"),
    [
        (lambda: configured(communicate=False), "with network_def#communicate True, and here it is False: leave that"),
        (lambda: configured(detail=NoDetail()), "with network_def#detail ImagePyramid, and here it is NoDetail"),
        (lambda: Baseline(network=nn.Conv2d(3, 1, 1), out_channels=1), "with network_def ICMoE, .* Baseline"),
    ],
    ids=["argument", "detail", "class"],
)
def test_another_network_than_the_trained_and_the_default_one_is_refused(here, sentence):
    with refused(f"best.pt was trained {sentence}"):
        trained_with(configured()).network(here(), "cpu")


def test_a_network_that_no_blueprint_builds_is_asked_for():
    own = Baseline(network=nn.Conv2d(3, 1, 1), out_channels=1)
    with refused(r"best.pt was trained with a network that its recipe cannot build .*: give the config .* --config"):
        trained_with(own).network(configured(), "cpu")
    assert trained_with(own).network(own, "cpu") is own


def resume(content: dict[str, Any], recipe: dict[str, Any], network: nn.Module, folder: Path) -> None:
    done = Engine(lambda engine, batch: 0)
    LastCheckpoint(save_dict={"model": network}, path=str(folder / "last.pt"), recipe=content).attach(done)
    done.run([0], max_epochs=1)
    engine = Engine(lambda engine, batch: None)
    engine.state.max_epochs, engine.state.epoch_length = 2, 1
    CheckpointLoader(str(folder / "last.pt"), {"model": network, "optimizer": None}, recipe)(engine)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_training_does_not_go_on_with_another_setting(name, tmp_path):
    network = small()
    recipe = recipe_of(network)
    resume(recipe, {**recipe, "version": "9.9.9", "modality": "another"}, network, tmp_path)
    without = {key: value for key, value in TRAINED.items() if key != name}  # of a version that knew no such setting
    resume({**recipe, "settings": without}, recipe, network, tmp_path)
    other = {**recipe, "settings": {**TRAINED, name: OTHERS[name]}}
    with pytest.raises(InputError) as raised:
        resume(recipe, other, network, tmp_path)
    said = f"last.pt is of a training with {name} {TRAINED[name]}, and here it is {OTHERS[name]}: resume with"
    assert said in str(raised.value)


def test_a_training_does_not_go_on_with_another_network(tmp_path):
    network = small()
    other = recipe_of(small(train_trunk=True))
    with refused(r"is of a training with network_def#train_trunk False, and here it is True"):
        resume(recipe_of(network), other, network, tmp_path)
