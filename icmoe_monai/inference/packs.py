"""Expert packs: several trained sets of experts over one pass of the frozen encoder and image pyramid they share.

Each pack is an inference workflow of its own, with its weights, calibration, journal, files and report, in a folder of
its own. What they share is done once an image: reading, the encoder's trunk, the pyramid. No pack sees another, so that
adding one changes no other's output. Each workflow's evaluator runs as it would alone, with all its handlers; they take
turns, image by image, and where one asks its inferer for a prediction, it is given its part of the shared pass.

Letters: B batch; H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.inferers.inferer import Inferer
from monai.utils.enums import CommonKeys
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer, like, vote
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.utils.turns import taking_turns
from icmoe_monai.weights.sam import trunk_fingerprint

ALIKE = (
    "image_size",
    "longest_side",
    "overlap",
    "sw_batch_size",
    "pixel_mean",
    "pixel_std",
    "amp",
    "device",
    "overlays",
)
_SHARED = ("inputs", "preprocessing")
_Part: TypeAlias = Callable[[str], Any]  # gives a workflow's part by its name in the config


class ExpertPacks:
    """Several networks over the trunk and the image pyramid of the first, which all of them hold.

    Args:
        packs: The networks by name, with their weights.

    Raises:
        InputError: If their frozen parts differ, or they leave the trunk at different blocks.

    Example:
        >>> network = ICMoE().eval()
        >>> maps = ExpertPacks({"skin": network, "breast": network}).expert_maps(torch.zeros(1, 3, 32, 32))
        >>> {name: tuple(one.shape) for name, one in maps.items()}
        {'skin': (1, 6, 32, 32), 'breast': (1, 6, 32, 32)}
    """

    def __init__(self, packs: Mapping[str, ICMoE]) -> None:
        self.packs = dict(packs)
        (first, network), *others = packs.items()
        for name, other in others:
            if _shared_by(other) != _shared_by(network):
                raise InputError(
                    f"The experts {name} and {first} were trained on different encoders or image pyramids, or leave "
                    "the encoder at different blocks (expert_depth), so one pass does not serve both: run them apart."
                )

    def expert_maps(self, image: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return what each pack's `expert_maps` returns.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.
            names: Of which packs; None: all.
        """
        shared = next(iter(self.packs.values()))
        tokens, levels = shared.trunk(image), shared.detail(image)
        wanted = self.packs if names is None else names
        return {name: self.packs[name].maps_of(tokens, levels) for name in wanted}


def _shared_by(network: ICMoE) -> tuple[str, str, int]:
    return trunk_fingerprint(network.encoder), trunk_fingerprint(network.detail), network.split


def run_packs(flows: Mapping[str, ConfigWorkflow]) -> None:
    """Run inference workflows side by side; each ends with its own report, as if it were alone.

    Args:
        flows: One initialised workflow per pack, with the images and the preprocessing of the first (`shared_parts`).

    Raises:
        InputError: If the packs do not see images alike or do not share a trunk, or images failed.
    """
    parts = {name: flow.parser.get_parsed_content for name, flow in flows.items()}
    _check_alike(parts)
    for part in parts.values():
        part("checks")
    evaluators = {name: part("evaluator") for name, part in parts.items()}
    missing = {name: {case["name"] for case in part("missing")} for name, part in parts.items()}
    for name, evaluator in evaluators.items():
        evaluator.network.eval()
        evaluator.state.epoch_length = len(missing[name])  # of one image each, whatever its own dataloader's are
    first = next(iter(parts.values()))
    with taking_turns(list(evaluators.values())) as take_turn:
        network = ExpertPacks({name: evaluator.network for name, evaluator in evaluators.items()})
        for batch in _batches(first, set().union(*missing.values())):
            (case,) = batch["name"]
            names = [name for name in evaluators if case in missing[name]]
            image = batch[CommonKeys.IMAGE].to(first("device"))
            for name, prediction in _predict(image, network, names, first("inferer")).items():
                evaluators[name].inferer = _Given(prediction)
                take_turn(evaluators[name], batch)


def shared_parts(flow: ConfigWorkflow, pack: str | Path | None = None) -> dict[str, Any]:
    """Return what the other packs' workflows take from the first: the images found, and how they are read.

    Args:
        flow: The first pack's workflow.
        pack: File of another pack, which is to say nothing of these parts.

    Raises:
        InputError: If it does.
    """
    own = ConfigParser.load_config_file(str(pack)) if pack is not None else {}
    changed = sorted(key for key in own if key.split("#")[0] in _SHARED)
    if changed:
        raise InputError(
            f"{pack} sets {', '.join(changed)}, and packs that run together read images alike: run it alone."
        )
    return {name: flow.parser.get_parsed_content(name) for name in _SHARED}


def _check_alike(parts: Mapping[str, _Part]) -> None:
    (first, wanted), *others = parts.items()
    for name, part in others:
        differing = [key for key in ALIKE if part(key) != wanted(key)]
        if differing:
            raise InputError(
                f"The experts {name} and {first} do not see images alike ({', '.join(differing)} differ), so one pass "
                "does not serve both: run them apart."
            )


def _batches(part: _Part, names: Collection[str]) -> DataLoader:
    cases = [case for case in part("datalist") if case["name"] in names]
    return DataLoader(Dataset(cases, part("preprocessing")), batch_size=1, num_workers=part("num_workers"))


def _predict(
    image: Tensor, network: ExpertPacks, names: Collection[str], inferer: SlidingWindowVotingInferer
) -> dict[str, Tensor]:
    """Return what each of these packs votes on an image (1, 3, H, W), by one pass of what they share."""
    with torch.no_grad():
        maps = cast(dict, inferer.stitch(image, partial(network.expert_maps, names=names)))
        return {name: vote(maps[name], network.packs[name], with_experts=True) for name in names}


class _Given(Inferer):
    """Return the prediction that was made for several packs at once, where an evaluator asks for its own."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: object) -> Tensor:
        return like(self.prediction, inputs)
