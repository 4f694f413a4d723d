"""Demo set of computer-made phantoms, for a first run without data; `phantoms` draws them.

The set is a plain dataset folder (`images/`, `masks/`, `splits.json`) with a README.txt that says what it is. It is
written beside its place and renamed into it, so that a folder is complete or absent, also when several processes write
it at once.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from icmoe_monai.data.phantoms import Drawing, draw_dermoscopy, draw_glands, draw_ultrasound
from icmoe_monai.data.splits import take_evenly
from icmoe_monai.errors import InputError, kind_of

DEMO = "demo"  # the dataset_dir that stands for the demo set
NO_IMAGES = (
    f"dataset_dir is not set: give the folder of your images, --dataset_dir FOLDER, or --dataset_dir {DEMO} for "
    "computer-made phantoms."
)
_VERSION = 1
_MARKER = "demo_set.json"
_SIZES = (160, 240)
_LOOKS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Drawing]] = {
    "dermoscopy": draw_dermoscopy,
    "ultrasound": draw_ultrasound,
    "gland": draw_glands,
}
_OURS = re.compile(
    rf"README\.txt|splits\.json|{re.escape(_MARKER)}|images|masks|(images|masks)/({'|'.join(_LOOKS)})_\d{{3,}}\.png"
)
_README = """\
These {num_images} pictures are computer-made phantoms. They show no patient, and nothing in them was taken from patient
data. They only imitate three modalities (dermoscopy, breast ultrasound, stained glands), so that the software can be
tried without data. Results on them say nothing about results on real images.

images/NAME.png  the picture
masks/NAME.png   its mask, 0 background, 255 lesion or gland
splits.json      names for training, validation and test

Written by icmoe_monai.data.demo.make_demo_set, version {version}, seed {seed}. Delete the folder whenever you like.
"""


def is_demo(dataset_dir: str) -> bool:
    """Return whether a `dataset_dir` asks for the demo set: it is the word demo, and no folder here is called so.

    Args:
        dataset_dir: The setting.
    """
    return dataset_dir == DEMO and not Path(DEMO).exists()


def make_demo_set(folder: str, *, num_images: int = 72, seed: int = 0) -> None:
    """Write the demo set into a folder, unless the folder holds it already.

    The three kinds of picture have equal shares; two thirds of each are training, one sixth validation and one sixth
    test cases. The same arguments give the same files, byte for byte, with the same versions of the libraries on a CPU
    of one kind.

    Args:
        folder: The folder. A damaged or other demo set there is replaced; anything else there is an error.
        num_images: Number of pictures, at least 6.
        seed: Seed of everything random.

    Raises:
        ValueError: `num_images` is below 6.
        InputError: The folder holds files that are not of a demo set, or cannot be written.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_demo_set(folder + "/demo", num_images=6)
        ...     sorted(os.listdir(folder + "/demo/images"))[:3]
        ['dermoscopy_000.png', 'dermoscopy_003.png', 'gland_002.png']
    """
    if num_images < 6:
        raise ValueError(f"num_images must be at least 6, got {num_images}.")
    target = Path(folder)
    content = {"version": _VERSION, "seed": seed, "num_images": num_images}
    if _is_complete(target, content):
        return
    _check_replaceable(target)
    logging.getLogger(__name__).info("Writing %d computer-made phantoms to %s.", num_images, folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}_", dir=target.parent) as workshop:
            made = Path(workshop) / "made"
            _write(made, content)
            _put_in_place(made, target, content)
    except OSError as error:
        raise InputError(
            f"The demo set cannot be written to {folder} ({kind_of(error)}): set another folder."
        ) from error


def _names(num_images: int) -> list[str]:
    looks = list(_LOOKS)
    return [f"{looks[i % len(looks)]}_{i:03d}" for i in range(num_images)]


def _is_complete(target: Path, content: dict[str, int]) -> bool:
    try:
        marked = json.loads((target / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    names = _names(content["num_images"])
    needed = ["README.txt", "splits.json", *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in names)]
    return marked == content and all((target / name).is_file() and (target / name).stat().st_size for name in needed)


def _check_replaceable(target: Path) -> None:
    """Raise if the folder holds a single file that is not of a demo set; a half-written or older set may go."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: give the demo set a folder of its own.")
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if not _OURS.fullmatch(name):
            raise InputError(
                f"{target} holds {name}, which is not of the demo set: give the demo set a folder of its own."
            )


def _write(made: Path, content: dict[str, int]) -> None:
    for kind in ("images", "masks"):
        (made / kind).mkdir(parents=True)
    names = _names(content["num_images"])
    for index, name in enumerate(names):
        rng = np.random.default_rng([_VERSION, content["seed"], index])
        height, width = (int(size) for size in rng.choice(np.arange(*_SIZES), 2, replace=False))
        image, mask = _LOOKS[name.rpartition("_")[0]](rng, (height, width))
        Image.fromarray(image).save(made / "images" / f"{name}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(made / "masks" / f"{name}.png")
    (made / "splits.json").write_text(json.dumps(_split(names), indent=1) + "\n", encoding="utf-8")
    (made / "README.txt").write_text(_README.format(**content), encoding="utf-8")
    (made / _MARKER).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _split(names: list[str]) -> dict[str, list[str]]:
    # sorted by look, so even steps give each look its share
    num_taken = max(round(len(names) / 6), 1)
    test, rest = take_evenly(sorted(names), num_taken)
    val, train = take_evenly(rest, num_taken)
    return {"train": train, "val": val, "test": test}


def _put_in_place(made: Path, target: Path, content: dict[str, int]) -> None:
    if _is_complete(target, content):  # another process was faster
        return
    if target.exists():
        target.rename(made.with_name("old"))  # removed with the temporary folder
    try:
        made.rename(target)
    except OSError:  # another process may have been faster
        if not _is_complete(target, content):
            raise
