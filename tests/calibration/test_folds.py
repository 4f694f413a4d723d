"""Folds of calibration images: groups stay whole, and images without groups are dealt one by one."""

import numpy as np
import pytest

from icmoe_monai.calibration.folds import deal


@pytest.mark.parametrize("num_groups", [2, 5, 17])
def test_a_group_is_in_one_fold_and_folds_have_as_many_groups(num_groups):
    groups = [f"patient {i % num_groups}" for i in range(51)]
    folds = deal(groups, 5, seed=3)
    of_group = {group: {fold for fold, name in zip(folds, groups, strict=True) if name == group} for group in groups}
    assert all(len(found) == 1 for found in of_group.values())
    numbers = np.bincount([found.pop() for found in of_group.values()])
    assert len(numbers) == min(5, num_groups)
    assert np.ptp(numbers) <= 1


def test_images_of_a_group_each_are_dealt_as_images_without_groups():
    names = [f"image {i}" for i in range(23)]
    assert deal(names, 5, seed=1).tolist() == deal(23, 5, seed=1).tolist()
    assert deal(names, 5, seed=1).tolist() != deal(names, 5, seed=2).tolist()


def test_no_images_are_no_folds():
    assert deal([], 5, seed=0).tolist() == []
