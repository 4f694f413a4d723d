"""What a chain of transforms does, told apart from what another does."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from monai.transforms import Compose, Lambdad, RandAffined, RandFlipd, Resized

from icmoe_monai.training.transform_digest import digest_transform


class Gain:
    """A transform of a user's own, whose method stands in a chain."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def scale(self, x: float) -> float:
        return self.gain * x


def scaled(gain: float) -> Callable[[float], float]:
    return lambda x: x * gain


def with_default(gain: float) -> Callable[[float], float]:
    def scale(x: float, by: float = gain) -> float:
        return x * by

    return scale


SAME = {
    "affine": lambda: RandAffined("image", prob=0.5, rotate_range=0.1),
    "lambda": lambda: Lambdad("image", lambda x: x + 1),
    "partial": lambda: Lambdad("image", functools.partial(np.add, 1)),
    "closure": lambda: Lambdad("image", scaled(1.0)),
    "default": lambda: Lambdad("image", with_default(1.0)),
    "method": lambda: Lambdad("image", Gain(1.0).scale),
    "own class": lambda: Gain(1.0),
    "chain": lambda: Compose([RandFlipd("image", prob=0.5), Resized("image", 16, size_mode="longest")]),
}
OTHERS = {
    "affine's range": lambda: RandAffined("image", prob=0.5, rotate_range=0.2),
    "affine's probability": lambda: RandAffined("image", prob=0.4, rotate_range=0.1),
    "lambda's constant": lambda: Lambdad("image", lambda x: x + 2),
    "lambda's code": lambda: Lambdad("image", lambda x: x - 1),
    "partial's argument": lambda: Lambdad("image", functools.partial(np.add, 2)),
    "partial's function": lambda: Lambdad("image", functools.partial(np.subtract, 1)),
    "closure's value": lambda: Lambdad("image", scaled(0.0)),
    "default's value": lambda: Lambdad("image", with_default(0.0)),
    "method's owner": lambda: Lambdad("image", Gain(0.0).scale),
    "own class's value": lambda: Gain(0.0),
    "chain's order": lambda: Compose([Resized("image", 16, size_mode="longest"), RandFlipd("image", prob=0.5)]),
    "chain's mode": lambda: Compose([RandFlipd("image", prob=0.5), Resized("image", 16, "longest", mode="nearest")]),
    "chain's key": lambda: Compose([RandFlipd("label", prob=0.5), Resized("image", 16, size_mode="longest")]),
}


@pytest.mark.parametrize("build", SAME.values(), ids=SAME)
def test_the_same_transform_has_the_same_digest(build: Callable[[], object]) -> None:
    assert digest_transform(build()) == digest_transform(build())


def test_all_others_have_others() -> None:
    digests = {name: digest_transform(build()) for name, build in {**SAME, **OTHERS}.items()}
    assert len(set(digests.values())) == len(digests)


@pytest.mark.slow
def test_another_process_finds_the_same() -> None:
    program = """
from monai.transforms import Compose, RandFlipd
from icmoe_monai.training.transform_digest import digest_transform
print(digest_transform(Compose([RandFlipd("image", prob=0.5)])))
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said.strip() == digest_transform(Compose([RandFlipd("image", prob=0.5)]))


def test_what_cannot_be_told_by_its_values_is_never_the_same() -> None:
    assert digest_transform(i for i in range(3)) != digest_transform(i for i in range(3))


def test_a_function_that_takes_values_from_outside_is_never_the_same() -> None:
    """As a config's `$lambda x: x * @gain`, in which the value is a global."""
    functions = [eval("lambda x: x * outside", {"outside": gain}) for gain in (1.0, 1.0)]
    assert digest_transform(functions[0]) != digest_transform(functions[1])
    assert digest_transform(functions[0]) != digest_transform(functions[0])


def test_a_class_that_was_edited_is_another(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for number, sign in enumerate("+-"):
        (tmp_path / f"mine{number}.py").write_text(f"class Mine:\n    def __call__(self, x):\n        return {sign}x\n")
        mine = __import__(f"mine{number}").Mine
        mine.__module__ = "mine"
        monkeypatch.setitem(sys.modules, "mine", sys.modules[f"mine{number}"])
        digests.append(digest_transform(mine()))
    assert digests[0] != digests[1]
