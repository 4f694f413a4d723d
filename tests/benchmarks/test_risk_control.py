"""The benchmark of risk control: it sees a promise that is kept, and one that is broken."""

import numpy as np
import pytest

from benchmarks.reliability.risk_control import judge, random_splits
from icmoe_monai.calibration.conformal import LEVELS


def curves(n: int, *, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return rates of lesions whose pixels are as probable as a normal's logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1.0 - shift, 1.5, size=(n, 1)) + rng.normal(size=(n, 80))
    levels = np.log(LEVELS[1:] / (1 - LEVELS[1:].astype(np.float64)))
    missed = (logits[:, None] < levels[:, None]).mean(2)
    return np.concatenate([np.zeros((n, 1)), missed], axis=1)


def test_random_splits_keep_the_promise():
    found = random_splits(curves(200), 0.1, num_splits=20)
    assert 0.06 < found["mean_rate"] < 0.11
    assert found["num_holding"] >= 18
    assert len(found["splits"]) == 20
    assert len({split["threshold"] for split in found["splits"]}) > 5
    assert found == random_splits(curves(200), 0.1, num_splits=20)


@pytest.mark.parametrize(("shift", "holds"), [(0.0, True), (3.0, False)])
def test_images_of_another_kind_break_it_and_that_is_seen(shift, holds):
    result = judge(curves(200), curves(200, shift=shift, seed=1), 0.1, seed=0)
    assert result["holds"] is holds
    assert result["interval"][0] < result["rate"] < result["interval"][1]
