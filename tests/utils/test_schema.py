"""Schemas: what they take beside the standard, and how they are told in words."""

from __future__ import annotations

import math

import pytest

from icmoe_monai.errors import InputError
from icmoe_monai.utils.schema import allowed, find_fault, is_as, read_json, shown

WHOLE, NUMBER = {"type": "integer", "minimum": 1}, {"type": "number", "minimum": 0, "maximum": 1}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (WHOLE, [1, 10**30], [0, 1.0, True, "1", None, math.nan]),
        (NUMBER, [0, 1, 0.5], [-1e-9, 1.1, math.nan, math.inf, -math.inf, False, "0.5"]),
        ({"type": "number"}, [1e308], [math.nan, math.inf]),
        ({"type": "array", "items": WHOLE}, [[1, 2], (1, 2), ()], ["12", [1.5], {1: 2}]),
    ],
    ids=["whole", "number", "finite", "list"],
)
def test_numbers_are_finite_and_whole_ones_whole_and_tuples_are_lists(schema, right, wrong):
    assert [value for value in right if not is_as(schema, value)] == []
    assert [value for value in wrong if is_as(schema, value)] == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (WHOLE, "a whole number of at least 1"),
        (NUMBER, "a number from 0 to 1"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "a number above 0 and below 1"),
        ({"type": "integer", "minimum": 16, "multipleOf": 16}, "a whole number of at least 16 and a multiple of 16"),
        ({"type": "number", "maximum": 5}, "a number of at most 5"),
        ({"enum": ["a", "b", "c"]}, "one of a, b, c"),
        ({"enum": ["a"]}, "a"),
        ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, "True or False, or text"),
        ({"type": "array", "minItems": 1, "items": WHOLE, "uniqueItems": True},
         "a list of at least one, each a whole number of at least 1, none twice"),
        ({"type": "object", "additionalProperties": NUMBER}, "a table of a number from 0 to 1"),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"enum": [4, 8]}},
         "a table of one of 4, 8 by the names a, b"),
        ({"type": "string", "description": "a path"}, "a path"),
    ],
)  # fmt: skip
def test_a_schema_in_words(schema, words):
    assert allowed(schema) == words


def test_the_first_fault_of_a_file_is_told_with_its_place():
    schema = {"type": "object", "required": ["a", "b"], "properties": {"a": {"type": "array", "items": NUMBER}}}
    assert find_fault(schema, {"a": [0.5, math.nan], "b": 1}) == "a#1 must be a number from 0 to 1, got nan"
    assert find_fault(schema, {"a": []}) == "it has no b"
    assert find_fault(schema, []) == "it must be a table, got []"
    assert find_fault(schema, {"a": [1], "b": None}) is None


def test_a_long_value_is_cut():
    assert len(shown("x" * 1000)) < 100


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("{", "line 1, column 2"),
        (b"\xff\xfe[", "no JSON"),
        (b"\xc3(", "not text in UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "no JSON"),  # more digits than Python reads
    ],
    ids=["nan", "infinity", "cut", "utf16", "bytes", "deep", "digits"],
)
def test_what_json_is_not_is_one_sentence(text, reason):
    with pytest.raises(InputError, match=reason) as raised:
        read_json(text, "c.json")
    assert str(raised.value).startswith("c.json is ")
