"""What is wrong with a set, each with the files' names and the remedy; what needs no network is found here.

A fault is to be mended before a training; a note is to be known. Each holds what was found, of which every finding
names its files.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from icmoe_monai.planning.classes import Classes
from icmoe_monai.planning.duplicates import Pair, overlap
from icmoe_monai.planning.facts import shown_scale
from icmoe_monai.planning.looks import Look

FAULT, NOTE = "fault", "note"
LEAST_DIAMETER = 3.0  # pixels at the planned size; the mask's finest decision is one pixel
_LEAST_OVERLAP = 0.5  # Dice of the masks of one image drawn twice, below which they contradict each other
_NAMES_TOLD = 4
_MASKS_TO_COMPARE = 10  # of fewer, a class in one mask alone is no wonder
_WHOLE_BORDER = 0.99  # share of the outermost pixels; of 2977 masks of seven public sets none has more than 0.9
_SPECK_OF_TARGET, _MOST_WITH_SPECKS = 100, 0.5  # as large a target in area; share of the images


class Finding(NamedTuple):
    """Hold one thing that was found.

    Attributes:
        sentence: What it is, with the files' names.
        files: The files' names.
        places: Places in the list of cases, for thumbnails.
    """

    sentence: str
    files: tuple[str, ...]
    places: tuple[int, ...]


class Fault(NamedTuple):
    """Hold what is wrong in one way.

    Attributes:
        kind: Name of the way, for programs.
        level: `FAULT` or `NOTE`.
        title: The same for people.
        remedy: What to do, in a sentence.
        findings: Where it was found.
    """

    kind: str
    level: str
    title: str
    remedy: str
    findings: tuple[Finding, ...]


class Known(NamedTuple):
    """Hold what faults are found in.

    Attributes:
        looks: What was seen of the cases.
        pairs: Pairs of images that show the same.
        classes: How masks are read.
        longest_side: Longest side of the images at the planned size, in pixels.
    """

    looks: Sequence[Look]
    pairs: Sequence[Pair]
    classes: Classes
    longest_side: int


def find_faults(known: Known) -> list[Fault]:
    """Find what is wrong with a set, faults before notes.

    Args:
        known: What is known of the set.
    """
    found = []
    for (kind, level, title, remedy), find in _RULES.items():
        findings = tuple(find(known))
        if findings:
            found.append(Fault(kind, level, title, remedy, findings))
    return sort_faults(found)


def sort_faults(faults: Sequence[Fault]) -> list[Fault]:
    """Return faults before notes, else in their order.

    Args:
        faults: Faults and notes.
    """
    return sorted(faults, key=lambda fault: fault.level != FAULT)


def image_file(look: Look) -> str:
    """Return the name of a case's image, with that of its folder and no more of its path.

    Args:
        look: What was seen of the case.
    """
    return _short(look.image)


def mask_file(look: Look) -> str:
    """Return the name of a case's mask, with that of its folder; of a case without one, of its image.

    Args:
        look: What was seen of the case.
    """
    return _short(look.mask.path if look.mask is not None else look.image)


def _short(path: str) -> str:
    folder, name = os.path.split(path)
    return f"{os.path.basename(folder)}/{name}"


def _unreadable(known: Known) -> Iterator[Finding]:
    for place, look in enumerate(known.looks):
        if look.error:
            told = look.error.replace(f"{os.path.dirname(os.path.dirname(look.image))}{os.sep}", "")
            yield Finding(told, (image_file(look),), (place,))


def _misfits(known: Known) -> Iterator[Finding]:
    for place, look in enumerate(known.looks):
        mask = look.mask
        if mask is None or look.error or mask.size == look.size:
            continue
        own, others = f"{look.size[1]}x{look.size[0]}", f"{mask.size[1]}x{mask.size[0]}"
        fitting = [other for other in known.looks if other is not look and other.size == mask.size and not other.fits]
        hint = f", as {image_file(fitting[0])} is" if len(fitting) == 1 else ""
        told = f"{mask_file(look)} is {others}{hint}, and {image_file(look)} is {own}."
        yield Finding(told, (mask_file(look), image_file(look)), (place,))


def _wrong_values(known: Known) -> Iterator[Finding]:
    for place in known.classes.misfits:
        look = known.looks[place]
        values = look.mask.values if look.mask is not None else ()
        told = ", ".join(f"{value:g}" for value in values[:6]) + (", ..." if len(values) > 6 else "")
        fitting = "0 and one value above it" if known.classes.out_channels == 1 else (
            f"the class numbers 0 to {known.classes.out_channels - 1}"
        )  # fmt: skip
        told = f"{mask_file(look)} holds the values {told}, and not {fitting}."
        yield Finding(told, (mask_file(look),), (place,))


def _across_splits(known: Known) -> Iterator[Finding]:
    return _doubles(known, across=True)


def _within_split(known: Known) -> Iterator[Finding]:
    return _doubles(known, across=False)


def _doubles(known: Known, *, across: bool) -> Iterator[Finding]:
    for pair in known.pairs:
        one, other = known.looks[pair.first], known.looks[pair.second]
        if (one.split != other.split) == across:
            splits = f"{one.split} and {other.split}" if across else f"both {one.split}"
            told = f"{image_file(one)} and {image_file(other)} show the same ({splits}; alike {pair.alike:.2f} of 1)."
            yield Finding(told, (image_file(one), image_file(other)), (pair.first, pair.second))


def _groups_across_splits(known: Known) -> Iterator[Finding]:
    members: dict[str, list[int]] = defaultdict(list)
    for place, look in enumerate(known.looks):
        if look.group:
            members[look.group].append(place)
    for group, places in members.items():
        splits = list(dict.fromkeys(known.looks[place].split for place in places))
        if len(splits) > 1:
            chosen = [next(place for place in places if known.looks[place].split == split) for split in splits]
            files = tuple(image_file(known.looks[place]) for place in places)
            told = f"The group of {group} is in {' and '.join(splits)}: {_some(files)}."
            yield Finding(told, files, tuple(chosen))


def _contradictions(known: Known) -> Iterator[Finding]:
    for pair in known.pairs:
        one, other = known.looks[pair.first], known.looks[pair.second]
        if not (one.fits and other.fits) or one.mask is None or other.mask is None:
            continue
        dice = overlap(one.mask.share, other.mask.share)
        if dice < _LEAST_OVERLAP:
            files = (mask_file(one), mask_file(other))
            told = f"{files[0]} and {files[1]} are of images that show the same, and their Dice is {dice:.2f}."
            yield Finding(told, files, (pair.first, pair.second))


def _equal_masks(known: Known) -> Iterator[Finding]:
    alike = {(pair.first, pair.second) for pair in known.pairs}
    first_of: dict[str, int] = {}
    for place, look in enumerate(known.looks):
        mask = look.mask
        if mask is None or not 0 < mask.foreground < 1:
            continue
        first = first_of.setdefault(mask.key, place)
        if first != place and (first, place) not in alike:
            files = (mask_file(known.looks[first]), mask_file(look))
            told = f"{files[0]} and {files[1]} are the same, pixel by pixel, and their images are not."
            yield Finding(told, files, (first, place))


def _full_masks(known: Known) -> Iterator[Finding]:
    for place, look in enumerate(known.looks):
        if look.mask is not None and len(look.mask.values) == 1 and look.mask.values[0]:
            told = f"{mask_file(look)} is {look.mask.values[0]:g} everywhere, so that all of the image is target."
            yield Finding(told, (mask_file(look),), (place,))


def _blank_images(known: Known) -> Iterator[Finding]:
    for place, look in enumerate(known.looks):
        if look.is_blank:
            told = f"{image_file(look)} is the same in all its pixels, so that there is nothing to see in it."
            yield Finding(told, (image_file(look),), (place,))


def _tiny_targets(known: Known) -> Iterator[Finding]:
    for place, look in enumerate(known.looks):
        if look.mask is None or not look.fits:
            continue
        scale = shown_scale(look, longest_side=known.longest_side)
        diameter = scale * math.sqrt(4 / math.pi * max(look.mask.areas, default=0))
        if 0 < diameter < LEAST_DIAMETER:
            told = (
                f"The largest target of {mask_file(look)} is {diameter:.1f} pixels wide at the planned size "
                f"(longest side {known.longest_side})."
            )
            yield Finding(told, (mask_file(look),), (place,))


def _specks(known: Known) -> Iterator[Finding]:
    found = []
    for place, look in enumerate(known.looks):
        if look.mask is None or not look.fits or place in known.classes.misfits:
            continue
        areas = look.mask.areas
        limit = math.pi / 4 * (LEAST_DIAMETER / shown_scale(look, longest_side=known.longest_side)) ** 2
        num_specks = int((areas < limit).sum())
        if num_specks and areas.max() >= _SPECK_OF_TARGET * limit:  # beside targets of another size
            told = f"{mask_file(look)}: {num_specks} of {len(areas)} pieces are specks."
            found.append(Finding(told, (mask_file(look),), (place,)))
    if len(found) < _MOST_WITH_SPECKS * len(known.looks):  # else small pieces are what targets of this kind have
        yield from found


def _nothing_to_learn(known: Known) -> Iterator[Finding]:
    masks = [look.mask for look in known.looks if look.split == "train" and look.mask is not None]
    if masks and all(mask.foreground == 0 for mask in masks):
        yield Finding(f"All {len(masks)} masks of the training images are 0 everywhere.", (), ())
    images = [look for look in known.looks if look.split == "train"]
    if images and all(look.is_blank for look in images):
        yield Finding(f"There is nothing to see in all {len(images)} training images.", (), ())


def _absent_classes(known: Known) -> Iterator[Finding]:
    for split in dict.fromkeys(look.split for look in known.looks):
        found = {
            int(value) if known.classes.out_channels > 1 else int(bool(value))
            for look in known.looks
            if look.split == split and look.mask is not None
            for value in look.mask.values
        }
        absent = sorted(set(range(max(known.classes.out_channels, 2))) - found)
        if found and absent:
            told = f"No mask of the {split} images has class {', '.join(map(str, absent))}."
            yield Finding(told, (), ())


def _rare_classes(known: Known) -> Iterator[Finding]:
    places = [
        place for place, look in enumerate(known.looks) if look.mask is not None and place not in known.classes.misfits
    ]
    if known.classes.out_channels == 1 or len(places) < _MASKS_TO_COMPARE:
        return
    holders: dict[int, list[int]] = defaultdict(list)
    for place in places:
        for value in known.looks[place].mask.values:  # type: ignore[union-attr]
            holders[int(value)].append(place)
    for value, held in sorted(holders.items()):
        if len(held) == 1:
            file = mask_file(known.looks[held[0]])
            yield Finding(f"Of {len(places)} masks, {file} alone has class {value}.", (file,), (held[0],))


def _turned(known: Known) -> Iterator[Finding]:
    for place, look in enumerate(known.looks):
        if look.may_be_turned:
            files = (image_file(look), mask_file(look))
            told = f"{files[0]} is turned upright by its EXIF orientation otherwise than {files[1]}."
            yield Finding(told, files, (place,))


def _around(known: Known) -> Iterator[Finding]:
    for place, look in enumerate(known.looks):
        if look.mask is not None and look.mask.at_border >= _WHOLE_BORDER and look.mask.foreground < 1:
            share = 100 * look.mask.foreground
            told = f"{mask_file(look)} covers all of the image's border, and {share:.0f} % of the image."
            yield Finding(told, (mask_file(look),), (place,))


def _some(files: Sequence[str]) -> str:
    more = f" and {len(files) - _NAMES_TOLD} more" if len(files) > _NAMES_TOLD else ""
    return ", ".join(files[:_NAMES_TOLD]) + more


_RULES: Mapping[tuple[str, str, str, str], Callable[[Known], Iterator[Finding]]] = {
    ("unreadable", FAULT, "Files that cannot be used", "Mend the files as the sentences say, or take them out."):
        _unreadable,
    ("nothing_to_learn", FAULT, "Nothing to learn", "Correct the masks or images: a training teaches nothing."):
        _nothing_to_learn,
    ("size", FAULT, "Masks of another size than their image",
     "Look whether masks were exchanged or resized, and give each image its own mask."): _misfits,
    ("values", FAULT, "Values in masks that do not fit",
     "Save each mask with 0 for the background and one value, or the class numbers 1, 2, ..., for the targets."):
        _wrong_values,
    ("duplicate_across_splits", FAULT, "One image in two splits",
     "Keep both in one split, by splits.json or a common group in groups.json, or remove one: results would be too "
     "good."): _across_splits,
    ("group_across_splits", FAULT, "One patient in two splits",
     "Put all images of a group into one split, or remove splits.json, so that splits are drawn by groups."):
        _groups_across_splits,
    ("contradicting_labels", FAULT, "Equal images with other labels",
     "Look which of the two masks is right, and correct or remove the other."): _contradictions,
    ("equal_masks", FAULT, "One mask of two images",
     "Look which image the mask belongs to, and give the other its own."): _equal_masks,
    ("full_mask", FAULT, "Masks without a background",
     "Look whether the mask is right; a wrong one is drawn anew, or removed with its image."): _full_masks,
    ("blank_image", FAULT, "Images with nothing to see", "Export the images again, or remove them with their masks."):
        _blank_images,
    ("tiny_target", FAULT, "Targets too small for the planned size",
     "Train with a larger longest_side, or look whether the masks hold a stray pixel."): _tiny_targets,
    ("duplicate_within_split", NOTE, "One image twice in a split",
     "Give both a common group in groups.json before cross-validation, or remove one."): _within_split,
    ("absent_class", NOTE, "Classes that a split lacks",
     "Put images with these classes into the split, or read its figures without them."): _absent_classes,
    ("rare_class", NOTE, "Classes of one mask alone",
     "Look whether the value was set by mistake, for it adds to out_channels; if it is right, label more such images."):
        _rare_classes,
    ("turned", NOTE, "Images that EXIF turns otherwise than their masks",
     "Look whether the mask lies on its target; if not, save image and mask as they are seen, without an orientation."):
        _turned,
    ("around", NOTE, "Masks around the whole image",
     "Look whether 0 is the background; exchange the two values where they are the wrong way round."): _around,
    ("specks", NOTE, "Specks beside the targets",
     "Look whether these pixels were set by mistake; some hundred of them do no harm to a training."): _specks,
}  # fmt: skip
