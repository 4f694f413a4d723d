"""Segment images by an exported IC-MoE with NumPy, Pillow, and either onnxruntime or PyTorch; no MONAI, no icmoe_monai.

    python segment.py model.onnx IN OUT       # ONNX Runtime
    python segment.py model.ts IN OUT         # PyTorch

This file lies beside the exported files (`python -m bundle export`) and does what the bundle's inference does to a
picture: the longest side is resized, windows that overlap are segmented by every expert, their maps are stitched, every
pixel votes once, and the mask comes out on the picture's own grid, as PNG (0 and 255, or class labels). It reads 8 bits
of grey or colour; DICOM, 16 bits and transparency are left to the bundle.

Letters: B windows; E experts; K output channels; H W resized picture; h w its own size.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Network = Callable[[np.ndarray], np.ndarray]  # windows (B, 3, S, S) to maps (B, E K + E, S, S)
Vote = Callable[[np.ndarray, np.ndarray], np.ndarray]  # probabilities (1, E, K, H, W), gate (1, E, H, W) to logits

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_BATCH = 4


def segment(picture: np.ndarray, network: Network, vote: Vote, settings: dict) -> np.ndarray:
    """Return the foreground's probability (K = 1), or the classes' probabilities, of a picture.

    Args:
        picture: RGB in 0..255, (h, w, 3).
        network: Runs the experts on windows.
        vote: Runs the vote.
        settings: The `settings` of `exported.json`.

    Returns:
        Probabilities, (K, h, w).
    """
    h, w = picture.shape[:2]
    logits = segment_prepared(prepare(picture, settings), network, vote, settings)
    return resize(to_probabilities(logits), h, w, smooth=False)


def prepare(picture: np.ndarray, settings: dict) -> np.ndarray:
    """Resize and normalise a picture (h, w, 3) as the network takes it, (3, H, W)."""
    h, w = picture.shape[:2]
    scale = settings["longest_side"] / max(h, w)
    H, W = max(1, round(h * scale)), max(1, round(w * scale))
    mean, std = (np.float32(settings[name])[:, None, None] for name in ("pixel_mean", "pixel_std"))
    return (resize(picture.transpose(2, 0, 1).astype(np.float32), H, W, smooth=True) - mean) / std


def segment_prepared(image: np.ndarray, network: Network, vote: Vote, settings: dict) -> np.ndarray:
    """Return voted logits, (K, H, W), of a prepared image, (3, H, W)."""
    maps = stitch(image, network, settings["image_size"], settings["overlap"])
    E = settings["num_experts"]
    probabilities, gate = maps[:-E], maps[-E:]
    return vote(probabilities.reshape(1, E, -1, *image.shape[1:]), gate[None])[0]


def stitch(image: np.ndarray, network: Network, side: int, overlap: float) -> np.ndarray:
    """Average the maps of overlapping windows, the middle of a window weighing more than its border.

    Args:
        image: Normalised, (3, H, W); a side smaller than a window is padded with 0 at both ends.
        network: Runs the experts on windows.
        side: S, a window's side.
        overlap: Share of a window that its neighbour covers too.

    Returns:
        Maps, (E K + E, H, W).
    """
    H, W = image.shape[1:]
    rows, columns = max(side - H, 0), max(side - W, 0)
    padded = np.pad(image, ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)))
    places = [(y, x) for y in starts(padded.shape[1], side, overlap) for x in starts(padded.shape[2], side, overlap)]
    weight = importance(side)
    total, weights = 0.0, np.zeros(padded.shape[1:], np.float32)
    for first in range(0, len(places), _BATCH):
        batch = places[first : first + _BATCH]
        found = network(np.stack([padded[:, y : y + side, x : x + side] for y, x in batch]))
        if first == 0:
            total = np.zeros((found.shape[1], *padded.shape[1:]), np.float32)
        for (y, x), maps in zip(batch, found, strict=True):
            total[:, y : y + side, x : x + side] += maps * weight
            weights[y : y + side, x : x + side] += weight
    averaged = total / weights
    return averaged[:, rows // 2 : rows // 2 + H, columns // 2 : columns // 2 + W]


def starts(size: int, side: int, overlap: float) -> list[int]:
    """Return where windows begin along a line of `size` pixels; the last one ends with it."""
    if size == side:
        return [0]
    step = max(1, int(side * (1 - overlap)))
    return [min(step * i, size - side) for i in range(math.ceil((size - side) / step) + 1)]


def importance(side: int) -> np.ndarray:
    """Return a window's weights, (S, S): a Gaussian of an eighth of its side, nowhere below 0.001."""
    x = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    line = np.exp(x**2 / np.float32(-2 * (side * 0.125) ** 2))
    weight = line[:, None] * line[None]
    return weight.clip(max(weight.min(), 1e-3))


def resize(channels: np.ndarray, height: int, width: int, *, smooth: bool) -> np.ndarray:
    """Resize channels (C, h, w), bilinear; with `smooth`, after a Gaussian against aliasing."""
    rows = line_operator(channels.shape[1], height, smooth)
    columns = line_operator(channels.shape[2], width, smooth)
    return np.stack([rows @ channel @ columns.T for channel in channels])


def line_operator(n: int, m: int, smooth: bool) -> np.ndarray:
    """Return the matrix, (m, n), that resizes a line of n pixels to m."""
    half = np.float32(0.5)
    places = (np.float32(n) / np.float32(m) * (np.arange(m, dtype=np.float32) + half) - half).clip(0, n - 1)
    before = places.astype(int)
    share = places - before
    matrix = np.zeros((m, n), np.float32)
    np.add.at(matrix, (np.arange(m), before), 1 - share)
    np.add.at(matrix, (np.arange(m), (before + 1).clip(max=n - 1)), share)
    sigma = max(0.0, (n / m - 1) / 2)
    if not smooth or sigma == 0:
        return matrix
    tail = int(max(4 * sigma, 0.5) + 0.5)
    blur = np.zeros((n, n), np.float32)
    for k in range(-tail, tail + 1):
        tap = 0.5 * (math.erf((k + 0.5) / (sigma * math.sqrt(2))) - math.erf((k - 0.5) / (sigma * math.sqrt(2))))
        blur += np.float32(tap) * np.eye(n, k=k, dtype=np.float32)
    return matrix @ blur


def to_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoid (K = 1) or softmax over K of logits (K, H, W)."""
    if len(logits) == 1:
        return 1 / (1 + np.exp(-logits))
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def to_mask(probabilities: np.ndarray) -> np.ndarray:
    """Return 0 and 255 (K = 1), or the most probable class, of probabilities (K, h, w)."""
    if len(probabilities) == 1:
        return np.uint8(255) * (probabilities[0] > 0.5)
    return probabilities.argmax(axis=0).astype(np.uint8)


def read_picture(path: Path) -> np.ndarray:
    """Return a picture's colours, upright, uint8 (h, w, 3); exit at formats that only the bundle can read."""
    with Image.open(path) as picture:
        if picture.mode not in ("1", "L", "P", "RGB", "YCbCr") or "transparency" in picture.info:
            sys.exit(f"{path.name} is {picture.mode}, not 8 bits of grey or colour without transparency: convert it.")
        if getattr(picture, "n_frames", 1) > 1:
            sys.exit(f"{path.name} holds several frames: save each as a file.")
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def open_onnx(path: Path) -> tuple[Network, Vote]:
    """Open `model.onnx` and `vote.onnx` beside it; return functions that run them."""
    import onnxruntime

    network = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    vote = onnxruntime.InferenceSession(path.with_name("vote.onnx"), providers=["CPUExecutionProvider"])
    return (
        lambda windows: network.run(["maps"], {"image": windows})[0],
        lambda probabilities, gate: vote.run(["pred"], {"probabilities": probabilities, "gate": gate})[0],
    )


def open_torchscript(path: Path) -> tuple[Network, Vote]:
    """Open `model.ts`, on a GPU where there is one; return functions that run the experts and the vote."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = torch.jit.load(path, map_location=device).eval()

    @torch.inference_mode()
    def run(windows: np.ndarray) -> np.ndarray:
        return network.expert_maps(torch.from_numpy(windows).to(device)).cpu().numpy()

    @torch.inference_mode()
    def vote(probabilities: np.ndarray, gate: np.ndarray) -> np.ndarray:
        parts = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (probabilities, gate))
        return network.voting(*parts)[0].cpu().numpy()

    return run, vote


def main() -> None:
    """Segment a picture or a folder of pictures from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.onnx or model.ts")
    parser.add_argument("input", type=Path, help="a picture, or a folder of pictures")
    parser.add_argument("output", type=Path, help="folder of the masks")
    options = parser.parse_args()
    settings = json.loads(options.model.with_name("exported.json").read_text())
    network, vote = (open_onnx if options.model.suffix == ".onnx" else open_torchscript)(options.model)
    is_folder = options.input.is_dir()
    paths = sorted(options.input.iterdir()) if is_folder else [options.input]
    paths = [path for path in paths if path.suffix.lower() in _SUFFIXES]
    if not paths:
        sys.exit(f"{options.input} holds no picture ({', '.join(_SUFFIXES)}).")
    if len({path.stem for path in paths}) < len(paths):
        sys.exit(f"Two pictures in {options.input} differ in their suffix only, and would have one mask: rename one.")
    options.output.mkdir(parents=True, exist_ok=True)
    for path in paths:
        mask = to_mask(segment(read_picture(path), network, vote, settings["settings"]))
        Image.fromarray(mask).save(options.output / f"{path.stem}.png")
        sys.stdout.write(f"{path.name}: {(mask > 0).mean():.1%} foreground\n")


if __name__ == "__main__":
    main()
