"""What a plan chooses, each with its reason in a sentence.

The figures that reasons go by were measured on public sets (docs/results.md, docs/method.md), or are written beside
the constants. What the user has set stays as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from icmoe_monai.errors import InputError
from icmoe_monai.planning.classes import Classes
from icmoe_monai.planning.facts import target_diameters, thickness
from icmoe_monai.planning.looks import Look
from icmoe_monai.training.decoders import FINE
from icmoe_monai.utils.memory import free_bytes

GB = 1e9
_UNKNOWN = 10 * GB  # where the system does not tell what is free
_PATCH = 16  # sides are multiples of it
_WINDOWS = (256, 192, 128)  # sides of a window, as memory allows
_BATCHES = (4, 2, 1)
_GPU_BATCH = 8  # as the published studies have it
# Bytes of a training: at batch 8 3.0 GB at 256 pixels and 1.3 to 1.6 GB at 128 (docs/results.md, columns "peak").
_FIXED, _OF_IMAGE = 0.9 * GB, 0.29 * GB
_OF_FULL = 2.2  # times as many bytes of an image with full decoders: 1.8 to 2.0 GB at 128 pixels (study full)
_READER = 0.25 * GB  # of a process that reads images
CACHED = 16  # bytes of a pixel in the cache: three channels and the label, float32
_THIN = 6.0  # pixels; targets that are thinner are shown larger
_THINNEST = 3.0  # pixels, at twice the window
_MANY = 4  # targets of an image, from which on a window shows enough of them
_MOST_OF_WINDOW = 0.5  # share of a window that the median of many targets may be wide
_MOST_STEPS = 12_000  # some 30 passes over 1500 images; the schedule ends where a longer one would gain little
_EPOCHS, _STEPS, _LEAST_EPOCHS = 60, 100, 10
_PASSES = 30  # over an image, from which on more varied ones are as good or better
_UPRIGHT = 0.15  # by how much masks correlate more as they are than turned by a quarter
_FIVE_FOLDS, _THREE_FOLDS = 1000, 3000  # images, up to which so many trainings are worth their time
_STRONG = {  # configs/ablations/strong_augmentation.yaml
    "augmentation#affine#prob": 0.9,
    "augmentation#affine#rotate_range": 3.14,
    "augmentation#affine#scale_range": [0.4, 0.4],
    "augmentation#intensity_scale#factors": 0.4,
    "augmentation#intensity_shift#offsets": 0.4,
}


class Choice(NamedTuple):
    """Hold what is chosen for a setting, or for several that belong together.

    Attributes:
        title: What the choice is about.
        settings: Values by the settings' names.
        reason: Why, in a sentence.
    """

    title: str
    settings: dict[str, Any]
    reason: str


class Machine(NamedTuple):
    """Hold what a training may use.

    Attributes:
        memory: Bytes; on a GPU the GPU's.
        num_cores: CPU cores.
        is_gpu: Whether the network runs on a GPU.
        is_given: Whether the user has given the memory.
    """

    memory: float
    num_cores: int
    is_gpu: bool
    is_given: bool

    @property
    def told(self) -> str:
        """The memory in words."""
        return f"{self.memory / GB:.1f} GB{'' if self.is_given else ' that this machine has free, less a fifth'}"


class Window(NamedTuple):
    """Hold the sizes at which a network sees images, in pixels."""

    image_size: int
    longest_side: int


def choose(looks: Sequence[Look], classes: Classes, machine: Machine, given: Mapping[str, Any]) -> list[Choice]:
    """Choose the settings of a training.

    Args:
        looks: What was seen of the cases.
        classes: How masks are read.
        machine: What the training may use.
        given: Settings that the user has set, by name; they stay.

    Raises:
        InputError: If the memory is too small for any training.
    """
    train = [look for look in looks if look.split == "train"]
    sizes, batch_size = _choose_sizes(looks, machine, given)
    window = Window(sizes.settings["image_size"], sizes.settings["longest_side"])
    decoder = _choose_decoder(looks, window, batch_size, machine, given)
    needed = bytes_of_training(batch_size, window.image_size, decoder=decoder.settings["decoder"])
    num_epochs = _choose_steps(len(train), batch_size, given)
    length = max(num_epochs.settings["min_steps"], math.ceil(len(train) / batch_size))
    passes = num_epochs.settings["max_epochs"] * length * batch_size / max(len(train), 1)
    return [
        Choice("classes", {"out_channels": classes.out_channels}, f"Classes: {classes.reason}"),
        sizes,
        decoder,
        _tell_batch(batch_size, needed, machine, given),
        num_epochs,
        _choose_augmentation(looks, passes, given),
        *_choose_caches(looks, window, needed, machine, given),
        _choose_readers(machine, given),
    ]


def choose_folds(looks: Sequence[Look]) -> tuple[int, str]:
    """Return the number of folds that are worth their time, 1 for none, and the reason in a sentence.

    Args:
        looks: What was seen of the cases.
    """
    labelled = [look for look in looks if look.split in ("train", "val") and look.mask is not None]
    num_groups = len({look.group or look.name for look in labelled})
    if len(labelled) > _THREE_FOLDS or num_groups < 3:
        why = "so many images train and validate well in one split" if num_groups >= 3 else "there are too few images"
        return 1, f"No folds: {why}."
    folds = min(5 if len(labelled) <= _FIVE_FOLDS else 3, num_groups)
    return folds, (
        f"{folds} folds: every one of the {len(labelled)} images for training and validation is then predicted by a "
        "network that has not seen it, and the networks may vote together."
    )


def bytes_of_training(batch_size: int, image_size: int, num_workers: int = 0, *, decoder: str = "light") -> float:
    """Return the memory that a training is expected to take, without its cache, in bytes.

    Args:
        batch_size: Images in a step.
        image_size: Side of the window in pixels.
        num_workers: Processes that read images.
        decoder: Size of the decoders.
    """
    of_image = _OF_IMAGE * (_OF_FULL if decoder == "full" else 1)
    return _FIXED + of_image * batch_size * (image_size / 256) ** 2 + _READER * num_workers


def _choose_sizes(looks: Sequence[Look], machine: Machine, given: Mapping[str, Any]) -> tuple[Choice, int]:
    """Choose the window and the longest side, and the batch: 4 images in the largest window, else less of either."""
    windows = [given["image_size"]] if "image_size" in given else list(_WINDOWS)
    batches = [_GPU_BATCH, *_BATCHES] if machine.is_gpu else list(_BATCHES)
    batches = [given["batch_size"]] if "batch_size" in given else batches
    pairs = [(window, batch) for window in windows for batch in batches]
    room, decoder = machine.memory, given.get("decoder", "light")
    window, batch = next(
        (pair for pair in pairs if bytes_of_training(pair[1], pair[0], decoder=decoder) <= room), pairs[-1]
    )
    needed = bytes_of_training(batch, window, decoder=decoder)
    if needed > room and not given.keys() & {"image_size", "batch_size"}:
        raise InputError(
            f"The memory of {machine.told} is too small: the smallest training takes about {needed / GB:.1f} GB. Free "
            "some, or give more, --memory 4GB."
        )
    longest, reason = _choose_longest_side(looks, window)
    if "longest_side" in given:
        longest, reason = int(given["longest_side"]), "you have set the longest side."
    way = "whole images in one window" if longest <= window else "windows that slide over the image"
    sizes = {"image_size": window, "longest_side": longest}
    return Choice("sizes", sizes, f"{way.capitalize()}: {reason}"), batch


def _tell_batch(batch_size: int, needed: float, machine: Machine, given: Mapping[str, Any]) -> Choice:
    why = {4: "the learning rate belongs to 4 images a step", _GPU_BATCH: "as in the published studies"}
    reason = why.get(batch_size, "more do not fit") if "batch_size" not in given else "you have set it"
    fits = f"about {needed / GB:.1f} GB of the {machine.told}"
    return Choice("batch", {"batch_size": batch_size}, f"A step of {batch_size} images takes {fits}, and {reason}.")


def _choose_longest_side(looks: Sequence[Look], window: int) -> tuple[int, str]:
    sides = [look.longest for look in looks if look.longest]
    largest = int(np.median(sides)) // _PATCH * _PATCH if sides else window
    thin = thickness(looks, longest_side=window)
    if thin is None:
        return window, "there is no target to go by."
    if largest < 1.25 * window:
        return window, f"the images themselves are {largest} pixels long."
    if thin < _THIN:
        times = 4 if 2 * thin < _THINNEST and largest >= 4 * window else 2
        side = min(times * window, largest)
        return side, (
            f"targets are {thin:.1f} pixels thick at {window}, and {thin * side / window:.1f} at {side} pixels, where "
            "what is a few pixels thick can be drawn."
        )
    diameters = target_diameters(looks, longest_side=2 * window)
    diameters = diameters[diameters >= _THINNEST]
    num_masks = sum(bool(look.fits and look.mask and len(look.mask.areas)) for look in looks)
    if len(diameters) >= _MANY * num_masks and np.median(diameters) <= _MOST_OF_WINDOW * window:
        side = min(2 * window, largest)
        return side, (
            f"an image has {len(diameters) / num_masks:.0f} targets, so that a window of {window} pixels at a longest "
            f"side of {side} still shows several, each of them larger."
        )
    return window, f"targets are {thin:.0f} pixels thick at {window} pixels, and an image shows few: all of it counts."


def _choose_decoder(
    looks: Sequence[Look], window: Window, batch_size: int, machine: Machine, given: Mapping[str, Any]
) -> Choice:
    """Choose the size of the decoders by how thick targets are as the network sees them."""
    if "decoder" in given:
        return Choice("decoder", {"decoder": given["decoder"]}, "The decoders are of the size that you have set.")
    thin = thickness(looks, longest_side=window.longest_side, percentile=50)
    needed = bytes_of_training(batch_size, window.image_size, decoder="full")
    kind = "light"
    if thin is None:
        why = "there is no target to go by"
    elif thin >= FINE:
        why = f"targets are {thin:.0f} pixels thick as planned, and full ones draw only what is thinner better"
    elif needed > machine.memory:
        why = f"full ones would draw targets of {thin:.1f} pixels better, and would take about {needed / GB:.1f} GB"
    else:
        kind = "full"
        why = f"targets are {thin:.1f} pixels thick as planned, which these draw better, at every pixel"
    return Choice("decoder", {"decoder": kind}, f"{kind.capitalize()} decoders: {why}.")


def _choose_steps(num_images: int, batch_size: int, given: Mapping[str, Any]) -> Choice:
    least = int(given.get("min_steps", _STEPS))
    length = max(least, math.ceil(num_images / batch_size))
    epochs = max(_LEAST_EPOCHS, min(_EPOCHS, _MOST_STEPS // length))
    if "max_epochs" in given:
        epochs = int(given["max_epochs"])
        why = "you have set the number of epochs"
    elif epochs < _EPOCHS:
        why = f"with {num_images} images an epoch has {length} steps, and more than {_MOST_STEPS} gain little"
    elif length == least:
        why = f"an epoch repeats the {num_images} images up to {least} steps, so that validations are not too many"
    else:
        why = f"an epoch is one pass over the {num_images} images"
    return Choice(
        "steps",
        {"max_epochs": epochs, "min_steps": least},
        f"At most {epochs} epochs of {length} steps: {why}; it stops early where the validation no longer improves.",
    )


def _choose_augmentation(looks: Sequence[Look], passes: float, given: Mapping[str, Any]) -> Choice:
    if any(name.startswith("augmentation") for name in given):
        return Choice("augmentation", {}, "Augmentation stays as you have set it.")
    thin = thickness(looks, longest_side=_WINDOWS[0])
    if thin is not None and thin < _THIN:
        reason = "targets are thin, and images shrunk further would lose them"
    elif _are_upright(looks):
        reason = (
            "the masks lie at one place in all images, so that images turned upside down would show what never comes"
        )
    elif passes < _PASSES:
        reason = f"an image is seen {passes:.0f} times, too seldom to need more varied copies"
    else:
        return Choice("augmentation", dict(_STRONG), (
            f"Strong augmentation: an image is seen {passes:.0f} times, and in study longer more varied copies were "
            "level or up to 0.005 better on three sets."
        ))  # fmt: skip
    return Choice("augmentation", {}, f"Augmentation as it is: {reason}.")


def _are_upright(looks: Sequence[Look]) -> bool:
    """Return whether masks are more alike as they are than turned by a quarter."""
    shares = [look.mask.share for look in looks if look.mask is not None and look.mask.areas.size]
    if len(shares) < 2:
        return False
    side = shares[0].shape[0] // 16
    maps = np.stack([share.astype(np.float32).reshape(16, side, 16, side).mean(axis=(1, 3)) for share in shares])
    maps -= maps.mean(axis=(1, 2), keepdims=True)
    maps /= np.maximum(np.linalg.norm(maps, axis=(1, 2), keepdims=True), 1e-6)
    mean = maps.mean(axis=0)
    return float((mean * mean).sum() - (mean * np.rot90(mean)).sum()) > _UPRIGHT


def _choose_caches(
    looks: Sequence[Look], window: Window, of_training: float, machine: Machine, given: Mapping[str, Any]
) -> list[Choice]:
    """Choose how many images stay in memory, which is the CPU's also where the network is on a GPU."""
    room = (1.0 if machine.is_gpu else 0.8) * machine.memory - of_training
    train = [look for look in looks if look.split == "train" and look.size[0]]
    val = [look for look in looks if look.split == "val" and look.size[0]]
    needed = sum(CACHED * pixels_of(look, window) for look in train)
    at_own_size = sum(12 * pixels_of(look, window) + look.size[0] * look.size[1] for look in val)
    rate = 1.0 if needed <= room else round(max(room, 0) / needed - 0.05, 1)
    rate = max(rate, 0.0)
    left = room - rate * needed
    val_rate = 1.0 if at_own_size <= left else 0.0
    size = f"{needed / GB:.2f} GB"
    why = f"The training images stay in memory, {size}."
    if rate < 1:
        why = f"A share of {rate:g} of the training images stays in memory: all would take {size}."
    cache = {"cache_rate": given.get("cache_rate", rate), "val_cache_rate": given.get("val_cache_rate", val_rate)}
    if val_rate != rate:
        kept = "are read anew each time" if val_rate == 0 else "stay in memory"
        why += f" The validation's, {at_own_size / GB:.2f} GB with labels at their own size, {kept}."
    features = Choice(
        "features",
        {"cache_features": given.get("cache_features", False)},
        "Features are not cached: most experts have networks of their own, which are trained and must run at each step."
        if "cache_features" not in given
        else "Features are cached, or not, as you have set it.",
    )
    return [Choice("cache", cache, why), features]


def pixels_of(look: Look, window: Window) -> float:
    """Return the number of pixels of an image as the network sees it, padded to a window.

    Args:
        look: What was seen of the case.
        window: The planned sizes.
    """
    scale = window.longest_side / max(look.longest, 1)
    return float(np.prod([max(side * scale, window.image_size) for side in look.size]))


def _choose_readers(machine: Machine, given: Mapping[str, Any]) -> Choice:
    most = 8 if machine.is_gpu else 2
    readers = int(given.get("num_workers", max(0, min(most, machine.num_cores - 1 if machine.is_gpu else most))))
    readers = 0 if machine.num_cores < 2 and "num_workers" not in given else readers
    why = "you have set it" if "num_workers" in given else f"this machine has {machine.num_cores} cores"
    return Choice("readers", {"num_workers": readers}, f"{readers} processes prepare images: {why}.")


def find_machine(memory: float | None, device: str | None) -> Machine:
    """Return what a training on this machine may use.

    Args:
        memory: Bytes that the user gives; None takes what is free, less a fifth.
        device: The user's device; None: a GPU where there is one.
    """
    is_gpu = str(device).startswith("cuda") if device else torch.cuda.is_available()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if memory is not None:
        return Machine(memory, cores, is_gpu, True)
    of_gpu = is_gpu and torch.cuda.is_available()
    free = float(torch.cuda.mem_get_info()[0]) if of_gpu else free_bytes() or _UNKNOWN
    return Machine(0.8 * free, cores, is_gpu, False)
