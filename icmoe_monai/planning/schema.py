"""What a plan.json holds, as a JSON Schema."""

from __future__ import annotations

from typing import Any

FORMAT, VERSION = "icmoe plan", 1

_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_AMOUNT: dict[str, Any] = {"type": "number", "minimum": 0}
_RANGE: dict[str, Any] = {
    "anyOf": [
        {"type": "null"},
        {
            "type": "object",
            "required": ["min", "median", "max"],
            "properties": {name: {"type": "number"} for name in ("min", "median", "max")},
        },
    ]
}
_COUNTS: dict[str, Any] = {"type": "object", "additionalProperties": _COUNT}


def _table(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


_COUNTED = (
    "num_images", "num_groups", "num_grey", "num_with_spacing", "num_cut_white", "num_masks", "num_empty_masks",
)  # fmt: skip
_RANGED = ("height", "width", "spacing_mm", "low", "high", "mean", "targets_of_image", "target_diameter")
_FACTS = _table(
    dict.fromkeys(_COUNTED, _COUNT)
    | dict.fromkeys(_RANGED, _RANGE)
    | dict.fromkeys(("splits", "files", "modes"), _COUNTS)
    | {
        "class_shares": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        "target_thickness": {"anyOf": [{"type": "null"}, _AMOUNT]},
    }
)
_FINDING = _table({"sentence": _TEXT, "files": {"type": "array", "items": _TEXT}})
_FAULT = _table({
    "kind": _TEXT, "level": {"enum": ["fault", "note"]}, "title": _TEXT, "remedy": _TEXT,
    "findings": {"type": "array", "minItems": 1, "items": _FINDING},
})  # fmt: skip
_CHOICE = _table({"title": _TEXT, "settings": {"type": "object"}, "reason": _TEXT})
_TIMES = _table(
    dict.fromkeys(
        ("step", "pass_start", "validated_image", "prepared_image", "preparation", "epoch", "training"), _AMOUNT
    )
    | dict.fromkeys(("num_steps", "steps_of_epoch"), _COUNT)
    | {name: {"anyOf": [{"type": "null"}, _AMOUNT]} for name in ("peak_bytes", "predicted_image")}
)
PLAN = _table({
    "format": {"enum": [FORMAT]}, "version": {"enum": [VERSION]}, "created_by": _TEXT, "facts": _FACTS,
    "faults": {"type": "array", "items": _FAULT}, "choices": {"type": "array", "items": _CHOICE},
    "settings": {"type": "object"}, "folds": _table({"number": {"type": "integer", "minimum": 1}, "reason": _TEXT}),
    "commands": {"type": "array", "items": _TEXT},
    "machine": _table({"memory": _AMOUNT, "num_cores": _COUNT, "is_gpu": {"type": "boolean"}}),
    "times": {"anyOf": [{"type": "null"}, _TIMES]},
})  # fmt: skip
