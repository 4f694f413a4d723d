"""Names in a config: a workflow refuses those that mean nothing, with the nearest name that there is.

MONAI takes any name from the command line and from overlays, and says nothing where nobody reads it: `--max_epoch 3`
would train for 60 epochs. Here a name means something if another place of the config refers to it (`@name`), if a
config of the bundle has it, or if MONAI itself reads it; below a component, if its class or function takes it as an
argument. So an overlay may bring names of its own, as long as it uses them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser, scripts
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from icmoe_monai.errors import InputError
from icmoe_monai.settings import find_bundle_root, load_configs

_SEP = ReferenceResolver.sep
_SYNTAX = ("$", "@", "%")
_MLFLOW: Any = DEFAULT_EXP_MGMT_SETTINGS["mlflow"]
_TRACKING = _MLFLOW["configs"].keys() - _MLFLOW["handlers_id"].keys()  # such as experiment_name
_OF_MONAI = {ConfigParser.meta_key, "imports", "initialize", "run", "finalize"} | _TRACKING


def literal(text: str) -> str:
    r"""Return what a config evaluates to a text, whatever the text holds.

    MONAI reads "#" in any text as "::", and text that begins with "$", "@" or "%" as code or a reference.

    Args:
        text: The text.

    Example:
        >>> literal("runs/best.pt"), literal("runs/#7/best.pt")
        ('runs/best.pt', "$'runs/\\x237/best.pt'")
    """
    if "#" not in text and "::" not in text and not text.startswith(_SYNTAX):
        return text
    quoted = repr(text)
    for sign in "#@%":
        quoted = quoted.replace(sign, f"\\x{ord(sign):02x}")
    return f"${quoted}"


def plain(value: Any) -> Any:
    """Return the value of an override so that a "#" in it stays one; code and references stay what they are.

    Args:
        value: The value as the command line gives it.
    """
    is_text = isinstance(value, str) and not value.startswith(_SYNTAX)
    return literal(value) if is_text else value


def check_command_line(words: Sequence[str]) -> None:
    """Refuse words of MONAI's command line in whose values it reads "#" as "::", for they would name other files.

    Args:
        words: Words of the command line, `--NAME VALUE` or `--NAME=VALUE`.

    Raises:
        InputError: If there is such a word.
    """
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        value = value if equals else following
        is_plain = not value.startswith((*_SYNTAX, "-", "[", "{"))
        if name.startswith("--") and "#" in value and is_plain:
            raise InputError(
                f"MONAI's command line reads # as ::, so {name} {value} would mean something else: rename it, or use "
                "`icmoe`, which takes it as it is."
            )


def check_overrides(config: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Refuse overrides whose names a config neither has nor refers to.

    Whether a component takes a new argument is left to `checks.check_config`.

    Args:
        config: The config without the overrides.
        overrides: Their names, as in `train#trainer#max_epochs`.

    Raises:
        InputError: If there are such names.

    Example:
        >>> check_overrides({"max_epochs": 60, "run": ["$print(@max_epochs)"]}, ["max_epoch"])
        Traceback (most recent call last):
        icmoe_monai.errors.InputError: No setting is called max_epoch: did you mean max_epochs?
    """
    refs = references(config)
    told = [sentence for name in overrides for sentence in _find_gap(config, name, refs)]
    if told:
        raise InputError(" ".join(told))


def find_unknown(
    config: Mapping[str, Any], *, steps: Collection[str] = (), locator: ComponentLocator | None = None
) -> list[str]:
    """Return a sentence for every name of a config that means nothing.

    Args:
        config: The whole config, its overlays and overrides included.
        steps: Names that are run, to which nothing need refer.
        locator: MONAI's index of the names of components; None makes one, which takes a second.

    Example:
        >>> find_unknown({"seed": 0, "sead": 1, "run": ["$print(@seed)"]})
        ['No setting is called sead, and nothing refers to @sead: did you mean seed?']
    """
    refs = references(config)
    told = [*_find_unread(config, refs, steps), *_find_abbreviated(config), *_find_in_groups(config, "", refs)]
    return told + list(_find_arguments(config, "", ComponentLocator() if locator is None else locator))


def shipped() -> dict[str, list[Any]]:
    """Return the values that the bundle's configs give to each name, below groups of names too, as `train::dataset`."""
    return _values_in(Path(find_bundle_root()) / "configs")


def references(node: Any) -> set[str]:
    """Return the names that a config, or a node of it, refers to."""
    found: set[str] = set()
    for text in _texts(node):
        found.update(ReferenceResolver.match_refs_pattern(text))
        if text.startswith("%"):
            found.add(ReferenceResolver.normalize_id(text[1:]))
    return found


def find_passed_over(config: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every setting that was given as None, which MONAI's command passes over in silence.

    Args:
        config: The config that is running.
    """
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code is not scripts.run.__code__:
        frame = frame.f_back
    given = frame.f_locals["override"] if frame.f_code is scripts.run.__code__ else {}
    return [
        f"MONAI passes over --{name} None, so that {name} would stay as it is: leave it out, or name a value."
        for name, value in given.items()
        if value is None and config.get(name) is not None
    ]


def find_kept_copy(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence if MONAI's tracking keeps a copy of the settings of an anonymous run, its salt among them.

    Args:
        config: The config that is running.
    """
    is_anonymous = str(config.get("anonymous", False)).lower() not in ("false", "none", "")
    if is_anonymous and config.get("save_execute_config"):
        yield (
            "--tracking keeps a copy of all settings, with the path of the images and a salt, and this run is "
            "anonymous: add --save_execute_config False, and delete the config_*.json that MONAI has just written to "
            "output_dir."
        )


def _find_gap(config: Mapping[str, Any], name: str, refs: Collection[str]) -> Iterator[str]:
    """Yield a sentence if a part of an override's name is missing in the config."""
    node: Any = config
    parts = ReferenceResolver.split_id(name)
    for depth, part in enumerate(parts):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        if isinstance(node, Mapping) and part in node:
            node = node[part]
            continue
        may_be_new = depth == len(parts) - 1 and isinstance(node, Mapping)
        has_meaning = ConfigComponent.is_instantiable(node) or name in _OF_MONAI or _is_used(_SEP.join(parts), refs)
        if not (may_be_new and has_meaning):
            yield _has_no(_SEP.join(parts[:depth]), part, node)
        return


def _find_unread(config: Mapping[str, Any], refs: Collection[str], steps: Collection[str]) -> Iterator[str]:
    """Yield a sentence for every name at the top that nobody reads."""
    known = shipped()
    for name, value in config.items():
        is_read = name in _OF_MONAI or name in steps or _is_used(name, refs) or name in known
        if not is_read and not _are_steps(value) and not _is_copied(name, config):
            yield f"No setting is called {name}, and nothing refers to @{name}{_nearest(name, _settings_of(config))}"


def _find_abbreviated(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for every part, such as `dataset`, that a plain value replaces, meant for `dataset_dir`.

    Other parts may be replaced by a plain value, as the path that is the `bundle_root`.
    """
    known, settings = shipped(), _settings_of(config)
    for name, value in config.items():
        longer = [other for other in settings if other.startswith(f"{name}_")]
        found = [one for one in known.get(name, []) if one is not None]
        if longer and found and all(_is_part(one) for one in found) and _is_plain(value):
            yield f"{name} is a part of the config and no setting, got {value!r}: did you mean {longer[0]}?"


def _find_in_groups(node: Mapping[str, Any], path: str, refs: Collection[str]) -> Iterator[str]:
    """Yield a sentence for every name that nobody reads in a group of names, such as `train`."""
    for key, value in node.items():
        child = f"{path}{_SEP}{key}" if path else key
        if path and not _is_used(child, refs) and child not in shipped():
            yield _has_no(path, key, node)
        elif _is_group(value) and child != ConfigParser.meta_key and not _is_whole(child, refs):
            yield from _find_in_groups(value, child, refs)


def _find_arguments(node: Any, path: str, locator: ComponentLocator) -> Iterator[str]:
    """Yield a sentence for every argument that a component does not take, for all components below a path."""
    if ConfigComponent.is_instantiable(node):
        target = ConfigComponent(node, locator=locator).resolve_module_name()
        if "_disabled_" not in node and _is_nowhere(target):
            yield f"{path.replace(_SEP, '#')} names no class or function that is there, {target}: correct its _target_."
        taken = None if node.get("_disabled_") is True else _arguments_of(target)
        for name in node:
            if taken is not None and name not in taken and name not in ConfigComponent.non_arg_keys:
                yield f"{path.replace(_SEP, '#')} takes no {name}{_nearest(name, taken)}"
    for key, value in _items(node):
        if key != ConfigParser.meta_key:
            yield from _find_arguments(value, f"{path}{_SEP}{key}" if path else str(key), locator)


@cache
def _is_nowhere(target: Any) -> bool:
    """Return whether a target is no name of a class or function; what fails as it is imported, MONAI tells better."""
    try:
        return isinstance(target, str) and not target.startswith(_SYNTAX) and locate(target) is None
    except Exception:
        return False


@cache
def _arguments_of(target: Any) -> tuple[str, ...] | None:
    """Return the names of the arguments that a class or function takes, or None if it takes any or is not found."""
    try:
        found = locate(target) if isinstance(target, str) else target
        parameters = inspect.signature(found).parameters.values()  # type: ignore[arg-type]
    except Exception:  # whatever is wrong with the target, MONAI tells when it builds the component
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters)


@cache
def _values_in(folder: Path) -> dict[str, list[Any]]:
    """Return the values that the configs in a folder give to each name, below groups of names too."""
    found: dict[str, list[Any]] = {}
    for config in load_configs(folder):
        _note(config, "", found)
    return found


def _note(node: Mapping[str, Any], path: str, found: dict[str, list[Any]]) -> None:
    for key, value in node.items():
        name = ReferenceResolver.normalize_id(f"{path}{_SEP}{key}" if path else key)
        found.setdefault(name, []).append(value)
        if _is_group(value):
            _note(value, name, found)


def _texts(node: Any) -> Iterator[str]:
    return (one for one in _below(node) if isinstance(one, str))


def _is_used(name: str, refs: Collection[str]) -> bool:
    """Return whether a name is referred to, or a name below it, or one above it."""
    return _is_whole(name, refs) or any(ref.startswith(f"{name}{_SEP}") for ref in refs)


def _is_whole(name: str, refs: Collection[str]) -> bool:
    """Return whether a name is referred to, or one above it."""
    parts = name.split(_SEP)
    return any(_SEP.join(parts[:depth]) in refs for depth in range(1, len(parts) + 1))


def _are_steps(value: Any) -> bool:
    """Return whether a value is a list of steps, which a `run_id` may name."""
    return isinstance(value, list) and any(_is_part(one) or str(one).startswith("$") for one in value)


def _is_copied(name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a part of a config stands elsewhere too: MONAI has replaced `%name` by copies already."""
    part = config[name]
    rest = [value for key, value in config.items() if key != name]
    return _is_part(part) and any(part == other for other in _below(rest))


def _below(node: Any) -> Iterator[Any]:
    """Yield a node of a config and all nodes below it."""
    yield node
    for _, value in _items(node):
        yield from _below(value)


def _items(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        return node.items()
    return enumerate(node) if isinstance(node, list) else ()


def _is_group(value: Any) -> bool:
    """Return whether a value is a table of names, and no component with its arguments."""
    return isinstance(value, Mapping) and not ConfigComponent.is_instantiable(value)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(_is_part(one) for one in value))


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, or a text without a meaning for MONAI."""
    return isinstance(value, (int, float)) or (isinstance(value, str) and not value.startswith(("$", "@", "%")))


def _settings_of(config: Mapping[str, Any]) -> list[str]:
    """Return the settings of a config that the bundle knows, or all if it knows none."""
    known = shipped()
    names = [name for name, value in config.items() if not _is_part(value)]
    return [name for name in names if name in known] or names


def _has_no(path: str, name: str, node: Any) -> str:
    """Return a sentence on a name that is missing below a path, or at the top where the path is empty."""
    if not path:
        return f"No setting is called {name}{_nearest(name, _settings_of(node))}"
    names = node if isinstance(node, Mapping) else ()
    return f"{path.replace(_SEP, '#')} has no {name}{_nearest(name, names)}"


def _nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of a sentence: the nearest other name, or where the names are listed."""
    others = [other for other in names if other != name]
    found = [other for other in others if other.startswith(name)] or get_close_matches(name, others, n=1)
    return f": did you mean {found[0]}?" if found else "; docs/settings.md lists the settings."
