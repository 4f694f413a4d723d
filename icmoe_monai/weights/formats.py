"""Reading of foundation encoders' files: Meta's, MedSAM's, Hugging Face's and our own, recognised by their content.

Whichever format a file has, the encoder's weights are returned under Meta's names, without a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icmoe_monai.errors import InputError
from icmoe_monai.weights.official import OFFICIAL_WEIGHTS, fetch_official
from icmoe_monai.weights.tensor_files import read_checkpoint

_WRAPPERS = ("model", "state_dict", "model_state_dict")
_EXPERTS = ("adapted.", "communication.", "decoders.", "detail.", "embed.", "gate.", "views.", "voting.")
_HUGGING_FACE = "vision_encoder."
_LAYOUTS = {  # prefix of the encoder's names: prefixes of other names that the file may hold
    "image_encoder.": ("prompt_encoder.", "mask_decoder.", "pixel_mean", "pixel_std"),
    _HUGGING_FACE: ("prompt_encoder.", "mask_decoder.", "shared_image_embedding."),
    "encoder.": _EXPERTS,
    "": (),
}
_SIGN = r"(neck\.(0|conv1)\.|(blocks|layers)\.\d+\.attn\.rel_pos_)"  # names that other vision transformers lack
_OTHER_MODELS = {
    "a SAM 2 model": r"(image_encoder\.trunk|memory_(attention|encoder)|sam_mask_decoder|vision_encoder\.backbone)\.",
    "a MobileSAM model (TinyViT)": r"(image_encoder\.layers|(image_encoder\.)?patch_embed\.seq)\.",
}
_RENAMES = (  # Meta's part of a name and Hugging Face's, in the order in which they are replaced
    ("patch_embed.proj.", "patch_embed.projection."),
    ("blocks.", "layers."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    ("neck.0.", "neck.conv1."),
    ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."),
    ("neck.3.", "neck.layer_norm2."),
)


def read_sam_weights(source: str | Path) -> dict[str, Tensor]:
    """Read a foundation encoder's weights from a file; `load_sam_weights` checks whether they are complete.

    Args:
        source: A name of `OFFICIAL_WEIGHTS`, a file, or the folder of a Hugging Face model.

    Returns:
        Weights under Meta's names, without a prefix.

    Raises:
        InputError: If the file cannot be read, holds no SAM encoder, or holds parts that are not SAM's.
    """
    path = find_file(source)
    state = _unwrap(read_checkpoint(path, mapped=True))
    prefix = _find_prefix(state, path)
    others = [name for name in state if not name.startswith((prefix, *_LAYOUTS[prefix]))]
    if others:
        raise InputError(
            f"{path} holds more than SAM ({name_some(others)}), and its encoder may rely on that: give SAM's own file, "
            "or one of the encoder alone."
        )
    weights = {name: value for name, value in state.items() if name.startswith(prefix)}
    no_weights = [
        name for name, value in weights.items() if not torch.is_tensor(value) or not value.is_floating_point()
    ]
    if no_weights:
        raise InputError(f"{path} holds no tensor of floats as {name_some(no_weights)}: give SAM's own file.")
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    is_hugging_face = any(name.startswith("layers.") for name in weights)  # with or without its prefix
    return from_hugging_face({_HUGGING_FACE + name: weights[name] for name in weights}) if is_hugging_face else weights


def to_hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an encoder's weights to the names of `transformers.SamModel` and `SamVisionModel`.

    Args:
        weights: Weights under Meta's names, without a prefix.

    Example:
        >>> list(to_hugging_face({"blocks.0.norm1.bias": torch.zeros(1)}))
        ['vision_encoder.layers.0.layer_norm1.bias']
    """
    return {_HUGGING_FACE + _rename(name, _RENAMES): value for name, value in weights.items()}


def from_hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the encoder's weights of a `transformers.SamModel` or `SamVisionModel` to Meta's names.

    Args:
        weights: Weights of the model; the result leaves out those of its other parts.

    Example:
        >>> list(from_hugging_face({"vision_encoder.neck.conv2.weight": torch.zeros(1)}))
        ['neck.2.weight']
    """
    inverse = [(theirs, metas) for metas, theirs in reversed(_RENAMES)]
    encoder = {name: value for name, value in weights.items() if name.startswith(_HUGGING_FACE)}
    return {_rename(name.removeprefix(_HUGGING_FACE), inverse): value for name, value in encoder.items()}


def find_file(source: str | Path) -> Path:
    """Find the file of a foundation encoder's weights; official ones are downloaded if they are not in the cache.

    Args:
        source: A name of `OFFICIAL_WEIGHTS`, a file, or the folder of a Hugging Face model.

    Raises:
        InputError: If there is no such file, or the download fails.
    """
    if isinstance(source, str) and source in OFFICIAL_WEIGHTS:
        return fetch_official(source)
    path = Path(source)
    if path.is_dir():
        files = [path / "model.safetensors", path / "pytorch_model.bin"]
        found = [file for file in files if file.is_file()]
        if not found:
            raise InputError(f"The folder {path} holds no {' or '.join(f.name for f in files)}: name the file itself.")
        return found[0]
    if not path.is_file():
        raise InputError(
            f"There are no weights at {path}: name a file, the folder of a Hugging Face model, or one of "
            f"{', '.join(OFFICIAL_WEIGHTS)}."
        )
    return path


def name_some(names: Iterable[str]) -> str:
    """Return a phrase with up to three of the names, and how many more there are."""
    first, *others = list(names) or ["nothing"]
    shown = ", ".join([first, *others[:2]])
    return f"{shown} and {len(others) - 2} more" if len(others) > 2 else shown


def _rename(name: str, renames: Iterable[tuple[str, str]]) -> str:
    for old, new in renames:
        name = name.replace(old, new, 1)
    return name


def _unwrap(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of a training's checkpoint, without the prefix that DataParallel puts before names."""
    for _ in range(3):  # a limit, since a file's dict may hold itself
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    state = {str(name): value for name, value in content.items()}
    is_parallel = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module."): value for name, value in state.items()} if is_parallel else state


def _find_prefix(state: Mapping[str, Any], path: Path) -> str:
    """Return the prefix of the encoder's names in a file, or raise `InputError` if the file holds no encoder."""
    for model, pattern in _OTHER_MODELS.items():
        if any(re.match(pattern, name) for name in state):
            raise InputError(f"{path} holds {model}; expected SAM's (first) image encoder, for example sam_vit_b.")
    for prefix in _LAYOUTS:
        if any(re.match(re.escape(prefix) + _SIGN, name) for name in state):
            return prefix
    if state and all(name.startswith(_EXPERTS) for name in state):
        raise InputError(
            f"{path} holds trained experts without a trunk: give the foundation encoder that they were trained on."
        )
    raise InputError(
        f"{path} holds no SAM image encoder, but {name_some(state)}: give a file of one, or a name such as sam_vit_b."
    )
