"""Risk control: curves against their definition, the threshold, the guarantee over many draws, and what is refused."""

import re

import numpy as np
import pytest
import torch

from icmoe_monai.calibration.conformal import (
    LEVELS,
    check_alpha,
    control_risk,
    controlled_mask,
    level_index,
    miss_curve,
    miss_rate,
)
from icmoe_monai.errors import InputError


def test_a_curve_is_the_share_of_the_lesion_below_each_level():
    voted, label = torch.rand(1, 30, 20), (torch.rand(1, 30, 20) > 0.7).int()
    curve = miss_curve(voted, label)
    assert curve is not None
    for k in range(0, len(LEVELS), 37):
        missed = controlled_mask(voted, float(LEVELS[k]))[label > 0] == 0
        assert curve[k] == pytest.approx(float(missed.float().mean()), abs=1e-6)
    assert curve[0] == 0
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] > 0.9


def test_foreground_of_several_classes_is_what_is_not_background():
    voted = torch.tensor([[0.7, 0.2, 0.9], [0.1, 0.3, 0.1], [0.2, 0.5, 0.0]]).reshape(3, 1, 3)
    curve = miss_curve(voted, torch.tensor([[[1, 2, 0]]]))
    assert curve is not None
    assert curve[np.searchsorted(LEVELS, 0.5)] == 0.5
    assert controlled_mask(voted, 0.25).flatten().tolist() == [2, 2, 0]


def test_the_threshold_is_the_largest_that_keeps_the_bound():
    curves = np.sort(np.random.default_rng(0).uniform(size=(40, len(LEVELS))), axis=1) ** 2
    curves[:, 0] = 0
    control = control_risk(curves, alpha=0.15)
    k = level_index(control.threshold)
    bounds = 40 / 41 * curves.mean(0) + 1 / 41
    assert bounds[k] <= 0.15 < bounds[k + 1]
    assert control.bound == pytest.approx(bounds[k])
    assert control.empirical_rate == pytest.approx(curves[:, k].mean())
    assert control.num_images == 40
    assert control_risk(curves, alpha=0.05).threshold < control.threshold


def test_a_controlled_mask_is_never_smaller_than_the_default():
    """A network that misses little keeps alpha with the default mask; a higher threshold would only take away."""
    voted = torch.full((1, 4, 4), 0.95)
    control = control_risk([miss_curve(voted, torch.ones(1, 4, 4))] * 20, alpha=0.3)
    assert control.threshold == 0.5
    assert control.empirical_rate == 0


@pytest.mark.parametrize(
    ("mask", "label", "rate"),
    [([0, 1, 2, 0], [1, 1, 1, 0], 1 / 3), ([0, 0, 0, 1], [1, 2, 0, 0], 1.0), ([1, 1, 1, 1], [0, 0, 0, 0], None)],
    ids=["classes", "all", "none"],
)
def test_a_masks_own_rate_is_the_share_of_the_lesion_it_leaves_out(mask, label, rate):
    found = miss_rate(torch.tensor(mask).reshape(1, 2, 2), torch.tensor(label).reshape(1, 2, 2))
    assert found == (rate if rate is None else pytest.approx(rate))


def test_the_expected_rate_of_a_further_image_is_kept():
    """Over many draws of calibration images the mean rate of further ones is at most alpha, and not far below it."""
    rng = np.random.default_rng(0)
    lesions = np.clip(rng.beta(4, 2, size=4000)[:, None] + rng.normal(0, 0.15, size=(4000, 60)), 0, 1)
    curves = [miss_curve(torch.tensor(lesion).float()[None, None], torch.ones(1, 1, 60)) for lesion in lesions]
    pool = np.stack(curves)
    achieved = []
    for _ in range(200):
        order = rng.permutation(len(pool))
        control = control_risk(pool[order[:50]], alpha=0.1)
        k = level_index(control.threshold)
        achieved.append(pool[order[50:], k].mean())
    standard_error = np.std(achieved) / np.sqrt(len(achieved))
    assert 0.07 < np.mean(achieved) <= 0.1 + 2 * standard_error


def test_an_image_without_foreground_has_no_curve():
    assert miss_curve(torch.rand(1, 4, 4), torch.zeros(1, 4, 4)) is None


@pytest.mark.parametrize(("n", "alpha", "needed"), [(8, 0.1, 9), (0, 0.5, 1), (18, 0.05, 19)])
def test_too_few_images_are_refused_and_told_how_many_are_needed(n, alpha, needed):
    sentence = f"alpha {alpha:g} needs at least {needed} validation images with foreground, and there are {n}"
    with pytest.raises(InputError, match=sentence):
        control_risk([np.zeros(len(LEVELS))] * n, alpha=alpha)
    assert control_risk([np.zeros(len(LEVELS))] * needed, alpha=alpha).threshold == 0.5


@pytest.mark.parametrize("num_images", [1, 6, 8])
def test_too_few_images_are_told_the_alpha_that_would_do(num_images):
    with pytest.raises(InputError, match=r"list \d+ or more under val in a splits\.json") as raised:
        check_alpha(0.01, num_images=num_images)
    enough = float(re.search(r"--alpha (\S+)", str(raised.value))[1])
    check_alpha(enough, num_images=num_images)
    with pytest.raises(InputError):
        check_alpha(enough - 0.011, num_images=num_images)


def test_too_few_images_of_folds_are_told_what_would_do_there():
    """All images that are no test images are gone through: lists of a splits.json would add none."""
    with pytest.raises(InputError, match=r"there are 7: label 2 or more further ones, or give --alpha 0\.13 for these"):
        check_alpha(0.1, num_images=7, of_folds=True)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, "0.1", None, True, float("nan")])
def test_an_alpha_that_is_no_rate_is_refused(alpha):
    with pytest.raises(InputError, match="alpha must be a number between 0 and 1"):
        check_alpha(alpha)
