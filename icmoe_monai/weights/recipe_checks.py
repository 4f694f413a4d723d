"""Checks of a recipe against a run: a use of the weights, before it starts, and a training that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import called, completed, differences
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.weights.pyramid import load_pyramid_weights
from icmoe_monai.weights.recipe import Recipe
from icmoe_monai.weights.sam import load_sam_weights, trunk_fingerprint

_ALL_FOLDS = "out_of_fold"  # the split of all folds' images
# what of a set must be as it was in the training, any one of them, so that a split's images were not trained on
_LISTS = {"test": ("sha256", "seen_sha256")}


def check_recipe(
    trained: Recipe,
    *,
    settings: Mapping[str, Any],
    pretrained: str | Path | None = None,
    pyramid: str | Path | None = None,
) -> None:
    """Check that a run contradicts nothing of its checkpoint's recipe, before anything starts.

    A checkpoint without its frozen weights refuses others by itself, when it is loaded.

    Args:
        trained: The checkpoint's recipe.
        settings: The run's values of `SETTINGS`, or of some of them.
        pretrained: Name or file of the encoder's weights.
        pyramid: File of the image pyramid's weights.

    Raises:
        InputError: If something is contradicted; the sentence names both values.
    """
    trained.check(settings)
    notes = trained.content.get("trunk") or {}
    if not trained.is_whole:
        return
    for name, given, key in (("pretrained", pretrained, "fingerprint"), ("pyramid", pyramid, "detail")):
        was = trained.content.get(name)
        if given is None or Path(given).name == was or not notes.get(key):
            continue
        if name == "pyramid":
            found = _fingerprint_of_pyramid(given, trained.content["network"]["detail"])
        else:
            found = trunk_fingerprint(load_sam_weights(given))
        if found != notes[key]:
            raise InputError(
                f"{trained.path.name} was trained with {name} {was} (fingerprint {notes[key][:12]}), and here it is "
                f"{given} ({found[:12]}): leave --{name} out."
            )


def check_split(trained: Recipe, *, found: Mapping[str, Any], split: str) -> None:
    """Check that none of the images that a run looks at were trained on, if it goes through the training's own set.

    Args:
        trained: The checkpoint's recipe.
        found: What identifies the run's set and its training images, as `data.describe_training` returns it.
        split: The images that the run goes through.

    Raises:
        InputError: If the set is the same, and its training images are others. The test images may be looked at where
            they are the training's own, as those of a fold are: it has trained or validated on all others. Or if the
            run goes through the images of all folds, of whatever set, and these are not those of the training.
    """
    known = trained.content.get("training_set") or {}
    is_own = known.get("set_sha256") is not None and known["set_sha256"] == found["set_sha256"]
    if split == _ALL_FOLDS and known.get("folds_sha256") != found["folds_sha256"]:
        raise InputError(
            f"{trained.path.name} was trained on folds that were dealt otherwise than those here, so that its networks "
            f"have seen some of their own: {_splits_differ(known, found, otherwise='give the set as it was')}."
        )
    lists = _LISTS.get(split, ("sha256",)) if known.get("seen_sha256") else ("sha256",)
    if is_own and split not in ("train", _ALL_FOLDS) and all(known.get(one) != found[one] for one in lists):
        raise InputError(
            f"{trained.path.name} was trained on other images of this set than its training images here, so that some "
            f"of its {split} images were trained on: {_splits_differ(known, found)}, or --recipe none."
        )


def _splits_differ(
    known: Mapping[str, Any], found: Mapping[str, Any], *, otherwise: str = "give the training's splits.json"
) -> str:
    remedies = []
    seeds = known.get("split_seed"), found.get("split_seed")
    if None not in seeds and seeds[0] != seeds[1]:
        remedies.append(f"give the training's --split_seed {seeds[0]} (here it is {seeds[1]})")
    was, now = (_told_fold(one) for one in (known, found))
    if was != now and was:
        remedies.append(f"give the training's {was} (here {now or 'there are no folds'})")
    elif was != now:
        remedies.append(f"leave {now} out")
    return " and ".join(remedies) or otherwise


def _told_fold(training_set: Mapping[str, Any]) -> str:
    if not training_set.get("folds"):
        return ""
    return f"--folds {training_set['folds']}" + (f" --fold {training_set['fold']}" if training_set.get("fold") else "")


def check_resumed(content: Mapping[str, Any], recipe: Mapping[str, Any], path: str | Path) -> None:
    """Check that a training that goes on has the recipe that it began with.

    Args:
        content: The recipe in the checkpoint.
        recipe: The recipe of this training.
        path: The checkpoint.

    Raises:
        InputError: If a setting, the network or the training images differ; the sentence names both values.
    """
    known, found = ((one.get("training_set") or {}) for one in (content, recipe))
    if None not in (known.get("set_sha256"), found.get("set_sha256")) and known["sha256"] != found["sha256"]:
        what = (
            _splits_differ(known, found) if known["set_sha256"] == found["set_sha256"] else "resume with the same set"
        )
        raise InputError(
            f"{path} is of a training on other images ({known['num_images']}, and here {found['num_images']}): {what}, "
            "or start a new training from its best.pt."
        )
    noted = content["settings"]
    differing = differences(noted, {name: recipe["settings"][name] for name in noted if name in recipe["settings"]})
    networks = differences(completed(content.get("network", recipe["network"])), completed(recipe["network"]))
    differing |= {called(name): pair for name, pair in networks.items()}
    if differing:
        name, (was, now) = next(iter(differing.items()))
        raise InputError(
            f"{path} is of a training with {name} {was}, and here it is {now}: resume with the settings that it began "
            "with, or start a new training from its best.pt."
        )


def _fingerprint_of_pyramid(path: str | Path, blueprint: Mapping[str, Any]) -> str:
    pyramid = ImagePyramid(size=completed(blueprint)["size"])
    load_pyramid_weights(path, pyramid)
    return trunk_fingerprint(pyramid)
