"""The choice of how finely experts draw, by how thick the targets of a training set are."""

from __future__ import annotations

import logging

from icmoe_monai.data.cases import list_cases
from icmoe_monai.data.thickness import median_thickness
from icmoe_monai.utils.distributed import by_first
from icmoe_monai.weights.checkpoint import read_recipe
from icmoe_monai.weights.recipe import EARLIER, Recipe

# Pixels as the network sees them: full decoders draw vessels (3) and nuclei (7) better, and larger things, from breast
# lesions (13) on, alike (docs/results/decoder_differences.csv, thickness.csv).
FINE = 8.0


@by_first
def choose_decoder(
    decoder: str | None,
    *,
    dataset_dir: str | None,
    checkpoint: str | None = None,
    demo_dir: str | None = None,
    longest_side: int,
    out_channels: int = 1,
    seed: int = 0,
) -> str:
    """Choose the size of the experts' decoders: full ones where targets are thin, and light ones elsewhere.

    The masks of training and validation images decide together, so that all folds of a cross-validation have one size.

    Args:
        decoder: The size, if it is known already; None chooses.
        dataset_dir: The dataset folder; None: light ones.
        checkpoint: File of weights to start from or to use, whose decoders stay as they are; None: there is none.
        demo_dir: Folder of the computer-made phantoms.
        longest_side: Longest side of the images as the network sees them, in pixels.
        out_channels: Output channels of the network, which decide which values a mask may hold.
        seed: Seed of the splits that the set does not name.

    Returns:
        One of `icmoe_monai.networks.decoder.DECODERS`. With several processes, the first one reads the masks.

    Raises:
        InputError: If the folder is missing, or holds no dataset of a known layout, or several; or the checkpoint
            cannot be read.
    """
    if decoder is not None:
        return decoder
    if checkpoint:
        return str(Recipe(read_recipe(checkpoint)[0], earlier=EARLIER).setting("decoder", "light"))
    if not dataset_dir:
        return "light"
    splits = list_cases(dataset_dir, demo_dir=demo_dir, seed=seed).splits
    cases = sorted([*splits["train"], *splits["val"]], key=lambda case: case["name"])
    thickness = median_thickness(cases, longest_side=longest_side, out_channels=out_channels)
    if thickness is None or thickness >= FINE:
        return "light"
    logging.getLogger(__name__).info(
        "Targets are %.1f pixels thick where images are %d long: decoder is full, which takes twice the time of light "
        "(--decoder light).", thickness, longest_side,
    )  # fmt: skip
    return "full"
