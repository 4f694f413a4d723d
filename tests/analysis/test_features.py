"""Points of features: where they are taken, whether two networks are compared at the same places, and how alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from icmoe_monai.analysis.features import (
    NO_CLASS,
    FeatureComparison,
    Points,
    Window,
    collect_points,
    flatten,
    pure_classes,
    similarity,
    take_window,
)
from icmoe_monai.errors import InputError
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid


def window(size: int = 64) -> Window:
    label = torch.zeros(size, size, dtype=torch.long)
    label[: size // 2] = 1
    image = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0)) + label * 2
    return Window(image, label)


def test_window_is_the_middle_or_the_padded_whole():
    image = torch.arange(12.0).repeat(3, 8, 1)
    label = (torch.arange(24) >= 12).float().repeat(1, 16, 1)
    cut = take_window(image, label, 4)
    assert cut.image[0, 0].tolist() == [4, 5, 6, 7]
    assert cut.label[0].tolist() == [0, 0, 1, 1]
    padded = take_window(image, label, 16)
    assert padded.label[8].tolist() == [NO_CLASS] * 2 + [0] * 6 + [1] * 6 + [NO_CLASS] * 2
    assert padded.label[0].tolist() == [NO_CLASS] * 16
    assert padded.image[0, 8].tolist() == [0, 0, *range(12), 0, 0]


def test_cells_are_of_one_class():
    label = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 2, NO_CLASS]])
    assert pure_classes(label, (1, 3), 3).tolist() == [[0, NO_CLASS, NO_CLASS]]
    assert pure_classes(label[:1], (1, 3), 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("experts", "K"), [(["basic"], 1), (["basic", "semantic"], 3)], ids=["one", "two, classes"])
def test_points_are_of_each_depth_and_expert(experts, K):
    network = ICMoE(experts=experts, out_channels=K)
    points = collect_points(network, [window(), window()], num_points=32)
    depths = ["features", "decoded"] + (["embeddings"] if "semantic" in experts else [])
    assert list(points) == depths
    assert all(list(points[depth]) == experts for depth in depths[:2])
    for by_expert in points.values():
        for found in by_expert.values():
            assert len(found.features) == len(found.classes) > 10
            assert set(found.classes) == {0, 1}
            assert np.isfinite(found.features).all()
    assert not network.training


def test_without_an_encoder_an_experts_features_are_its_own_networks():
    network = ICMoE(backbone=None, detail=ImagePyramid(), own_network={"semantic": "lite1", "adaptive": "lite2"})
    found = collect_points(network, [window()], num_points=10_000)["features"]  # every pure cell
    with torch.no_grad():
        own = network.views["adaptive"].pyramid(window().image[None])[3][0]
        frozen = network.detail(window().image[None])[3][0]
    for name, expected in (("basic", frozen), ("adaptive", own)):
        ours = np.sort(found[name].features, axis=0)
        np.testing.assert_allclose(ours, np.sort(expected.flatten(1).T.numpy(), axis=0), atol=1e-5)


def test_points_are_the_networks_own_at_the_labels_places():
    network = ICMoE()
    one = window()
    found = collect_points(network, [one], num_points=10_000)  # every pure cell
    with torch.no_grad():
        features = network.expert_features(network.trunk(one.image[None]))
        expected = network.decode(features, network.detail(one.image[None]))[0][2][0]
        embeddings = network.train()(one.image[None]).embeddings
    h = expected.shape[-1]
    assert len(found["decoded"]["adaptive"].classes) == h * h
    ours = np.sort(found["decoded"]["adaptive"].features, axis=0)
    np.testing.assert_allclose(ours, np.sort(expected.flatten(1).T.numpy(), axis=0), atol=1e-5)
    assert found["embeddings"]["semantic"].features.shape[1] == embeddings.shape[1]


def test_two_networks_are_compared_at_the_same_places():
    torch.manual_seed(1)
    first, second = ICMoE(experts=["basic"]), ICMoE(experts=["basic"])
    second.encoder.load_state_dict(first.encoder.state_dict())
    drawing = {"num_points": 20, "seed": 3}
    a, b = (collect_points(each, [window()], **drawing) for each in (first, second))
    np.testing.assert_array_equal(a["features"]["basic"].features, b["features"]["basic"].features)
    np.testing.assert_array_equal(a["decoded"]["basic"].classes, b["decoded"]["basic"].classes)
    assert not np.array_equal(a["decoded"]["basic"].features, b["decoded"]["basic"].features)


def test_a_baseline_has_no_features():
    assert collect_points(nn.Conv2d(3, 1, 1), [window()]) == {}


def test_similarity_by_hand():
    features = np.repeat(np.array([[1.0, 0.0], [0.0, 2.0]]), 6, axis=0)
    found = similarity(Points(features, np.repeat([0, 1], 6)))
    assert found is not None
    assert found["means"] == {"foreground": 1, "background": 1, "between": 0}
    assert (found["separation"], found["auc"]) == (1, 1)
    assert (len(found["foreground"]), len(found["between"])) == (15, 36)
    mixed = similarity(Points(features, np.tile([0, 1], 6)))
    assert mixed is not None
    assert mixed["auc"] < 0.5
    # two foreground classes are no pair of one class
    apart = similarity(Points(np.repeat(np.eye(3), 6, axis=0), np.repeat([0, 1, 2], 6)))
    assert apart is not None
    assert (apart["means"]["foreground"], len(apart["between"])) == (1, 72)
    assert similarity(Points(features, np.zeros(12, int))) is None


def test_tsne_keeps_what_is_apart_apart():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 1, (30, 8)), rng.normal(9, 1, (30, 8))])
    points = Points(features, np.repeat([0, 1], 30))
    with threadpool_limits(1):  # the order in which threads add up their parts is chance
        places = flatten(points)
        np.testing.assert_array_equal(places, flatten(points))
    assert places.shape == (60, 2)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (points.classes[distances.argmin(1)] == points.classes).mean() > 0.95


def test_comparison_takes_windows_evenly():
    network = ICMoE(experts=["basic"])
    comparison = FeatureComparison(
        network=network, before=network, before_name="/home/me/other.pt", window_size=64, num_windows=2, num_points=40
    )
    comparison.start(4)
    for index in range(4):
        comparison.add(index, window().image + index, window().label[None])
    assert [round(float(each.image.mean() - window().image.mean())) for each in comparison.windows] == [1, 3]
    spread, before, after = comparison.compare()
    assert comparison.before_name == "other.pt"
    assert list(after) == list(before) == ["features: basic", "decoded: basic"]
    assert spread["decoded"]["basic"][0].shape[1] == 2


@pytest.mark.parametrize("counts", [{"num_windows": 0}, {"num_points": 0}])
def test_nothing_to_look_at_is_refused(counts):
    with pytest.raises(InputError, match="num_windows and num_points must be at least 1, got"):
        FeatureComparison(network=nn.Identity(), before=nn.Identity(), **counts)


def test_an_ensemble_of_folds_is_refused_in_a_sentence():
    folds = FoldEnsemble([ICMoE(backbone=None, detail=ImagePyramid()) for _ in range(2)])
    with pytest.raises(InputError, match=r"analyze one of them, such as fold_1/best\.pt"):
        FeatureComparison(network=folds, before=folds).start(3)
