"""What each setting may be: a JSON Schema by the setting's name, for all workflows together.

`checks` holds every config against this table, and a test the pages of docs/. A name with "#" is an argument of a part
of a config.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from icmoe_monai.analysis.ambiguity import LOOKS
from icmoe_monai.analysis.shifts import SHIFTS
from icmoe_monai.data.splits import OUT_OF_FOLD, SHARES
from icmoe_monai.evaluation.protocols import OFFICIAL
from icmoe_monai.inference.anonymity import MIN_SALT
from icmoe_monai.inference.segmentations import DICOM_SEG
from icmoe_monai.inferers.runtimes import RUNTIMES
from icmoe_monai.inferers.views import TTA
from icmoe_monai.networks.decoder import DECODERS
from icmoe_monai.networks.icmoe import EXPERTS
from icmoe_monai.networks.pyramid import SIZES, STRIDES
from icmoe_monai.networks.sam import BACKBONES, PATCH_SIZE
from icmoe_monai.networks.voting import STRATEGIES
from icmoe_monai.slides.background import BLACK
from icmoe_monai.suggestion.suggestion import ORDERS
from icmoe_monai.training.feature_cache import DTYPES
from icmoe_monai.utils.schema import Schema
from icmoe_monai.weights.schema import MOST_FOLDS

_MOST_PROCESSES = 256
_LARGEST_SIDE = 2**16  # pixels
_LARGEST_SEED = 2**32 - 1  # NumPy's


def _whole(least: int, most: int | None = None, **further: int) -> Schema:
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most}) | further


def _one_of(values: Iterable[Any]) -> Schema:
    return {"enum": list(values)}


def _or_none(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list_of(items: Schema, *, num: int | None = None) -> Schema:
    count = {"minItems": 1} if num is None else {"minItems": num, "maxItems": num}
    return {"type": "array", "items": items} | count


def _by_expert(values: Iterable[Any]) -> Schema:
    return _or_none({"type": "object", "propertyNames": _one_of(EXPERTS), "additionalProperties": _one_of(values)})


_SWITCH: Schema = {"type": "boolean"}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_OPEN_SHARE: Schema = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_WEIGHT: Schema = {"type": "number", "minimum": 0}
_RATE: Schema = {"type": "number", "exclusiveMinimum": 0}
_TEXT: Schema = {"type": "string", "minLength": 1}
_PATH: Schema = {**_TEXT, "description": "a path"}
_NAME_OR_PATH: Schema = {**_TEXT, "description": "a name or a path"}
_CODE = _list_of(_TEXT, num=3)
_SEGMENTS: Schema = {
    **_list_of(
        {
            "type": "object",
            "required": ["label"],
            "properties": {
                "label": {**_TEXT, "maxLength": 64},
                **{name: {"anyOf": [_CODE, {"type": "array", "maxItems": 0}]} for name in ("category", "type")},
                "anatomy": _or_none(_CODE),
            },
        }
    ),
    "description": "a list of tables, each with a label, and perhaps category, type and anatomy, lists of three texts",
}

SCHEMAS: dict[str, Schema] = {
    # images and files
    "bundle_root": _PATH,
    "output_root": _PATH,
    "dataset_dir": _or_none(_PATH),
    "output_dir": _or_none(_PATH),  # none: a predictor writes nothing
    "demo_dir": _or_none(_PATH),
    "checkpoint": _or_none(_PATH),
    "num_workers": _whole(0, _MOST_PROCESSES),
    "device": {**_TEXT, "description": "a device of PyTorch's, such as cpu or cuda:0"},
    "amp": _SWITCH,
    "runtime": _one_of(RUNTIMES),
    "seed": _whole(0, _LARGEST_SEED),
    "is_first": _SWITCH,
    "on_terminal": _SWITCH,
    # network and window
    "image_size": _whole(PATCH_SIZE, _LARGEST_SIDE, multipleOf=PATCH_SIZE),
    "longest_side": _whole(PATCH_SIZE, _LARGEST_SIDE),
    "overlap": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "tta": _one_of(TTA),
    "sw_batch_size": _whole(1),
    "out_channels": _whole(1, 256),
    "backbone": _or_none(_one_of(BACKBONES)),
    "own_from": _by_expert(STRIDES[1:]),
    "own_network": _by_expert(SIZES),
    "decoder": _one_of(DECODERS),
    "deference": _WEIGHT,
    "pretrained": _or_none(_NAME_OR_PATH),
    "pyramid": _or_none(_PATH),
    "pixel_mean": _list_of({"type": "number", "minimum": 0, "maximum": 255}, num=3),
    "pixel_std": _list_of(_RATE, num=3),
    "experts": {**_list_of(_one_of(EXPERTS)), "uniqueItems": True},
    "expert_depth": _whole(1, max(size["depth"] for size in BACKBONES.values())),
    "voting": _one_of(STRATEGIES),
    "best_expert": _whole(0, len(EXPERTS) - 1),
    "recipe": _one_of(("auto", "none")),
    # training
    "max_epochs": _whole(1),
    "min_steps": _whole(1),
    "epoch_length": _whole(1),
    "total_steps": _whole(1),
    "batch_size": _whole(1),
    "learning_rate": _RATE,
    "hear_vote": _SWITCH,
    "expert_weight": _WEIGHT,
    "mutual_weight": _WEIGHT,
    "weigh_pixels": _SWITCH,
    "pretrained_share": _RATE,
    "warmup_share": _SHARE,
    "weight_decay": _WEIGHT,
    "val_interval": _whole(1),
    "patience": _whole(1),
    "split_seed": _whole(0, _LARGEST_SEED),
    "folds": _or_none(_whole(2, MOST_FOLDS)),
    "fold": _or_none(_whole(1, MOST_FOLDS)),
    "cache_rate": _SHARE,
    "val_cache_rate": _SHARE,
    "cache_features": _SWITCH,
    "features_dir": _PATH,
    "features_dtype": _one_of(DTYPES),
    "num_views": _whole(1),
    "labels": _or_none(_list_of(_TEXT)),
    "segments": _or_none(_SEGMENTS),
    "modality": _or_none(_TEXT),
    # evaluation
    "num_folds": _whole(1, MOST_FOLDS),
    "split": _one_of(("train", *SHARES, OUT_OF_FOLD)),
    "protocol": _or_none(_one_of(("none", *OFFICIAL))),
    "num_bootstrap": _whole(1),
    "num_pictures": _whole(0),
    "calibration": _or_none({**_TEXT, "description": "auto, none or a path"}),
    "num_cases": _or_none(_whole(1)),
    "shifts": {**_list_of(_one_of(SHIFTS)), "uniqueItems": True},
    # calibration
    "alpha": _OPEN_SHARE,
    "review_share": _SHARE,
    "area_level": _OPEN_SHARE,
    "lesion_sensitivity": _OPEN_SHARE,
    "false_alarms": _OPEN_SHARE,
    "calibration_file": _PATH,
    "calibration_folder": {"type": "string"},  # empty: the working folder
    # analysis
    "compare_with": _or_none(_PATH),
    "training_dir": _or_none(_PATH),
    "phantoms": _one_of(LOOKS),
    "num_phantoms": _whole(1),
    "num_windows": _whole(1),
    "num_points": _whole(1),
    "dead_below": _SHARE,
    # inference
    "overlays": _SWITCH,
    "probability_maps": _SWITCH,
    "disagreement_maps": _SWITCH,
    "dicom_seg": _one_of(DICOM_SEG),
    "empty_segmentations": _SWITCH,
    "structured_reports": _SWITCH,
    "secondary_captures": _SWITCH,
    "trace": _SWITCH,
    "review_below": _or_none(_SHARE),
    # `read_anonymous` says the rest, and does not repeat a secret
    "anonymous": {
        "type": ["boolean", "string"],
        "description": f"True or False, or a secret of at least {MIN_SALT} characters",
    },
    "overwrite": _SWITCH,
    # a suggestion of images to label
    "number": _whole(1),
    "by": _one_of(ORDERS),
    "labelled": _or_none(_PATH),
    # an archive's DICOMweb services
    "dicomweb": _or_none({**_TEXT, "description": "the address of an archive's DICOMweb services"}),
    **dict.fromkeys(("study", "series"), _or_none({**_TEXT, "description": "a DICOM UID"})),
    "date": _or_none({**_TEXT, "description": "a day or days as DICOM writes them, such as 20260101-20260131"}),
    "store": _SWITCH,
    "keep_retrieved": _SWITCH,
    "credentials": _or_none(_PATH),
    "ca": _or_none(_PATH),
    "timeout": _RATE,
    "retries": _whole(0, 20),
    "budget": _or_none({**_TEXT, "description": "a number with MB or GB, such as 4GB"}),
    # whole slides
    "level": _whole(0),
    "um_per_pixel": _or_none(_RATE),
    "skip_background": _SWITCH,
    "white_level": _whole(BLACK + 1, 255),
    "votes": _SWITCH,
    "outlines": _SWITCH,
    # pretraining
    "sets": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": _whole(1),
        "description": "a table of folders' names, each with a whole number of at least 1",
    },
    "trunk_file": _PATH,
    # arguments of parts; those that take a setting's place, as `train#trainer#max_epochs`, are known by the configs
    **{
        f"augmentation#{part}#prob": _SHARE
        for part in ("flip_rows", "flip_columns", "affine", "intensity_scale", "intensity_shift", "noise", "blur")
    },
    "augmentation#noise#std": _WEIGHT,
    **{f"loss_def#{name}": _WEIGHT for name in ("vote_weight", "balance_weight", "contrast_weight")},
    "volumes#whole_slides": _SWITCH,
    "network_def#communicate": _SWITCH,
    "network_def#train_trunk": _SWITCH,
    "network_def#rank": _whole(1),
    "network_def#num_updates": _whole(1),
    "network_def#embedding_channels": _whole(1),
    "network_def#detail#train": _SWITCH,
}
