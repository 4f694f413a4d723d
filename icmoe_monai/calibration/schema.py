"""What a calibration file holds, as a JSON Schema with the range of every number that is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icmoe_monai.calibration.appearance import APPEARANCE, find_weights_damage
from icmoe_monai.calibration.ood import find_prototypes_damage
from icmoe_monai.data.splits import OUT_OF_FOLD
from icmoe_monai.transforms.vote_features import NAMES
from icmoe_monai.utils.schema import Schema, find_fault

FORMAT = "icmoe_monai calibration 1"
SPLITS = ("val", OUT_OF_FOLD)  # whose images no network was trained on that segments them


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _table(parts: Mapping[str, Schema], *, further: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of a table that must have some parts, and may have others."""
    return {"type": "object", "required": list(parts), "properties": {**parts, **(further or {})}}


def _or_none(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


_SHARE = _number(0, 1)
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 10**9}
_DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "a SHA-256"}
_ANY = _number(-1e6, 1e6)  # far more than any fit gives
_POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6}
_WIDTH: Schema = {**_COUNT, "minimum": 1, "maximum": 10**5}
_NUMBERS: Schema = {"type": "string", "description": "numbers in base64"}


def _score(names: str) -> Schema:
    """Return the schema of a score of figures whose names match a regular expression."""
    return _table(
        {
            "features": _list({"type": "string", "pattern": names, "description": "the name of a figure of the vote"}),
            "mean": _list(_ANY),
            "scale": _list(_POSITIVE),
            "coefficients": _list(_ANY),
            "intercept": _ANY,
            "penalty": _number(0, 1e6),
        }
    )


_NO_LESION = _table(
    {"score": _score(f"^{APPEARANCE}$|{NAMES}"), "threshold": _SHARE},
    further={
        "sensitivity": _SHARE,
        APPEARANCE: _table({"num_features": _WIDTH, "weights": _NUMBERS, "bias": _number(-1e9, 1e9)}),
    },
)
_TOLD: Schema = {  # of the fit: reports show it, and nothing is computed from it
    "type": "object",
    "additionalProperties": {"anyOf": [_ANY, {"type": "string"}, {"type": "null"}, _list(_ANY)]},
}

SCHEMA = _table(
    {
        "format": {"enum": [FORMAT]},
        "model": _table({"sha256": _or_none(_DIGEST)}, further={"checkpoint": _or_none({"type": "string"})}),
        "settings": {"type": "object"},
        "data": _table(
            {
                "split": {"enum": list(SPLITS)},
                "num_images": {**_COUNT, "minimum": 1},
                "num_with_lesion": _COUNT,
                "num_lesion_free": _COUNT,
                "names_sha256": _DIGEST,
            },
            further={"mean_dice": _SHARE},
        ),
        # the fit's own bounds are exp(-4) to exp(4), and 8
        "temperature": _table(
            {"temperature": _number(0.01, 100), "disagreement": _number(-10, 10), "bias": _list(_number(-10, 10))}
        ),
        "quality": _or_none(_score(NAMES)),
        "review_below": _or_none(_SHARE),
        "control": _table(
            {
                "alpha": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                "threshold": _number(0, 0.5),
                "num_images": {**_COUNT, "minimum": 1},
                "empirical_rate": _SHARE,
                "bound": _SHARE,
            },
            further={"default_rate": _SHARE},
        ),
        "no_lesion": _or_none(_NO_LESION),
        "fit": _table(
            {}, further=dict.fromkeys(("temperature", "quality", "no_lesion", "area", "out_of_distribution"), _TOLD)
        ),
    },
    further={  # not in files of versions up to 0.8
        "area": _or_none(_table({"level": _SHARE, "spread": _number(0, 1e3), "num_images": _COUNT})),
        "out_of_distribution": _or_none(
            _table(
                {
                    "num_prototypes": {**_COUNT, "minimum": 1, "maximum": 10**4},
                    "num_features": _WIDTH,
                    "prototypes": _NUMBERS,
                    "threshold": _POSITIVE,
                    "window_threshold": _POSITIVE,
                    "quantiles": _list(_number(0, 1e6)),
                    "false_alarms": _SHARE,
                    "bound": _SHARE,
                }
            )
        ),
    },
)


def find_damage(content: Any) -> str | None:
    """Return what is wrong with the content of a calibration file, with the place, or None.

    Args:
        content: The file's content, as it was read.
    """
    fault = find_fault(SCHEMA, content)
    if fault is not None:
        return fault
    scores = {"quality": content["quality"], "no_lesion#score": (content["no_lesion"] or {}).get("score")}
    for place, score in scores.items():
        if score and len({len(score[part]) for part in ("features", "mean", "scale", "coefficients")}) > 1:
            return f"the lists of {place} are not equally long"
    known = content.get("out_of_distribution")
    damage = find_prototypes_damage(known) if known else None
    if damage is not None:
        return f"out_of_distribution#{damage}"
    damage = _find_appearance_damage(content["no_lesion"] or {}, known or {})
    if damage is not None:
        return f"no_lesion#{damage}"
    classes = content["settings"].get("out_channels", 1)
    if isinstance(classes, int) and len(content["temperature"]["bias"]) != max(classes, 2):
        return f"temperature#bias has {len(content['temperature']['bias'])} values for out_channels {classes}"
    return None


def _find_appearance_damage(no_lesion: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the stored figure of frozen features, or with its being there, or None."""
    appearance = no_lesion.get(APPEARANCE)
    if (appearance is not None) != (APPEARANCE in no_lesion.get("score", {}).get("features", ())):
        return f"score needs {APPEARANCE} if it uses it, and only then"
    if appearance is None:
        return None
    damage = find_weights_damage(appearance)
    if damage is None and known.get("num_features", appearance["num_features"]) != appearance["num_features"]:
        damage = f"num_features must be out_of_distribution's, {known['num_features']}"
    return damage and f"{APPEARANCE}#{damage}"
