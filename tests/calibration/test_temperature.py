"""Calibrated probabilities: known maps are found again, the choice among variants, and the calibration error."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from icmoe_monai.calibration.temperature import (
    Temperature,
    bin_sums,
    calibration_error,
    fit_temperature,
    sample_pixels,
    temperature_from,
)


def images(n: int, true: Temperature, *, num_classes: int = 1, seed: int = 0):
    """Return probabilities, disagreement and labels that are drawn from the calibrated probabilities."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        shape = (num_classes, 40, 50)
        voted = torch.sigmoid(3 * torch.randn(shape, generator=rng))
        voted = torch.softmax(3 * torch.randn(shape, generator=rng), 0) if num_classes > 1 else voted
        apart = 0.6 * torch.rand((1, 40, 50), generator=rng)
        p = true(voted, apart)
        p = torch.cat([1 - p, p]) if num_classes == 1 else p
        label = torch.multinomial(p.flatten(1).T, 1, generator=rng).reshape(1, 40, 50)
        found.append((voted, apart, label))
    return found


def samples(found, num_pixels=1500):
    return [sample_pixels(*image, image=i, num_pixels=num_pixels) for i, image in enumerate(found)]


@pytest.mark.parametrize(
    ("true", "num_classes", "variant"),
    [
        (Temperature(2.0, 0.0, (0.0, 0.0)), 1, "temperature"),
        (Temperature(1.5, 0.0, (0.0, -1.0)), 1, "temperature + bias"),
        (Temperature(0.8, 2.0, (0.0, 0.0)), 1, "temperature + disagreement"),
        (Temperature(1.3, 1.5, (0.0, 0.7, -0.4)), 3, "temperature + bias + disagreement"),
    ],
    ids=["temperature", "bias", "disagreement", "three-classes"],
)
def test_the_map_that_made_the_labels_is_found_again(true, num_classes, variant):
    fitted, told = fit_temperature(samples(images(40, true, num_classes=num_classes), num_pixels=500))
    if variant == "temperature":  # a variant with more can win by chance, and must then do nothing
        assert told["variant"].startswith("temperature")
    else:
        assert told["variant"] == variant
    assert np.log(fitted.temperature) == pytest.approx(np.log(true.temperature), abs=0.12)
    assert fitted.disagreement == pytest.approx(true.disagreement, abs=0.3)
    assert fitted.bias == pytest.approx(true.bias, abs=0.12)
    assert told["nll_after"] < told["nll_before"]
    assert told["ece_after"] < 0.02 < told["ece_before"]


@pytest.mark.parametrize(("n", "variant"), [(19, "temperature"), (20, "temperature + bias")])
def test_few_images_are_given_no_more_than_they_can_tell(n, variant):
    """Ten for each number; three numbers from ten images made the glands' probabilities worse."""
    _, told = fit_temperature(samples(images(n, Temperature(1.5, 0.0, (0.0, -1.0))), num_pixels=300))
    assert told["variant"] == variant


def test_probabilities_stay_where_no_fit_carries_over_to_other_images():
    one, two = (images(1, Temperature(t, 0.0, (0.0, 0.0)))[0] for t in (3.0, 0.33))
    fitted, told = fit_temperature(samples([one, two]))
    assert fitted == Temperature(1.0, 0.0, (0.0, 0.0))
    assert told["variant"] == "none"
    assert told["nll_after"] == told["nll_before"]


def test_one_temperature_is_the_sigmoid_of_a_scaled_logit_and_keeps_the_mask():
    voted, apart = torch.rand(1, 8, 9), torch.rand(1, 8, 9)
    calibrated = Temperature(1.7, 0.0, (0.0, 0.0))(voted, apart)
    assert calibrated.numpy() == pytest.approx(expit(logit(voted.double().numpy()) / 1.7), abs=1e-6)
    assert torch.equal(calibrated > 0.5, voted > 0.5)
    with_apart = Temperature(1.7, 1.2, (0.0, -0.5))(voted, apart)
    expected = expit(logit(voted.double().numpy()) / (1.7 * np.exp(1.2 * apart.double().numpy())) - 0.5)
    assert with_apart.numpy() == pytest.approx(expected, abs=1e-6)


def test_probabilities_of_several_classes_sum_to_one():
    voted = torch.softmax(torch.randn(4, 5, 6), 0)
    calibrated = Temperature(2.0, 0.5, (0.0, 1.0, -1.0, 0.5))(voted, torch.rand(1, 5, 6))
    assert calibrated.shape == (4, 5, 6)
    assert torch.allclose(calibrated.sum(0), torch.ones(5, 6))


def test_an_image_counts_by_its_pixels_whatever_is_drawn_of_it():
    small = (torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
    large = (torch.full((1, 40, 40), 0.5), torch.zeros(1, 40, 40), torch.ones(1, 40, 40))
    drawn = samples([small, large], num_pixels=10)
    assert [len(sample.classes) for sample in drawn] == [10, 10]
    assert [sample.weights.sum() for sample in drawn] == pytest.approx([16, 1600])
    again = samples([small, large], num_pixels=10)
    assert all(np.array_equal(a, b) for a, b in zip(drawn[1], again[1], strict=True))


def test_certain_and_right_pixels_have_a_finite_temperature():
    image = (torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 1, 2), torch.tensor([[[0, 1]]]))
    fitted, told = fit_temperature(samples([image]))
    assert np.isfinite(fitted.temperature)
    assert told["variant"] == "temperature"
    assert told["nll_after"] is None


def test_the_calibration_error_is_its_definition():
    p = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.95, 0.95, 1.0]).reshape(1, 1, 7)
    label = torch.tensor([0, 0, 0, 1, 1, 0, 1]).reshape(1, 1, 7)
    # bins of 1/15: three are in use, and 0.95 and 1.0 share the last
    expected = (4 * abs(0.1 - 0.25) + 3 * abs(2.9 / 3 - 2 / 3)) / 7
    assert calibration_error(bin_sums(p, label)) == pytest.approx(expected)
    halves = bin_sums(p[..., :3], label[..., :3]) + bin_sums(p[..., 3:], label[..., 3:])
    assert halves == pytest.approx(bin_sums(p, label))


def test_the_calibration_error_of_classes_is_of_the_top_one():
    p = torch.tensor([[0.7, 0.2], [0.2, 0.7], [0.1, 0.1]]).reshape(3, 1, 2)
    label = torch.tensor([0, 2]).reshape(1, 1, 2)
    assert calibration_error(bin_sums(p, label)) == pytest.approx(abs(0.7 - 0.5))


def test_a_map_comes_back_from_its_file():
    fitted = Temperature(1.25, 0.5, (0.0, -0.25))
    assert temperature_from(json.loads(json.dumps(fitted._asdict()))) == fitted
