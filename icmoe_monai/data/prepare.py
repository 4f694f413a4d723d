"""Make a protocol's data set from its official release: `python -m icmoe_monai prepare glas ARCHIVE OUT`.

The command reads the release's unpacked folders (`layouts`), compares the number of images, and their names where they
are known, with the official ones (`releases`), cuts the splits that the release does not name (`splits`), and writes a
plain dataset folder: `images/`, `masks/`, for GlaS `instances/`, `splits.json`, `groups.csv` where groups are known,
and `protocol.json` with the checksum of each list. The folder is written under a temporary name and then renamed, so
that it is complete or absent. Training and evaluation refuse a prepared folder whose splits.json was changed; `--check
OUT` only makes that check.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from icmoe_monai.data.groups import read_groups, table_of_groups, with_groups
from icmoe_monai.data.layouts import Found, find_layout
from icmoe_monai.data.releases import OFFICIAL, by_part, find_difference, find_release
from icmoe_monai.data.splits import Case, cut_missing_splits, lock
from icmoe_monai.errors import InputError, exit_status_of, kind_of
from icmoe_monai.imageio.read import read_image, read_label, read_objects
from icmoe_monai.utils.files import write_csv, write_json
from icmoe_monai.utils.logs import tell_end
from icmoe_monai.version import __version__

_KEPT_AS_THEY_ARE = (".png", ".jpg", ".jpeg")
_MIN_SIDE = 16


def prepare(
    protocol: str,
    archive_dir: str,
    out_dir: str,
    *,
    longest_side: int = 512,
    seed: int = 0,
    groups_file: str | None = None,
    partial_set: bool = False,
) -> dict[str, Any]:
    """Write a protocol's data set as a plain dataset folder.

    Images are reduced by Lanczos filtering, masks and instances by their nearest neighbour; none is enlarged. An image
    that keeps its size is copied byte by byte if it is PNG or JPEG. Otherwise JPEG stays JPEG (quality 95), and
    everything else becomes PNG. BUSI's `benign (1)` becomes `benign_1`, its several masks of one image become one.

    Args:
        protocol: isic2017, isic2018, busi or glas.
        archive_dir: The folder with the release's unpacked folders.
        out_dir: The folder to write; not there yet, or empty.
        longest_side: Length to which an image's longest side is reduced, pixels; 0 keeps every size.
        seed: Seed of the splits that the release does not name.
        groups_file: Groups of the prepared cases by their names, as a groups.csv or groups.json has them. Without it,
            they are those that the release's folder tells, as GlaS's Grade.csv does. A group stays in one of the drawn
            splits.
        partial_set: Go on with a release that is not complete; protocol.json then says `"partial": true`.

    Returns:
        The content of protocol.json.

    Raises:
        InputError: The release is another one or not complete, a file cannot be read, or the folder cannot be written.
    """
    if protocol not in OFFICIAL:
        raise InputError(f"protocol must be one of {', '.join(OFFICIAL)}, got {protocol!r}.")
    if longest_side and longest_side < _MIN_SIDE:
        raise InputError(f"longest_side must be 0 or at least {_MIN_SIDE}, got {longest_side}.")
    target = Path(out_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already: name a folder that is not, or remove it first.")
    found = find_release(protocol, archive_dir, partial_set=partial_set)
    if groups_file is not None:
        found = _with_groups(found, groups_file, may_be_partial=partial_set)
    splits = cut_missing_splits(found.splits, seed=seed)
    groups = {str(case["name"]): str(case["group"]) for cases in splits.values() for case in cases if "group" in case}
    names = {split: [str(case["name"]) for case in cases] for split, cases in splits.items()}
    parts = by_part(protocol, {split: [case["name"] for case in cases] for split, cases in found.splits.items()})
    content = {
        "protocol": protocol,
        "partial": find_difference(protocol, parts) is not None,
        "source_images": {part: len(listed) for part, listed in parts.items()},
        "official_images": OFFICIAL[protocol].counts,
        "longest_side": longest_side,
        "seed": seed,
        "groups": len(set(groups.values())) or None,
        "splits": lock(names),
        "icmoe_monai": __version__,
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}_", dir=target.parent) as workshop:
            made = Path(workshop) / "made"
            _write_cases(made, [case for cases in splits.values() for case in cases], longest_side)
            write_json(made / "splits.json", names)
            write_json(made / "protocol.json", content)
            if groups:
                write_csv(made / "groups.csv", table_of_groups(groups))
            if target.exists():
                target.rmdir()
            made.rename(target)
    except OSError as error:
        raise InputError(
            f"{out_dir} cannot be written ({kind_of(error)}): free some space or name another folder."
        ) from error
    counts = ", ".join(f"{len(listed)} {split}" for split, listed in names.items())
    logging.getLogger(__name__).info("%s holds %s: %s.", out_dir, protocol, counts)
    return content


def check(folder: str) -> None:
    """Check that a prepared folder has the files and lists that it was written with.

    Args:
        folder: A folder that `prepare` wrote.

    Raises:
        InputError: `prepare` did not write the folder, a file is missing, or a list was changed.
    """
    try:
        content = json.loads(Path(folder, "protocol.json").read_text(encoding="utf-8"))
        protocol, is_partial = content["protocol"], content["partial"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{folder} has no protocol.json that prepare wrote ({kind_of(error)}): prepare the set."
        ) from None
    found = find_layout(folder)
    problems = found.problems
    if not problems and not is_partial:
        names = {split: [case["name"] for case in cases] for split, cases in found.splits.items()}
        difference = (
            find_difference(protocol, by_part(protocol, names)) if protocol in OFFICIAL else "is of no protocol"
        )
        problems += [f"{folder} {difference}: prepare the set again."] if difference else []
    if problems:
        raise InputError(problems[0])
    counts = ", ".join(f"{lists['cases']} {split}" for split, lists in content["splits"].items())
    partly = ", a partial set" if is_partial else ""
    logging.getLogger(__name__).info(
        "%s holds %s%s, its lists as they were locked: %s.", folder, protocol, partly, counts
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m icmoe_monai prepare`.

    Args:
        arguments: Words of the command line after `prepare`; None: those of this process.
    """
    parser = argparse.ArgumentParser("python -m icmoe_monai prepare", description=__doc__.partition("\n")[0])
    parser.add_argument("protocol", nargs="?", choices=[*OFFICIAL])
    parser.add_argument("archive_dir", nargs="?", help="folder with the release's unpacked folders")
    parser.add_argument("out_dir", nargs="?", help="dataset folder to write")
    parser.add_argument("--longest_side", type=int, default=512, help="pixels; 0 keeps every size (default: 512)")
    parser.add_argument("--seed", type=int, default=0, help="of the splits that the release does not name (default: 0)")
    parser.add_argument("--groups", metavar="FILE", help="CSV or JSON; a group stays in one of the drawn splits")
    parser.add_argument("--partial", action="store_true", help="go on with a release that is not complete")
    parser.add_argument("--check", metavar="OUT_DIR", help="check a prepared folder instead")
    given = parser.parse_args(arguments)
    if (given.out_dir is None) != (given.check is not None) or (given.check and given.protocol):
        parser.error("give a protocol, the release's folder and the folder to write, or --check and a prepared folder")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if given.check:
            check(given.check)
            return
        prepare(
            given.protocol,
            given.archive_dir,
            given.out_dir,
            longest_side=given.longest_side,
            seed=given.seed,
            groups_file=given.groups,
            partial_set=given.partial,
        )
    except InputError as error:
        tell_end("error", str(error))
        sys.exit(1)
    except KeyboardInterrupt as stop:
        tell_end("stopped", "nothing was written")
        sys.exit(exit_status_of(stop))


def _with_groups(found: Found, path: str, *, may_be_partial: bool) -> Found:
    """Return a release with the groups of a file in place of its own."""
    names = {case["name"] for cases in found.splits.values() for case in cases}
    problems: list[str] = []
    groups = read_groups(path, names, problems, may_be_partial=may_be_partial)
    if problems:
        raise InputError(problems[0])
    return found._replace(splits=with_groups(found.splits, groups))


def _write_cases(made: Path, cases: Sequence[Case], longest_side: int) -> None:
    instances = ("instances",) if any(case.get("label_kind") == "instances" for case in cases) else ()
    for kind in ("images", "masks", *instances):
        (made / kind).mkdir(parents=True)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        done = pool.map(partial(_write_case, made, longest_side), cases)
        for _ in tqdm(done, "Writing images", len(cases), disable=len(cases) < 50 or None):
            pass
    finally:  # a refused file or Ctrl-C must not wait for all the others
        pool.shutdown(cancel_futures=True)


def _write_case(made: Path, longest_side: int, case: Case) -> None:
    source, name = case["image"], case["name"]
    pixels = read_image(source)
    is_numbered = case.get("label_kind") == "instances"
    label = read_label(case["label"], instances=is_numbered)
    height, width = pixels.shape[:2]
    if label.shape != (height, width):
        mask = f"{label.shape[1]}x{label.shape[0]}"
        raise InputError(f"The mask of {source} is {mask} and the image {width}x{height}: download both again.")
    scale = min(longest_side / max(height, width), 1.0) if longest_side else 1.0
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    suffix = Path(source).suffix.lower()
    if scale == 1 and suffix in _KEPT_AS_THEY_ARE:
        shutil.copyfile(source, made / "images" / f"{name}{suffix}")
    else:
        picture = Image.fromarray(pixels.round().astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
        path = made / "images" / f"{name}{'.jpg' if suffix in ('.jpg', '.jpeg') else '.png'}"
        picture.save(path, quality=95, subsampling=0)  # both options count for JPEG only
    _save_numbers(made / "masks" / f"{name}.png", label * 255, size)
    if is_numbered:
        _save_numbers(made / "instances" / f"{name}.png", read_objects(case["label"]), size)


def _save_numbers(path: Path, values: np.ndarray, size: tuple[int, int]) -> None:
    """Write numbers as PNG, at a size (width, height)."""
    resized = np.asarray(Image.fromarray(values.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    Image.fromarray(resized.astype(np.uint8 if resized.max() < 256 else np.uint16)).save(path)
