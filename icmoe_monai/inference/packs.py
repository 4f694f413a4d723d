"""Expert packs: several trained sets of experts over one pass of the frozen encoder and image pyramid they share.

Each pack is an inference workflow of its own, with its weights, calibration, journal, files and report, in a folder of
its own. The shared steps run once per image: reading, the encoder's trunk, the pyramid. No pack uses another's
results, so that adding a pack changes no other's output. Each workflow's evaluator runs as it would alone, with all its
handlers; the evaluators take turns, image by image, and the inferer of each returns its pack's part of the shared pass.

Letters: B batch; H W image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
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
from icmoe_monai.inference.choice import PackChoice, tell_choice
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer, like, maps_of, vote, with_features
from icmoe_monai.networks.folds import first_fold
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pooling import PooledWindows
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
    """Run several networks over one pass of the trunk and the image pyramid, which are the same in all of them.

    Args:
        packs: The networks by name, with their weights.

    Attributes:
        shared: The network that sees images for all.

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
        # its levels serve the others too
        self.shared = max(self.packs.values(), key=lambda network: network.needs_image)
        (first, network), *others = packs.items()
        for name, other in others:
            if _shared_by(other) != _shared_by(network):
                raise InputError(
                    f"The experts {name} and {first} were trained on different encoders or image pyramids, or leave "
                    "the encoder at different blocks (expert_depth), so one pass does not serve both: run them apart."
                )

    def expert_maps(self, image: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return each pack's expert maps by its name, as `ICMoE.expert_maps` returns them.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.
            names: Names of the packs to run; None for all.
        """
        return self.maps_of(self.shared.trunk(image), self.shared.levels(image), names)

    def maps_of(self, tokens: Tensor, levels: list[Tensor], names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the result of `expert_maps` from tokens and levels, as of `shared`."""
        return {name: self.packs[name].maps_of(tokens, levels) for name in (self.packs if names is None else names)}


def _shared_by(network: ICMoE) -> tuple[str, str, int]:
    network = first_fold(network)
    return trunk_fingerprint(network.encoder), trunk_fingerprint(network.detail), network.split


def run_packs(flows: Mapping[str, ConfigWorkflow], *, choose_into: Path | None = None) -> None:
    """Run inference workflows side by side; each ends with its own report, as if it were alone.

    Args:
        flows: One initialised workflow per pack, with the images and the preprocessing of the first (`shared_parts`).
        choose_into: Folder of all results, where each image goes to the pack that knows it, if there is one, and a list
            says to which (`PackChoice`); a pack that has no images, neither now nor from an earlier run, does not run.
            None: each image goes to all packs.

    Raises:
        InputError: If the packs' settings for images (`ALIKE`) or their frozen parts differ, or images failed.
    """
    parts: dict[str, _Part] = {name: flow.parser.get_parsed_content for name, flow in flows.items()}
    _check_alike(parts)
    for part in parts.values():
        part("checks")
    missing = {name: {case["name"] for case in part("missing")} for name, part in parts.items()}
    if choose_into is not None:
        chosen = _choose(parts, set().union(*missing.values()), choose_into)
        missing = {name: {case for case in of if chosen[case]["experts"] == name} for name, of in missing.items()}
        parts = _concerned(parts, missing)
        if not parts:
            return
    evaluators = {name: part("evaluator") for name, part in parts.items()}
    for name, evaluator in evaluators.items():
        evaluator.network.eval()
        evaluator.state.epoch_length = len(missing[name])  # batches of one image, whatever the workflow's batch size
    first, wanted = next(iter(parts.values())), set().union(*(missing[name] for name in parts))
    with taking_turns(list(evaluators.values())) as take_turn:
        network = ExpertPacks({name: evaluator.network for name, evaluator in evaluators.items()})
        for batch in _batches(first, wanted):
            (case,) = batch["name"]
            names = [name for name in evaluators if case in missing[name]]
            image = batch[CommonKeys.IMAGE].to(first("device"))
            for name, prediction in _predict(image, network, names, first("inferer")).items():
                evaluators[name].inferer = _Given(*prediction)
                take_turn(evaluators[name], batch)


def _choose(parts: Mapping[str, _Part], names: Collection[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Choose a pack for each of the named images by the frozen parts of the first, and tell it."""
    first = next(iter(parts.values()))
    choice = PackChoice({name: part("calibrated") for name, part in parts.items()})
    network = first("network").eval()
    for step in ("load_frozen", "load_trained"):
        first(step)(None)
    batches = _batches(first, names) if names else ()
    chosen = choice.choose(first("datalist"), batches, network, first("inferer"), first("device"))
    tell_choice(chosen, folder)
    return chosen


def _concerned(parts: Mapping[str, _Part], missing: Mapping[str, Collection[str]]) -> dict[str, _Part]:
    """Return the packs that have images, now or from an earlier run, whose report, volumes and sending go on.

    Files that failed before they were looked at are told by each of these; if there are none, by the first pack.
    """
    found = {name: part for name, part in parts.items() if missing[name] or part("journal").path.is_file()}
    if found or not any(case.get("failure") for case in next(iter(parts.values()))("datalist")):
        return found
    return dict(list(parts.items())[:1])


def shared_parts(flow: ConfigWorkflow, pack: str | Path | None = None) -> dict[str, Any]:
    """Return the parts that other packs' workflows take from the first: the images found, and their preprocessing.

    Args:
        flow: The first pack's workflow.
        pack: Config file of another pack, which must not set the shared parts; None for no check.

    Raises:
        InputError: If `pack` sets one of the shared parts.
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
                f"The experts {name} and {first} do not see images alike ({_told(differing, part, wanted)}), so one "
                "pass does not serve both: run them apart."
            )


def _told(differing: Iterable[str], part: _Part, wanted: _Part) -> str:
    return ", ".join(f"{name} {part(name)} and {wanted(name)}" for name in differing)


def _batches(part: _Part, names: Collection[str]) -> DataLoader:
    cases = [case for case in part("datalist") if case["name"] in names]
    return DataLoader(Dataset(cases, part("preprocessing")), batch_size=1, num_workers=part("num_workers"))


def _predict(
    image: Tensor, network: ExpertPacks, names: Collection[str], inferer: SlidingWindowVotingInferer
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return each named pack's voted maps of an image (1, 3, H, W), and its features; the shared parts run once."""
    frame = inferer.frame(image.shape[-2:])
    seen = inferer.runtime.seen(network.shared, network.packs)  # of all packs, whatever names
    pooled = PooledWindows(network.shared, frame, partial(network.maps_of, names=names), seen)
    expert_maps = partial(network.expert_maps, names=names) if seen is None else maps_of(seen)
    with torch.no_grad():
        maps = cast(dict, inferer.stitch(image, expert_maps, first=pooled))
        features = pooled.features(len(image))
        return {name: (vote(maps[name], network.packs[name], with_experts=True), features) for name in names}


class _Given(Inferer):
    """Return a given prediction, one pack's part of the shared pass, in place of running the network."""

    def __init__(self, prediction: Tensor, features: Tensor | None) -> None:
        super().__init__()
        self.prediction, self.features = prediction, features

    def __call__(self, inputs: Tensor, network: Callable, *args: object, **kwargs: object) -> Tensor:
        return with_features(like(self.prediction, inputs), self.features)
