"""Blueprints: how a network was built, as plain values from which it can be built again.

A network's blueprint travels in its checkpoint (`weights.recipe`), so that whatever config trained it, the file is
enough to build it. A blueprint is data from a file of unknown origin: `build_network` makes no class but those that are
`recorded` here and MONAI's of `MONAI_NETWORKS`, and gives them plain values only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import monai.networks.nets
from torch import nn

from icmoe_monai.errors import InputError

CLASS = "class"
MONAI_NETWORKS = ("AttentionUnet", "BasicUNetPlusPlus", "SegResNet", "SwinUNETR", "UNet")

_Network = TypeVar("_Network", bound=nn.Module)
_RECORDED: dict[str, type[nn.Module]] = {}


def recorded(cls: type[_Network]) -> type[_Network]:
    """Decorate a class of networks, so that its objects know their arguments, which `blueprint_of` returns."""
    init = cls.__init__

    @functools.wraps(init)
    def record(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self) is cls:
            bound = inspect.signature(init).bind(self, *args, **kwargs)
            given = {name: value for name, value in bound.kwargs.items() if name in bound.arguments}
            setattr(self, "built_as", described(cls, given))  # noqa: B010 - an attribute that nn.Module does not type

    setattr(cls, "__init__", record)  # noqa: B010 - a method that is assigned
    _RECORDED[cls.__name__] = cls
    return cls


def described(cls: type[nn.Module], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the blueprint of a recorded class with given arguments, and its defaults for the others."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
    return {CLASS: cls.__name__, **{name: plain(value) for name, value in {**defaults, **given}.items()}}


def blueprint_of(network: nn.Module) -> dict[str, Any]:
    """Return how a network was built, as plain values; of a network that is not recorded, only the name of its class.

    Args:
        network: Any network.

    Example:
        >>> from icmoe_monai.networks import ICMoE, NoDetail
        >>> found = blueprint_of(ICMoE(detail=NoDetail(), expert_depth=1))
        >>> found["class"], found["expert_depth"], found["detail"]
        ('ICMoE', 1, {'class': 'NoDetail'})
    """
    cls = type(network)
    return dict(getattr(network, "built_as", {CLASS: f"{cls.__module__}.{cls.__qualname__}"}))


def completed(blueprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a blueprint with the defaults of today's class for arguments that it does not state."""
    cls = _RECORDED.get(str(blueprint.get(CLASS)))
    return dict(blueprint) if cls is None else described(cls, {}) | dict(blueprint)


def build_network(blueprint: Mapping[str, Any]) -> nn.Module:
    """Build a network of a blueprint, with new weights.

    Args:
        blueprint: Under `class` the name of a recorded class or of `MONAI_NETWORKS`; further, its arguments as plain
            values, in which a network is a blueprint.

    Raises:
        InputError: If the class is none of these, or does not take the arguments.

    Example:
        >>> type(build_network({"class": "Baseline", "out_channels": 1, "network": {
        ...     "class": "UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 1, "channels": [8, 16],
        ...     "strides": [2]}}).network).__name__
        'UNet'
    """
    name = str(blueprint.get(CLASS))
    is_monai = name in MONAI_NETWORKS
    cls: Any = getattr(monai.networks.nets, name) if is_monai else _RECORDED.get(name)
    if cls is None:
        known = ", ".join([*_RECORDED, *MONAI_NETWORKS])
        raise InputError(f"A network of the class {name} is not built from a blueprint, which knows {known}.")
    arguments = {key: _built(value) for key, value in blueprint.items() if key != CLASS}
    try:
        network: nn.Module = cls(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # as PyTorch and MONAI say what they cannot build
        raise InputError(f"A blueprint of {name} does not fit this version of it: {error}.") from error
    if is_monai:
        setattr(network, "built_as", {key: plain(value) for key, value in blueprint.items()})  # noqa: B010
    return network


def differences(was: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Compare blueprints, or other plain values; an empty mapping and None both say that there is nothing.

    Args:
        was: One.
        now: The other.
        name: What both are called; empty for a whole blueprint.

    Returns:
        Pairs of differing values by their names, those within mappings behind a "#"; of two classes only their names.

    Example:
        >>> differences({"class": "ICMoE", "rank": 4}, {"class": "ICMoE", "rank": 8})
        {'rank': (4, 8)}
        >>> differences({"own_network": None}, {"own_network": {}})
        {}
    """
    was, now = (None if each == {} else each for each in (was, now))
    if not isinstance(was, Mapping) or not isinstance(now, Mapping):
        return {} if was == now else {name: (was, now)}
    if was.get(CLASS) != now.get(CLASS):
        return {name: (was.get(CLASS), now.get(CLASS))}
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**was, **now}:
        found |= differences(was.get(key), now.get(key), f"{name}#{key}" if name else key)
    return found


def called(name: str) -> str:
    """Return what a config calls a part of its network."""
    return f"network_def#{name}" if name else "network_def"


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        if CLASS in value:
            return build_network(value)
        return {key: _built(part) for key, part in value.items()}
    return [_built(part) for part in value] if isinstance(value, (list, tuple)) else value


def plain(value: Any) -> Any:
    """Return a value as plain ones: a network as its blueprint, a tuple as a list, a path as text."""
    if isinstance(value, nn.Module):
        return blueprint_of(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(part) for part in value]
    return value
