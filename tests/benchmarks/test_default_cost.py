"""What the default network costs: counts by hand, parts that are the whole, ratios of one run."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.cost import default_parts, rivals, roofline, rows
from benchmarks.cost.counting import Counter, Counting, beside_limit
from benchmarks.cost.measure import Stopwatch
from benchmarks.cost.wanted import wanted_of_default
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.settings import trainable_parameters


def count(run) -> tuple[int, int]:
    with Counting() as counting:
        run()
    return counting.flops, counting.num_bytes


def test_a_matrix_product_counts_two_for_each_multiplication_and_moves_three_matrices():
    a, b = torch.ones(5, 7), torch.ones(7, 3)
    assert count(lambda: a @ b) == (2 * 5 * 7 * 3, 4 * (5 * 7 + 7 * 3 + 5 * 3))


@pytest.mark.parametrize(
    ("layer", "forward"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, bias=False), 2 * 9 * 4 * 6 * 8 * 8),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), 2 * 9 * 4 * 6 * 4 * 4),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), 2 * 25 * 4 * 8 * 8),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), 2 * 4 * 4 * 6 * 8 * 8),
    ],
    ids=["plain", "stride 2", "depthwise", "transposed"],
)
def test_a_convolution_counts_its_products_once_forward_and_twice_backward(layer, forward):
    image = torch.ones(3, 4, 8, 8, requires_grad=True)
    found = layer(image)
    assert count(lambda: layer(image))[0] == 3 * forward
    assert count(found.sum().backward)[0] == 2 * 3 * forward
    without = layer(image.detach())
    assert count(without.sum().backward)[0] == 3 * forward  # of the weights alone


def test_bytes_are_those_of_what_goes_in_and_comes_out():
    a = torch.ones(10, 10)
    assert count(lambda: a + a) == (0, 3 * 400)
    assert count(lambda: a.add_(1)) == (0, 2 * 400)
    assert count(lambda: torch.cat([a, a])) == (0, 4 * 400)
    assert count(lambda: a.t()[2:].reshape(8, 10).view(8, 10)) == (0, 0)  # as many views
    assert count(lambda: torch.empty(10)) == (0, 0)
    assert count(lambda: torch.ones(1, 10).expand(10, 10) + a)[1] == 40 + 40 + 2 * 400  # written, read once


def test_a_limit_is_the_longer_of_arithmetic_and_bytes():
    rates = {"flops_per_second": 1e9, "bytes_per_second": 2e9}
    found = beside_limit({"flops": 3 * 10**9, "bytes": 10**9}, 6.0, **rates)
    assert (found["limit_seconds"], found["of_limit"]) == (3.0, 0.5)
    assert (found["gflops_per_second"], found["gb_per_second"]) == (0.5, 0.167)
    assert beside_limit({"flops": 10**9, "bytes": 8 * 10**9}, 8.0, **rates)["limit_seconds"] == 4.0


def small_row(seed: int = 0) -> rows.Row:
    torch.manual_seed(seed)
    own = {"semantic": "lite0", "adaptive": "lite0"}
    network = ICMoE(backbone=None, detail=ImagePyramid(), own_network=own, deference=5.0)
    loss = ICMoELoss(expert_weight=3.0, mutual_weight=1.5, weigh_pixels=False)
    return rows.Row(network, loss, torch.optim.SGD(trainable_parameters(network), lr=1.0))


def test_a_step_part_by_part_is_an_ordinary_step():
    image, label = rows.draw_batch(64, 2, "cpu")
    parted, whole = small_row(), small_row()
    started = [weight.detach().clone() for weight in trainable_parameters(whole.network)]
    watch = Stopwatch("cpu")
    torch.manual_seed(1)  # of the contrast's anchors
    default_parts.take_step(parted, image, label, watch)
    torch.manual_seed(1)
    rows.step_of(whole, image, label)()
    moved = 0.0
    for one, other, start in zip(*(trainable_parameters(row.network) for row in (parted, whole)), started, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        moved = max(moved, float((one.detach() - start).abs().max()))
    assert moved > 1e-2
    parts = watch.take_round()
    assert "frozen pyramid, backward" not in parts
    own = [f"{name} expert's pyramid, backward" for name in ("semantic", "adaptive")]
    terms = [f"loss: {name}, {way}" for name in parted.loss.weights for way in ("forward", "backward")]
    assert parts.keys() >= {*own, *terms, "gate, backward", "vote, backward", "clipping and update"}


def test_a_window_part_by_part_is_what_the_network_says():
    row, (image, _) = small_row(), rows.draw_batch(32, 2, "cpu")
    found = default_parts.segment(row.network, image, Stopwatch("cpu"))
    torch.testing.assert_close(found, rows.window_of(row.network, image)())


def test_the_parts_of_the_default_are_counted_as_by_hand():
    row, (image, label) = small_row(), rows.draw_batch(32, 2, "cpu")
    counter = Counter()
    default_parts.take_step(row, image, label, counter)
    cells = 2 * 8 * 8  # at stride 4, of two images of 32 pixels
    gate = 2 * cells * (9 * 3 * 32 * 32 + 32 * 3)
    assert counter.counts["gate, forward"]["flops"] == gate
    assert counter.counts["gate, backward"]["flops"] == 2 * gate
    assert counter.counts["embeddings, forward"]["flops"] == 2 * cells * 32 * 32
    assert counter.counts["loss: balance, forward"]["flops"] == 0
    pyramids = [counter.counts[f"{name}, forward"]["flops"] for name in ("frozen pyramid", "semantic expert's pyramid")]
    assert pyramids[0] == pyramids[1] > 0  # of one size here
    trained = sum(weight.numel() for weight in trainable_parameters(row.network))
    read_and_written = counter.counts["clipping and update"]["bytes"]
    assert read_and_written > 3 * 4 * trained  # weights read and written, gradients read


def test_what_the_machine_reaches_is_the_measure_of_every_part():
    machine = roofline.Machine(product=10, megabytes=1, device="cpu")
    counts = {"step": {"a, forward": {"flops": 4000, "bytes": 10}}}
    seconds = {"machine": {roofline.PRODUCT: 0.5, roofline.COPY: 0.25}, "step": {"a, forward": 2.0}}
    found = roofline.results_of(counts, seconds, machine)
    assert found["machine"] == {"flops_per_second": 4000, "bytes_per_second": 8e6}
    assert found["step"]["a, forward"]["of_limit"] == 0.5


def test_a_copy_moves_what_is_read_and_what_is_written():
    machine, counter = roofline.Machine(product=8, megabytes=2, device="cpu"), Counter()
    machine.run(counter)
    assert counter.counts[roofline.COPY]["bytes"] == machine.bytes == 4 * 10**6
    assert counter.counts[roofline.PRODUCT]["flops"] == machine.flops == 2 * 8**3


def test_a_ratio_is_the_median_of_the_rounds(monkeypatch):
    seconds = {rows.DEFAULT: [2.0, 3.0, 10.0], rows.FULL_DECODERS: [1.0, 1.0, 1.0], rows.LITE2: [1.0, 2.0, 4.0]}
    monkeypatch.setattr(
        rivals, "time_in_turn", lambda runs, *_: {name: {"all_seconds": seconds[name]} for name in runs}
    )
    found = rivals.compare(dict.fromkeys(seconds, lambda: None), 3, "cpu")["takes_times"]
    assert found[rows.DEFAULT] == {rows.DEFAULT: 1, rows.FULL_DECODERS: 3, rows.LITE2: 2}
    assert found[rows.FULL_DECODERS][rows.LITE2] == 0.5


def test_a_rival_whose_library_is_missing_is_named(monkeypatch):
    assert rows.missing(rows.LITE2) is None
    monkeypatch.setattr(rows, "find_spec", lambda name: None if name.startswith("segmentation") else object())
    said = "segmentation_models_pytorch is not installed (setup.cfg lists it as `rivals`)."
    assert rows.missing(rows.SMP) == said


def test_rows_are_the_networks_of_the_configs():
    default, full = rows.build(rows.DEFAULT, "cpu"), rows.build(rows.LITE2_FULL, "cpu")
    assert default.network.expert_names == ["basic", "semantic", "adaptive"]
    assert default.network.views["adaptive"].pyramid.size == "lite2"
    assert not default.network.decoders["basic"].draws_every_pixel
    assert default.loss.weights["mutual"] == 1.5
    assert full.network.network.decoder.draws_every_pixel
    groups = default.optimizer.param_groups
    assert groups[1]["lr"] == pytest.approx(0.2 * groups[0]["lr"])
    pyramid = default.network.detail  # begins with ImageNet's weights, which tell a picture from noise
    assert not torch.equal(pyramid.to4[0].narrow.weight, ImagePyramid().to4[0].narrow.weight)
    assert F.relu(pyramid(rows.draw_batch(32, 1, "cpu")[0])[1]).std() > 0.1


def test_goals_are_told_beside_each_single_network_and_beside_three():
    three = rows.THREE + rows.LITE2
    takes = {
        rows.DEFAULT: {rows.LITE2: 1.7, three: 0.59, rows.LITE2_FULL: 9.0},
        rows.FULL_DECODERS: {rows.LITE2: 1.1, three: 0.4, rows.LITE2_FULL: 9.0},
    }
    result = {"rows": dict.fromkeys(takes[rows.DEFAULT]), "takes_times": takes}
    settings = {"training step, 64 pixels, batch 2": result, "one window, 64 pixels": result}
    found = wanted_of_default({"best": rows.LITE2, "results": settings})
    assert [row[2] for row in found] == ["**no**", "yes", "yes", "yes"]
    assert found[0][:2] == (
        "training step, 64 pixels, batch 2: at most 1.6 times as long as Lite2 U-Net",
        "1.70 times; with full decoders 1.10",
    )
    assert found[3][:2] == (
        "one window, 64 pixels: at most 60% of three of Lite2 U-Net", "59%; with full decoders 40%"
    )  # fmt: skip


@pytest.mark.slow
def test_the_default_is_measured_beside_its_rivals_and_its_limits(tmp_path):
    shared = ["--device", "cpu", "--repeats", "1", "--batch_size", "2", "--output"]
    rivals.main(["--sides", "32", "--window", "32", *shared[:-1], "--output", str(tmp_path / "rivals.json")])
    found = json.loads((tmp_path / "rivals.json").read_text())
    assert list(found["results"]) == ["training step, 32 pixels, batch 2", "one window, 32 pixels"]
    for result in found["results"].values():
        assert {rows.DEFAULT, rows.FULL_DECODERS, rows.LITE2, rivals.THREE + found["best"]} <= result["rows"].keys()
    small = ["--side", "32", "--window", "32", "--image", "64", "--product", "64", "--megabytes", "1"]
    roofline.main([*small, *shared, str(tmp_path / "roofline.json")])
    found = json.loads((tmp_path / "roofline.json").read_text())
    assert {"reading", "resizing", "writing"} <= found["image"].keys()
    assert all(
        part["seconds"] >= 0 and part["bytes"] > 0 for task in ("step", "window") for part in found[task].values()
    )
