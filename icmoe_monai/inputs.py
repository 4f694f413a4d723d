"""Which images an inference run takes, checked by their headers before the network starts.

Nothing is left out silently: a file that cannot be used is an error or stands in the log. Left out by rule are
hidden files, the output folder and, in a folder with the training layout (`images/` and `masks/`), all but `images/`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from icmoe_monai.demo import make_demo_set
from icmoe_monai.errors import InputError
from icmoe_monai.reading import SUFFIXES, read_size

_NUM_NAMED = 5
_logger = logging.getLogger(__name__)


def find_images(
    dataset_dir: str | None, *, output_dir: str, demo_dir: str | None = None, min_size: int = 16
) -> list[dict[str, str]]:
    """Return the datalist of an inference run, sorted by name.

    Args:
        dataset_dir: A folder, searched with all its subfolders, or one image file. None takes the test images of the
            demo set, which is made or mended if need be.
        output_dir: Folder of the results, which is not searched.
        demo_dir: Folder of the demo set; by default `<output_dir>/demo`.
        min_size: Smallest height and width in pixels: the encoder's patch.

    Returns:
        One item per image: `image`, its absolute path, and `name`, its POSIX path relative to `dataset_dir`, from which
        the results are named.

    Raises:
        InputError: If there is no such folder or no image in it, an image cannot be used, two images would write one
            mask, a link leads out of the folder, or the results would overwrite the input.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a b.JPG"):
        ...         Image.new("RGB", (40, 30)).save(f"{folder}/{name}")
        ...     [item["name"] for item in find_images(folder, output_dir=f"{folder}/output")]
        ['a b.JPG', 'b.png']
    """
    if dataset_dir is None:
        return _demo_items(Path(demo_dir) if demo_dir is not None else Path(output_dir) / "demo")
    root = Path(os.path.abspath(dataset_dir))
    if not root.exists():
        raise InputError(f"dataset_dir {dataset_dir} does not exist: correct the path.")
    _check_output_dir(root, Path(output_dir))
    if root.is_dir():
        paths = _search(root, Path(output_dir))
    elif root.suffix.lower() in SUFFIXES:
        paths, root = [root], root.parent
    else:
        raise InputError(f"{dataset_dir} is no image of a kind that is read here ({', '.join(SUFFIXES)}): convert it.")
    items = sorted((_item(path, root) for path in paths), key=lambda item: item["name"])
    _check_one_mask_each(items)
    _check_images(items, min_size)
    return items


def _demo_items(folder: Path) -> list[dict[str, str]]:
    folder = Path(os.path.abspath(folder))
    make_demo_set(str(folder))
    stems = set(json.loads((folder / "splits.json").read_text(encoding="utf-8"))["test"])
    _logger.info("No dataset_dir was given: the %d test images of the demo set in %s are taken.", len(stems), folder)
    return [_item(path, folder) for path in sorted((folder / "images").iterdir()) if path.stem in stems]


def _item(path: Path, root: Path) -> dict[str, str]:
    return {"image": str(path), "name": path.relative_to(root).as_posix()}


def _check_output_dir(root: Path, output_dir: Path) -> None:
    """Refuse folders where writing results would overwrite the input or a data set's labels."""
    source, target = root.resolve(), output_dir.resolve()
    for folder in (target / "masks", target / "probabilities"):
        if source == folder or folder in source.parents:
            raise InputError(f"dataset_dir {root} lies in the results of output_dir: choose another output_dir.")
    if source == target:
        raise InputError(f"output_dir is dataset_dir itself ({root}): choose another, such as {root / 'output'}.")
    if (target / "images").is_dir() and (target / "masks").is_dir():
        raise InputError(f"output_dir {output_dir} holds a labelled data set, whose masks/ would be overwritten: "
                         "choose another output_dir.")  # fmt: skip


def _search(root: Path, output_dir: Path) -> list[Path]:
    searched = root
    if (root / "images").is_dir() and (root / "masks").is_dir():
        searched = root / "images"
        _check_link(searched, root)
        _logger.info("%s has the training layout: images/ is segmented, masks/ and the rest are not read.", root)
    paths: list[Path] = []
    unsupported: list[str] = []
    for path in _visible_files(searched, root, output_dir.resolve()):
        if path.suffix.lower() in SUFFIXES:
            _check_link(path, root)
            paths.append(path)
        else:
            unsupported.append(path.relative_to(root).as_posix())
    kinds = ", ".join(SUFFIXES)
    if unsupported:
        _logger.warning("%d files are no images (%s) and left out: %s.", len(unsupported), kinds, _some(unsupported))
    if not paths:
        raise InputError(f"No images in {searched} or its subfolders: put files with {kinds} there.")
    return paths


def _visible_files(folder: Path, root: Path, output_dir: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise InputError(f"Cannot read the folder {error.filename}: {error.strerror}. Make it readable.") from error

    for parent, folders, files in os.walk(folder, onerror=fail):
        visible = [Path(parent, name) for name in sorted(folders) if not name.startswith(".")]
        for path in visible:
            # A link to a folder inside is not followed: its files are found at their own place.
            _check_link(path, root)
        folders[:] = [path.name for path in visible if path.resolve() != output_dir]
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _check_link(path: Path, root: Path) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"The link {path} leads out of dataset_dir: put the file itself there.")


def _check_one_mask_each(items: list[dict[str, str]]) -> None:
    first_with: dict[str, str] = {}
    for name in (item["name"] for item in items):
        mask = Path(name).with_suffix(".png").as_posix()
        if mask in first_with:
            raise InputError(f"{first_with[mask]} and {name} would both write the mask {mask}: rename one of them.")
        first_with[mask] = name


def _check_images(items: list[dict[str, str]], min_size: int) -> None:
    """Decode every image once, so that a bad one is found now and not after hours."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sentences = pool.map(partial(_problem, min_size=min_size), items)
        problems = [(item["name"], sentence) for item, sentence in zip(items, sentences, strict=True) if sentence]
    if problems:
        others = [name for name, _ in problems[1:]]
        more = f" {len(others)} more images cannot be used: {_some(others)}." if others else ""
        raise InputError(problems[0][1] + more)


def _problem(item: dict[str, str], min_size: int) -> str | None:
    try:
        height, width = read_size(item["image"], whole=True)
    except InputError as error:
        return str(error)
    if min(height, width) >= min_size:
        return None
    sentence = f"{item['image']} has {width} x {height} pixels, fewer than a patch of {min_size} x {min_size}"
    return f"{sentence}: take it out or give a larger version of it."


def _some(names: list[str]) -> str:
    rest = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
