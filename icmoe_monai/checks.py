"""The first step of every workflow: its config is checked before anything runs, every name in it and every setting.

MONAI takes any value and says nothing until something breaks, or nothing at all. Here a setting must be as `schemas`
says, whoever gives it: the command line, an overlay, the checkpoint's recipe. One that an expression of the config
gives (`$...`, `@...`) is checked by its value. What is plain is checked first, since expressions rely on it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.config_item import ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver

from icmoe_monai.errors import InputError, find_input_error, is_monai_command
from icmoe_monai.inference.anonymity import read_anonymous
from icmoe_monai.names import (
    check_command_line,
    find_kept_copy,
    find_passed_over,
    find_unknown,
    references,
    shipped,
)
from icmoe_monai.networks.blueprint import plain
from icmoe_monai.schemas import SCHEMAS
from icmoe_monai.settings import find_bundle_root, load_configs
from icmoe_monai.utils.schema import Schema, allowed, is_as, shown

_SEP = ReferenceResolver.sep


def check_config() -> None:
    """Refuse the config that is running if a name means nothing or a setting cannot work: a workflow's first step.

    MONAI does not tell a step of the config that it is part of, so it is found by the frames of the callers: those of a
    `ConfigParser`, and where it is run by a `ConfigWorkflow`, of that. Called from elsewhere, nothing is checked.

    Raises:
        InputError: If there are such names or settings.
    """
    if is_monai_command():
        check_command_line(sys.argv)
    callers = list(_callers())
    parser = next((caller for caller in callers if isinstance(caller, ConfigParser)), None)
    flow = next((caller for caller in callers if isinstance(caller, ConfigWorkflow)), None)
    if parser is None:
        return
    steps = (flow.init_id, flow.run_id, flow.final_id) if flow is not None else ()
    told = find_unknown(parser.get(), steps=steps, locator=parser.locator)
    told += [*find_passed_over(parser.get()), *find_kept_copy(parser.get())]
    if told:
        raise InputError(" ".join(told))
    check_values(parser)
    _warn_of_amp(parser)


def check_values(parser: ConfigParser) -> None:
    """Refuse a config whose settings cannot work, each in a sentence.

    Args:
        parser: The config; of an expression over what a training or validation consists of, the value is not asked for.

    Raises:
        InputError: If there are such settings.
    """
    config = parser.get()
    told = [*_find_wrong(config), *_find_replaced(config)] or list(_find_wrong_once_evaluated(parser))
    if told:
        raise InputError(" ".join(told))
    read_anonymous(config.get("anonymous", False))  # a secret has rules of its own, and is not repeated
    _check_interval(config)
    if "device" in config:
        _check_device(parser.get_parsed_content("device"))


def _callers() -> Iterator[Any]:
    """Yield the objects whose methods have led to this call, the last first."""
    frame = sys._getframe().f_back
    while frame is not None:
        yield frame.f_locals.get("self")
        frame = frame.f_back


def _places(config: Mapping[str, Any]) -> Iterator[tuple[str, Schema, Any]]:
    """Yield id, schema and value of every setting, and of every argument that stands in a setting's place."""
    for name, schema in SCHEMAS.items():
        path = name.replace("#", _SEP)
        if _is_there(config, path):
            yield path, schema, _at(config, path)
    for (path, target), setting in _arguments().items():
        is_same = _is_there(config, path) and _at(config, path.rpartition(_SEP)[0]).get("_target_") == target
        if is_same and _at(config, path) != f"@{setting}":
            yield path, SCHEMAS[setting], _at(config, path)


def _find_wrong(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for every plain value that its schema does not allow."""
    for path, schema, value in _places(config):
        if _is_plain(value):
            yield from _wrong(path, schema, value)


def _find_replaced(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for every part of the config that a plain value replaces; null takes it out."""
    for path, values in shipped().items():
        value = _at(config, path)
        given = [one for one in values if one is not None]
        is_part = any(isinstance(one, Mapping) for one in given) and not any(map(_is_plain, given))
        # a part may come built already, as workflows that share it hand it on
        is_scalar = isinstance(value, (bool, int, float, str)) and _is_plain(value)
        if path not in SCHEMAS and is_part and is_scalar:
            name = path.replace(_SEP, "#")
            yield f"{name} is a part of the config, and must be a table with its _target_, got {shown(value)}."


def _find_wrong_once_evaluated(parser: ConfigParser) -> Iterator[str]:
    """Yield a sentence for every expression whose value its schema does not allow."""
    config = parser.get()
    for path, schema, given in _places(config):
        if _is_plain(given) or _needs_data(given, config, set()):
            continue
        try:
            value = parser.get_parsed_content(path)
        except Exception as error:
            if find_input_error(error) is not None:
                raise
            yield f"{path.replace(_SEP, '#')} has no value, {shown(given)} fails: {_cause(error)}."
        else:
            yield from (f"{told[:-1]}, by {shown(given)}." for told in _wrong(path, schema, value))


def _wrong(path: str, schema: Schema, value: Any) -> Iterator[str]:
    value = str(value) if isinstance(value, torch.device) else plain(value)
    if not is_as(schema, value):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and "a path" in allowed(schema)
        remedy = f": write ./{value}" if number else ""
        yield f"{path.replace(_SEP, '#')} must be {allowed(schema)}, got {shown(value)}{remedy}."


def _check_interval(config: Mapping[str, Any]) -> None:
    most, interval = config.get("max_epochs"), config.get("val_interval")
    if isinstance(most, int) and isinstance(interval, int) and interval > most:
        raise InputError(f"val_interval must be at most max_epochs ({most}), got {interval}.")


def _check_device(device: str | torch.device) -> None:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be {allowed(SCHEMAS['device'])}, got {shown(device)}.") from error
    if not _can_compute(found):
        called = "CUDA device" if found.type == "cuda" and not torch.cuda.is_available() else str(found)
        raise InputError(f"device is {device}, but PyTorch sees no {called} here: set --device cpu.")


def _can_compute(device: torch.device) -> bool:
    """Return whether PyTorch can compute on a device."""
    if device.type == "cuda":  # where a first tensor would take memory
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    try:
        torch.zeros(1, device=device).item()
    except Exception:  # of whatever kind PyTorch says it by
        return False
    return True


def _warn_of_amp(parser: ConfigParser) -> None:
    given = {name: parser.get_parsed_content(name) for name in ("amp", "device") if name in parser}
    if given.get("amp") and torch.device(given.get("device", "cpu")).type == "cpu" and not _has_bfloat16():
        logging.getLogger(__name__).warning(
            "amp on this CPU, which has no units for bfloat16, is many times slower than without: set --amp False."
        )


def _has_bfloat16() -> bool:
    """Return whether this CPU computes in bfloat16; True where PyTorch does not say."""
    # the oldest PyTorch that is supported has no get_capabilities
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return not capabilities or any(found for name, found in capabilities.items() if "bf16" in name)


def _arguments() -> dict[tuple[str, str], str]:
    return _arguments_in(Path(find_bundle_root()) / "configs")


@cache
def _arguments_in(folder: Path) -> dict[tuple[str, str], str]:
    """Return the settings that arguments of components are, by the argument's id and the component's class.

    So `train#trainer#max_epochs`, which the configs of a folder give as `@max_epochs`, must be as `max_epochs`.
    """
    return {
        (path, target): value[1:]
        for config in load_configs(folder)
        for path, target, value in _components(config, "")
        if value[1:] in SCHEMAS
    }


def _components(node: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield the id, the component's class and the value of every argument that is a reference, below groups."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        child = ReferenceResolver.normalize_id(f"{path}{_SEP}{key}" if path else key)
        if ConfigComponent.is_instantiable(node) and isinstance(value, str) and value.startswith("@"):
            yield child, node["_target_"], value
        yield from _components(value, child)


def _at(config: Mapping[str, Any], path: str) -> Any:
    """Return the value at a place of a config, None if there is none."""
    node: Any = config
    for part in path.split(_SEP):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _is_there(config: Mapping[str, Any], path: str) -> bool:
    parent, _, name = path.rpartition(_SEP)
    node = _at(config, parent) if parent else config
    return isinstance(node, Mapping) and name in node


def _is_plain(value: Any) -> bool:
    """Return whether MONAI takes a value as it is: no component, and no expression or reference in it."""
    if isinstance(value, Mapping):
        return not ConfigComponent.is_instantiable(value) and all(map(_is_plain, value.values()))
    if type(value) in (list, tuple):  # a named tuple is an object of its own
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    return value is None or isinstance(value, (bool, int, float))


def _needs_data(value: Any, config: Mapping[str, Any], seen: set[str]) -> bool:
    """Return whether an expression rests on the data set, or on a part such as `@train#dataloader`, built for it."""
    for ref in references(value) - seen:
        seen.add(ref)
        if ref == "dataset_dir" or _SEP in ref or _needs_data(config.get(ref), config, seen):
            return True
    return False


def _cause(error: BaseException) -> str:
    """Return the kind and words of the first of a chain of exceptions."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    words = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {words[0]}".rstrip(".: ")
