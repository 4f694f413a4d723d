"""Export of the network to other runtimes: `model.pt`, `model.ts` (TorchScript), `model.onnx`, and their parity.

All three have the network's two outputs: voted logits, and the experts' maps, which a sliding window stitches for one
vote at full size. `segment.py` beside them shows how to use them without icmoe_monai. `exported.json` holds the files'
checksums, the settings by which an image must be prepared, and the parity that was measured.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser, ckpt_export, trt_export
from torch import Tensor, nn

from bundle import segment
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer, vote_at_once
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.utils.files import digest_of, write_atomically, write_json
from icmoe_monai.version import __version__
from icmoe_monai.weights.checkpoint import load_weights, precision_of, read_recipe, save_weights
from icmoe_monai.weights.handlers import LoadFrozen

ROOT = Path(__file__).parent.parent
CONFIG, METADATA = ROOT / "configs" / "inference.json", ROOT / "configs" / "metadata.json"
_FILES = ("model.pt", "model.ts", "model.onnx", "vote.onnx", "model_trt.ts")
_SETTINGS = ("image_size", "longest_side", "overlap", "pixel_mean", "pixel_std", "out_channels")


class ExportedNetwork(nn.Module):
    """Wrap the network as a graph with two outputs.

    Args:
        network: The network.
    """

    def __init__(self, network: ICMoE) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return voted logits, (B, K, H, W), and the experts' maps, (B, E K + E, H, W), of images (B, 3, H, W)."""
        maps = self.network.expert_maps(image)
        return vote_at_once(maps, self.network), maps


def export(
    checkpoint: Path,
    output_dir: Path,
    *,
    images: Path | None = None,
    num_images: int = 20,
    longest_side: int | None = None,
    recipe: str = "auto",
    tensorrt: bool = False,
) -> dict[str, Any]:
    """Write the three files of the network and the files that belong to them.

    Args:
        checkpoint: Weights of an IC-MoE: a whole `model.pt`, or experts alone, whose encoder and pyramid are then found
            as inference finds them.
        output_dir: Folder of the files; files of the same names are replaced.
        images: Folder of pictures to compare on; None: phantoms.
        num_images: Number of pictures to compare on.
        longest_side: Length to which an image's longest side is resized, pixels; None: as in the training.
        recipe: "auto": the settings of the checkpoint's recipe; "none": the defaults of `configs/inference.json`.
        tensorrt: Also write `model_trt.ts`, by MONAI's `trt_export`.

    Returns:
        The content of `exported.json`.

    Raises:
        InputError: If the weights do not fit, `longest_side` contradicts their recipe, there is no picture, TensorRT is
            asked for without CUDA, or the folder cannot be made or holds the weights themselves under such a name.
    """
    if tensorrt and not torch.cuda.is_available():
        raise InputError("TensorRT needs a CUDA device: leave --tensorrt out, or run where there is one.")
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser.update({"checkpoint": str(checkpoint), "recipe": recipe, "device": "cpu"})
    parser["longest_side"] = longest_side or parser["longest_side"]
    parser.get_parsed_content("trained").check(parser.get_parsed_content("settings"))
    settings = {name: parser.get_parsed_content(name) for name in _SETTINGS}
    network: ICMoE = parser.get_parsed_content("network").eval()
    frozen = {name: parser.get_parsed_content(name) for name in ("pretrained", "pyramid")}
    LoadFrozen(network=network, **frozen)(Engine(lambda engine, batch: None))
    load_weights(network, checkpoint)
    pictures = _read_pictures(images, num_images)
    replaced = [output_dir / name for name in (*_FILES, "exported.json")]
    if any(path.exists() and path.samefile(checkpoint) for path in replaced):
        raise InputError(f"{checkpoint} lies where its export would be written: choose another output_dir.")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output_dir} cannot be made ({kind_of(error)}): choose another output_dir.") from None
    precision = precision_of(checkpoint)
    for path in replaced:  # files of an earlier call
        path.unlink(missing_ok=True)
    save_weights(network, output_dir / "model.pt", whole=True, recipe=read_recipe(checkpoint)[0], dtype=precision)
    # scripted, so that expert_maps and voting stay callable
    _write_by_monai(ckpt_export, output_dir, "model.ts", recipe=recipe, use_trace=False)
    _write_onnx(network, output_dir, settings["image_size"])
    shutil.copyfile(Path(segment.__file__), output_dir / "segment.py")
    if tensorrt:
        _write_by_monai(
            trt_export, output_dir, "model_trt.ts", recipe=recipe, precision="fp16", use_onnx=True, use_trace=True
        )
    settings["num_experts"] = network.voting.num_experts
    names = [name for name in _FILES if (output_dir / name).is_file()]
    content = {
        "version": __version__,
        "settings": settings,
        "sha256": {name: digest_of(output_dir / name) for name in names},
        "parity": {
            "images": "phantoms" if images is None else images.resolve().parent.name,
            "num_images": len(pictures),
            "model.ts": _compare(network, pictures, *segment.open_torchscript(output_dir / "model.ts"), settings),
            "model.onnx": _compare(network, pictures, *segment.open_onnx(output_dir / "model.onnx"), settings),
        },
    }  # fmt: skip
    write_json(output_dir / "exported.json", content)
    return content


def _write_by_monai(write: Callable[..., None], folder: Path, name: str, **options: Any) -> None:
    files = {"ckpt_file": folder / "model.pt", "meta_file": METADATA, "config_file": CONFIG}
    files["checkpoint"] = files["ckpt_file"]  # whose recipe says which network it is
    write("network", filepath=str(folder / name), **{key: str(path) for key, path in files.items()}, **options)


def _write_onnx(network: ICMoE, folder: Path, side: int) -> None:
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    E, K = network.voting.num_experts, network.out_channels
    windows = torch.randn(2, 3, side, side)
    parts: tuple[tuple[str, nn.Module, dict[str, Tensor], list[str], Any], ...] = (
        (
            "model.onnx",
            ExportedNetwork(network),
            {"image": windows},
            ["pred", "maps"],
            ({0: batch},),
        ),
        (
            "vote.onnx",
            network.voting,
            {"probabilities": torch.rand(1, E, K, 48, 64), "gate": torch.randn(1, E, 48, 64)},
            ["pred", "votes"],
            ({3: height, 4: width}, {2: height, 3: width}),
        ),
    )
    for name, module, inputs, outputs, shapes in parts:
        write_atomically(folder / name, _onnx_writer(module.eval(), inputs, outputs, shapes))


def _onnx_writer(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], shapes: Any
) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of deprecated parts of PyTorch
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                path,
                input_names=list(inputs),
                output_names=outputs,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )

    return write


def _read_pictures(folder: Path | None, number: int) -> list[np.ndarray]:
    if number < 1:
        raise InputError(f"num_images must be at least 1, got {number}.")
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one that holds pictures.")
    if folder is None:
        sizes = ((256, 256), (200, 320), (96, 64), (300, 300))
        return [draw_dermoscopy(np.random.default_rng(i), sizes[i % len(sizes)])[0] for i in range(number)]
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    if not paths:
        raise InputError(f"{folder} holds no picture (.png, .jpg, .jpeg): name the folder of the pictures itself.")
    step = max(1, len(paths) // number)
    return [segment.read_picture(path) for path in paths[::step][:number]]


def _compare(
    network: ICMoE, pictures: list[np.ndarray], run: segment.Network, elect: segment.Vote, settings: dict[str, Any]
) -> dict[str, float]:
    """Compare an export with the network itself: logits and probabilities of prepared images, and final masks."""
    inferer = SlidingWindowVotingInferer(roi_size=settings["image_size"], overlap=settings["overlap"])
    logit_differences, probability_differences, equal = [], [], []
    for picture in pictures:
        image = segment.prepare(picture, settings)
        with torch.no_grad():
            expected = inferer(torch.from_numpy(image)[None], network)[0].numpy()
        found = segment.segment_prepared(image, run, elect, settings)
        given, wanted = segment.to_probabilities(found), segment.to_probabilities(expected)
        logit_differences.append(np.abs(found - expected).max())
        probability_differences.append(np.abs(given - wanted).max())
        masks = [segment.to_mask(segment.resize(x, *picture.shape[:2], smooth=False)) for x in (given, wanted)]
        equal.append((masks[0] == masks[1]).mean())
    return {
        "largest_logit_difference": float(max(logit_differences)),
        "largest_probability_difference": float(max(probability_differences)),
        "least_share_of_equal_pixels": float(min(equal)),
    }
