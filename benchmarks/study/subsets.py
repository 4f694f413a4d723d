"""Make data sets of few training images, by links: what does a row reach with 16 of them?

    python -m benchmarks.study.subsets --data_dir DATA --sets busi isic2017 --numbers 16 32 64 128

writes `DATA/busi_16` and the others for `configs/studies/few.yaml`. The smaller sets are parts of the larger ones,
drawn by a hash of seed and name; validation and test images stay all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.groups import GROUP_FILES
from icmoe_monai.data.splits import shuffle_key
from icmoe_monai.errors import InputError
from icmoe_monai.utils.files import find_named, write_json

_FOLDERS = ("images", "masks")


def link_set(data: Path, folder: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Make a data set that differs from another in its splits alone; files are links to the other's.

    Args:
        data: The other's folder, of images/ and masks/.
        folder: The new folder.
        splits: Names of the cases by split.

    Raises:
        InputError: If the other's folder is none of images/ and masks/.
    """
    missing = [name for name in _FOLDERS if not (data / name).is_dir()]
    if missing:
        raise InputError(f"{data} has no folder {missing[0]}: name a data set of images/ and masks/.")
    folder.mkdir(parents=True, exist_ok=True)
    for shared in (*(data / name for name in _FOLDERS), *map(Path, find_named(data, GROUP_FILES))):
        if not (folder / shared.name).is_symlink():
            (folder / shared.name).symlink_to(shared.resolve())
    write_json(folder / "splits.json", {split: sorted(names) for split, names in splits.items()})


def make_subset(data: Path, folder: Path, number: int, *, seed: int = 0) -> None:
    """Make a data set with so many of another's training images.

    Args:
        data: The other's folder, of images/ and masks/.
        folder: The new folder.
        number: How many training images.
        seed: Another seed draws others.

    Raises:
        InputError: If there are not so many, or the other cannot be read.
    """
    cases = find_cases(str(data), check=False, needed=())
    splits = {split: [case["name"] for case in of_split] for split, of_split in cases.items()}
    if len(splits["train"]) < number:
        raise InputError(f"{data} has {len(splits['train'])} training images, fewer than {number}: ask for fewer.")
    train = sorted(splits["train"], key=lambda name: shuffle_key(name, seed))[:number]
    link_set(data, folder, {**splits, "train": train})


def main(arguments: list[str] | None = None) -> int:
    """Make the data sets; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--numbers", nargs="+", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in options.sets:
        for number in options.numbers:
            make_subset(options.data_dir / name, options.data_dir / f"{name}_{number}", number, seed=options.seed)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"{error}")
