"""Values that a JSON Schema describes: whether they are as it says, and in words what it allows.

Schemas are of the draft 2020-12, with three words taken more strictly or widely, as Python has it: a `number` is
finite, an `integer` is no 3.0, and an `array` may be a tuple.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError, validators

from icmoe_monai.errors import InputError, kind_of

Schema = Mapping[str, Any]

_NOUNS = {
    "array": "a list", "boolean": "True or False", "integer": "a whole number", "null": "None", "number": "a number",
    "object": "a table", "string": "text",
}  # fmt: skip
_LONGEST = 80  # letters of a value that a sentence shows


def _is_whole(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: Any, value: Any) -> bool:
    return _is_whole(checker, value) or (isinstance(value, float) and math.isfinite(value))


_TYPES = Draft202012Validator.TYPE_CHECKER.redefine_many(
    {"array": lambda checker, value: isinstance(value, (list, tuple)), "integer": _is_whole, "number": _is_number}
)
_Validator = validators.extend(Draft202012Validator, type_checker=_TYPES)


def is_as(schema: Schema, value: Any) -> bool:
    """Return whether a value is as a schema says.

    Args:
        schema: The schema.
        value: Plain values: None, numbers, texts, lists, tuples, dicts.

    Example:
        >>> [is_as({"type": "number", "maximum": 1}, value) for value in (1, 0.5, 2, True, float("nan"))]
        [True, True, False, False, False]
    """
    return _Validator(schema).is_valid(value)


def find_fault(schema: Schema, content: Any) -> str | None:
    """Return what is wrong with the content of a file, with the place, or None.

    Args:
        schema: The schema.
        content: Plain values.

    Example:
        >>> schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "minimum": 1}}}
        >>> find_fault(schema, {"a": 0}), find_fault(schema, {}), find_fault(schema, {"a": 1})
        ('a must be a whole number of at least 1, got 0', 'it has no a', None)
    """
    faults = sorted(_Validator(schema).iter_errors(content), key=lambda fault: list(map(str, fault.absolute_path)))
    return _told(_deepest(faults[0])) if faults else None


def shown(value: Any) -> str:
    """Return a value as a sentence shows it, in one line and cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def allowed(schema: Schema) -> str:
    """Return in words what a schema allows; its own `description`, if it has one.

    Example:
        >>> allowed({"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number", "minimum": 0}})
        'a list of 3, each a number of at least 0'
        >>> allowed({"anyOf": [{"enum": ["mean", "best"]}, {"type": "null"}]})
        'one of mean, best, or None'
    """
    if "description" in schema:
        return str(schema["description"])
    if "anyOf" in schema:
        return ", or ".join(allowed(one) for one in schema["anyOf"])
    if "enum" in schema:
        values = ", ".join(map(str, schema["enum"]))
        return values if len(schema["enum"]) == 1 else f"one of {values}"
    kind = schema["type"]
    if kind == "array":
        return _allowed_list(schema)
    if kind == "object" and "additionalProperties" in schema:
        names = ", ".join(schema.get("propertyNames", {}).get("enum", ()))
        return f"a table of {allowed(schema['additionalProperties'])}{f' by the names {names}' if names else ''}"
    return _NOUNS[kind] + _range(schema)


def read_json(text: str | bytes, what: str) -> Any:
    """Return what a JSON text says; numbers that JSON has not, such as NaN, are refused.

    Args:
        text: The text.
        what: What the text is, as the first words of a sentence.

    Raises:
        InputError: If it is no JSON, or too deeply nested; the sentence ends with the reason, and has no full stop.

    Example:
        >>> read_json('{"threshold": NaN}', "c.json")
        Traceback (most recent call last):
        icmoe_monai.errors.InputError: c.json is no JSON (NaN is no number of JSON's)
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is no JSON (it is not text in UTF-8)") from error
    except _NoNumberError as error:
        raise InputError(f"{what} is no JSON ({error.name} is no number of JSON's)") from None
    except ValueError as error:
        raise InputError(f"{what} is no JSON ({kind_of(error)})") from None


class _NoNumberError(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _refuse(name: str) -> None:
    raise _NoNumberError(name)


def _deepest(fault: ValidationError) -> ValidationError:
    """Return what is wrong inside a value of which a schema knows several kinds, where it is of one of them."""
    inner = [one for one in fault.context or () if one.path or one.validator == "required"]
    return _deepest(inner[0]) if fault.validator == "anyOf" and inner else fault


def _told(fault: ValidationError) -> str:
    place = "#".join(map(str, fault.absolute_path)) or "it"
    if fault.validator == "required":
        missing = next(name for name in fault.validator_value if name not in fault.instance)
        return f"{place} has no {missing}"
    schema = cast(Schema, fault.schema)  # none of ours is True or False
    return f"{place} must be {allowed(schema)}, got {shown(fault.instance)}"


def _allowed_list(schema: Schema) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    count = f" of {least}" if least == most else " of at least one" if least == 1 else ""
    items = f", each {allowed(schema['items'])}" if "items" in schema else ""
    return f"a list{count}{items}{', none twice' if schema.get('uniqueItems') else ''}"


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    ends = []
    if low is not None and high is not None:
        ends.append(f" from {low} to {high}")
    elif low is not None or high is not None:
        ends.append(f" of at least {low}" if low is not None else f" of at most {high}")
    if above is not None:
        ends.append(f" above {above}")
    if below is not None:
        ends.append(f" below {below}")
    if "multipleOf" in schema:
        ends.append(f" a multiple of {schema['multipleOf']}")
    return " and".join(ends)
