"""Recipe of a checkpoint: what a training and every use of its weights must have in common, kept in the file itself.

A recipe is one dict of plain values: the `settings`, the network's blueprint, names and fingerprints of the files of
frozen weights, classes, training set and version. `make_recipe` makes it for a training, whose checkpoints hold it
(`weights.checkpoint`). Evaluation and inference read it as a `Recipe`: it gives the configs' settings their values
where nobody gives another, and refuses a value that contradicts it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.networks.blueprint import (
    CLASS,
    blueprint_of,
    build_network,
    called,
    completed,
    described,
    differences,
    plain,
)
from icmoe_monai.networks.folds import repeated
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.utils.distributed import is_first
from icmoe_monai.version import __version__
from icmoe_monai.weights.checkpoint import read_recipe
from icmoe_monai.weights.official import OFFICIAL_WEIGHTS, cache_folder
from icmoe_monai.weights.pyramid import is_there

AUTO, NONE = "auto", "none"
# The settings that change what the network sees or says, and whether a use may choose another value than the training.
# Where these are listed again, in configs, a test compares.
SETTINGS = {
    "voting": True,
    "best_expert": True,
    "experts": False,
    "expert_depth": False,
    "backbone": False,
    "own_from": False,
    "own_network": False,
    "decoder": False,
    "deference": False,
    "out_channels": False,
    "image_size": False,
    "longest_side": False,
    "overlap": True,
    "tta": True,
    "pixel_mean": False,
    "pixel_std": False,
    "amp": True,
}
# what a file was trained with whose recipe does not tell it, or that has none (until 0.8.0): the default is another now
EARLIER = {"backbone": "vit_t", "own_network": None, "decoder": "light", "deference": 0.0, "tta": "none"}
_SHIPPED_ENCODER = "sam_vit_t_medical.safetensors"  # the one of a size that has no official weights
# arguments of a network that its use decides, beside the settings above, which have their own check
_OF_USE = ("train_trunk",)
_LESION = {
    "label": "lesion",
    "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
    "type": ["52988006", "SCT", "Lesion"],
}


def make_recipe(
    *,
    settings: Mapping[str, Any],
    network: nn.Module,
    pretrained: str | Path | None = None,
    pyramid: str | Path | None = None,
    segments: Sequence[Mapping[str, Any]] | None = None,
    labels: Sequence[str] | None = None,
    modality: str | None = None,
    training_set: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the recipe of a training.

    Args:
        settings: The values of `SETTINGS`.
        network: The network, as it was built.
        pretrained: Name or file of the encoder's weights; of a file only its name is noted.
        pyramid: File of the image pyramid's weights, likewise.
        segments: Descriptions of the foreground classes, as inference takes them; None: they have no codes.
        labels: Names of the foreground classes, if they have no descriptions; None: they are not named.
        modality: What kind of images they are, as the user names it.
        training_set: Plain values that identify the training images.

    Returns:
        Plain values.

    Raises:
        InputError: If segments or labels are not as many as the foreground classes.
    """
    channels = int(settings["out_channels"])
    if segments is None and labels is not None:
        segments = [{"label": label} for label in labels]
    _check_count(segments, channels)
    return {
        "settings": {name: plain(settings[name]) for name in SETTINGS},
        "network": blueprint_of(network),
        "pretrained": None if pretrained is None else Path(pretrained).name,
        "pyramid": None if pyramid is None else Path(pyramid).name,
        "segments": plain(segments),
        "mask_values": [0, 255] if channels == 1 else list(range(channels)),
        "modality": modality,
        "training_set": plain(training_set),
        "version": __version__,
    }


class Recipe:
    """Hold a checkpoint's recipe, from which configs take their values; without a content, their own defaults hold.

    Args:
        content: The recipe, as `make_recipe` made it; None: there is none.
        path: The checkpoint.
        is_whole: Whether the checkpoint also holds the frozen weights.
        earlier: Values of settings that the recipe does not tell, or all if there is none, by their names.

    Attributes:
        num_folds: Number of the networks in the checkpoint, which is above 1 for an ensemble of folds.

    Example:
        >>> Recipe().setting("image_size", 256)
        256
        >>> Recipe({"settings": {"image_size": 512}}).setting("image_size", 256)
        512
    """

    def __init__(
        self,
        content: Mapping[str, Any] | None = None,
        *,
        path: str | Path = "",
        is_whole: bool = False,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        self.content = dict(content or {})
        self.path = Path(path)
        self.is_whole = is_whole
        self.num_folds: int = self.content.get("folds", 1)
        self.settings: dict[str, Any] = dict(self.content.get("settings", {}))
        self.earlier = dict(earlier or {})

    def setting(self, name: str, default: Any) -> Any:
        """Return the value of a setting, or a default where the recipe does not tell it.

        Args:
            name: One of `SETTINGS`.
            default: The value to return then.
        """
        return self.settings.get(name, self.earlier.get(name, default))

    def segments(self, out_channels: int) -> list[dict[str, Any]]:
        """Return descriptions of the foreground classes: the recipe's, or names by number; without a recipe a lesion.

        Args:
            out_channels: K.

        Example:
            >>> Recipe({"settings": {"out_channels": 3}}).segments(3)
            [{'label': 'class 1'}, {'label': 'class 2'}]
        """
        if self.content.get("segments"):
            return list(self.content["segments"])
        if out_channels == 1:
            return [{"label": "target"}] if self.content else [dict(_LESION)]
        return [{"label": f"class {k}"} for k in range(1, out_channels)]

    def labels(self, out_channels: int) -> list[str]:
        """Return the names of the foreground classes, those of `segments`.

        Args:
            out_channels: K.
        """
        return [str(segment["label"]) for segment in self.segments(out_channels)]

    def encoder(self, backbone: str | None, models: str | Path) -> str | None:
        """Return the name or file of the encoder's weights.

        Args:
            backbone: Size of the encoder, which tells them where there is no recipe: official weights, or those that
                are shipped; None: there is no encoder.
            models: Folder of the shipped weights, one of those that are searched.

        Raises:
            InputError: If they are nowhere, and the checkpoint does not hold them.

        Example:
            >>> Recipe().encoder("vit_b", "models"), Recipe().encoder(None, "models")
            ('sam_vit_b', None)
        """
        official = f"sam_{backbone}"
        default = official if official in OFFICIAL_WEIGHTS else str(Path(models) / _SHIPPED_ENCODER)
        return self._file("pretrained", "encoder", None if backbone is None else default, Path(models))

    def pyramid(self, default: str) -> str | None:
        """Return the file of the image pyramid's weights, as `encoder` does the encoder's.

        Args:
            default: The file to return where there is no recipe; its folder is one of those that are searched.

        Raises:
            InputError: If they are nowhere, and the checkpoint does not hold them.
        """
        return self._file("pyramid", "image pyramid", default, Path(default).parent)

    def _file(self, name: str, what: str, default: str | None, models: Path) -> str | None:
        source = self.content.get(name) if self.content else default
        if source is None or source == default or source in OFFICIAL_WEIGHTS:
            return source
        folders = (self.path.parent, models, cache_folder())
        places = [folder / Path(source).name for folder in folders]
        found = next((str(place) for place in places if is_there(place)), None)
        if found is None and not self.is_whole:
            raise InputError(
                f"{self.path.name} was trained on the {what} {Path(source).name}, which lies neither beside it nor in "
                f"{folders[1]}: name its file with --{name}."
            )
        return found

    def network(self, network_def: nn.Module, device: str | torch.device) -> nn.Module:
        """Return the network as it was trained: the config's, or where the config leaves it open another.

        Args:
            network_def: The network as the config defines it.
            device: Where to put it.

        Returns:
            `network_def`, where it is as the recipe says or nothing is known; else, if it is the default one but for
            the settings, a network of the recipe. For an ensemble of folds, as many of these as one.

        Raises:
            InputError: If the config defines another network than the recipe and than the default, or the recipe's is
                of a class that is not known here.
        """
        here = blueprint_of(network_def)
        trained = self.content.get("network") or here
        differing = differences(_own(trained), _own(here))
        if not differing:
            return repeated(network_def, self.num_folds).to(device)
        if differences(_own(_default()), _own(here)):
            name, (was, now) = next(iter(differing.items()))
            raise InputError(
                f"{self.path.name} was trained with {called(name)} {was}, and here it is {now}: leave that out, or "
                f"go by this config alone, --recipe {NONE}."
            )
        try:
            return repeated(build_network(_with(trained, here)), self.num_folds).to(device)
        except InputError as error:
            raise InputError(
                f"{self.path.name} was trained with a network that its recipe cannot build ({trained[CLASS]}): give "
                "the config that trained it, --config."
            ) from error

    def unlike(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the settings that a run has chosen otherwise: by name the value `trained`, and that `here`.

        Args:
            settings: The run's values of `SETTINGS`, or of some of them.
        """
        pairs = {name: (self.settings[name], plain(settings[name])) for name in self.settings if name in settings}
        return {
            name: {"trained": was, "here": now} for name, (was, now) in pairs.items() if differences(was, now, name)
        }

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that a use of the weights contradicts no setting; what may differ is logged.

        Args:
            settings: The run's values of `SETTINGS`, or of some of them.

        Raises:
            InputError: If one is contradicted; the sentence names both values.
        """
        for name, values in self.unlike(settings).items():
            said = f"{self.path.name} was trained with {name} {values['trained']}, and here it is {values['here']}"
            if not SETTINGS.get(name):
                raise InputError(
                    f"{said}: leave --{name} out, so that the checkpoint's own value is taken, or go by the settings "
                    f"of this command alone, --recipe {NONE}."
                )
            if is_first():
                logging.getLogger(__name__).info("%s.", said)


def find_recipe(checkpoint: str | Path | None, recipe: str | None = AUTO) -> Recipe:
    """Read the recipe of a checkpoint; one without a recipe is told of in a warning.

    Args:
        checkpoint: The file; if there is none, which its loader reports, there is no recipe either.
        recipe: "auto", or "none": go by the settings of the command, as if the file held no recipe.

    Raises:
        InputError: If the file cannot be read.
    """
    if recipe not in (AUTO, NONE, None):
        raise InputError(f"recipe must be {AUTO} or {NONE}, got {recipe!r}.")
    if not isinstance(checkpoint, (str, Path, type(None))):
        raise InputError(f"checkpoint was read as {checkpoint!r}: write ./NAME for a name that reads as a number.")
    if recipe != AUTO or checkpoint is None or not Path(checkpoint).is_file():
        return Recipe()
    content, is_whole = read_recipe(checkpoint)
    if content is None and is_first():
        logging.getLogger(__name__).warning(
            "%s does not say how it was trained (it was written by an earlier version, or not by this package): the "
            "settings of this command and their defaults hold.",
            Path(checkpoint).name,
        )
    return Recipe(content, path=checkpoint, is_whole=is_whole, earlier=EARLIER)


def _check_count(segments: Sequence[Any] | None, out_channels: int) -> None:
    wanted = max(out_channels, 2) - 1
    if segments is not None and (isinstance(segments, str) or len(segments) != wanted):
        raise InputError(
            f"With out_channels {out_channels}, segments or labels must be {wanted}, one for each foreground class, in "
            f"the order of their numbers, got {segments!r}."
        )


def _default() -> dict[str, Any]:
    """Return the blueprint of the network that the configs define, but for the settings."""
    return described(ICMoE, {"detail": None}) | {"detail": described(ImagePyramid, {})}


def _own(blueprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a blueprint without what the settings and the use decide."""
    return {
        name: _own(value) if isinstance(value, Mapping) else value
        for name, value in completed(blueprint).items()
        if name not in SETTINGS and name not in _OF_USE
    }


def _with(trained: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trained network's blueprint with what the settings and the use decide as it is here."""
    return {name: here.get(name, value) if name in SETTINGS or name in _OF_USE else value
            for name, value in trained.items()}  # fmt: skip
