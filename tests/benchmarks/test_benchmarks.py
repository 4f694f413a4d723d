"""What is compared computes the same thing, and the measures see what they are to see."""

import json
import os
import time

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
from benchmarks.cost import encoder as encoder_benchmark
from benchmarks.cost import figures as cost_figures
from benchmarks.cost import inference_workflow as inference_cost
from benchmarks.cost import network as network_benchmark
from benchmarks.cost import switches, training_parts
from benchmarks.cost import tables as cost_tables
from benchmarks.cost import training as training_cost
from benchmarks.cost.measure import Stopwatch, fit_line, hardware, medians, now, peak_memory, time_in_turn
from benchmarks.cost.wanted import highest_speedup
from benchmarks.document import DOCS
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.settings import trainable_parameters


@pytest.mark.parametrize("size", [64, 256])
def test_all_encoders_give_one_result(size):
    image = torch.randn(1, 3, size, size)
    results = {
        name: encoder_benchmark.encode(encoder_benchmark.build(name, "vit_t", size, "cpu"), image, "float32")
        for name in encoder_benchmark.ENCODERS
    }
    assert 0.3 < results["ours"].std() < 3
    for name, result in results.items():
        torch.testing.assert_close(result, results["ours"], rtol=0, atol=2e-5, msg=name)


def test_stacked_experts_give_the_networks_result():
    network = network_benchmark.build("vit_t", "cpu").eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = network.expert_features(network.trunk(image))
        assert (features[:, 1] - features[:, 0]).abs().max() > 0.1  # the updates matter
        stacked = network_benchmark.StackedExperts(network)
        torch.testing.assert_close(stacked.expert_features(network.trunk(image)), features, rtol=0, atol=1e-5)
        torch.testing.assert_close(stacked(image), network(image), rtol=0, atol=1e-5)


def test_a_training_step_trains_what_it_says():
    frozen, full = (network_benchmark.train_step("vit_t", 64, "cpu", train_trunk=trains) for trains in (False, True))
    assert full["trained_parameters"] - frozen["trained_parameters"] == sum(
        weight.numel() for weight in network_benchmark.build("vit_t", "cpu").encoder.parameters()
    )


def test_time_is_taken_in_turns_after_a_warm_up(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # the wall clock, which runs while a process sleeps
    calls = []
    rows = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.01))}, 3, "cpu")
    assert calls == ["a", "b"] + ["a", "b"] * 3
    assert rows["b"]["seconds"] >= 0.01
    assert len(rows["a"]["all_seconds"]) == 3


def test_one_thread_is_timed_by_what_it_computes(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    start = now("cpu")
    time.sleep(0.05)
    assert now("cpu") - start < 0.04
    while now("cpu") - start < 0.05:
        pass


def test_a_part_that_runs_twice_in_a_round_counts_twice(monkeypatch):
    times = iter([0, 1, 1, 3, 3, 7, 7, 8])
    monkeypatch.setattr("benchmarks.cost.measure.now", lambda device: next(times))
    watch = Stopwatch("cpu")
    assert watch("a", lambda: "result") == "result"
    watch("b", lambda: None)
    watch("a", lambda: None)
    assert watch.take_round() == {"a": 5, "b": 2}
    watch("a", lambda: None)
    assert watch.take_round() == {"a": 1}


def test_medians_are_those_of_each_part():
    assert medians([{"a": 1, "b": 5}, {"a": 9, "b": 3}, {"a": 2, "b": 4}]) == {"a": 2, "b": 4}


def test_a_line_is_found_and_so_is_how_badly_it_fits():
    exact = fit_line([1, 2, 3, 4], [5, 7, 9, 11])
    assert exact == pytest.approx({"slope": 2, "intercept": 3, "r2": 1})
    assert fit_line([1, 2, 3, 4], [1, -1, 1, -1])["r2"] == pytest.approx(0.2)


def test_growth_of_time_with_a_power_of_the_pixels_is_found():
    rows = [{"side": n, "windows": n**2, "seconds": n**3 / 1e6, "peak_mb": 500 + n**2 / 1e4} for n in (100, 200, 400)]
    fit = inference_cost.fit_growth(rows)
    assert fit["exponent"] == pytest.approx(1.5)
    assert fit["peak_mb_per_megapixel"]["slope"] == pytest.approx(100)
    assert fit["seconds_per_megapixel"]["r2"] < 1


def test_the_highest_gain_is_what_the_frozen_parts_and_reading_cost():
    parts = {"reading images": 1, "reading features": 0.5, "trunk": 3, "pyramid": 1, "experts, forward": 4.5}
    assert highest_speedup(parts) == pytest.approx(9.5 / 5)


def build_small() -> ICMoE:
    torch.manual_seed(0)
    network = ICMoE(detail=ImagePyramid())
    network.encoder.requires_grad_(False)
    return network


def test_a_step_part_by_part_is_an_ordinary_step():
    image, label = torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    label[..., :32, :] = 1
    networks = [build_small().train() for _ in range(2)]
    started = [weight.detach().clone() for weight in trainable_parameters(networks[0])]
    optimizers = [torch.optim.SGD(trainable_parameters(network), lr=1.0) for network in networks]
    torch.manual_seed(1)
    training_parts.take_step(networks[0], ICMoELoss(), optimizers[0], image, label, Stopwatch("cpu"))
    torch.manual_seed(1)
    ICMoELoss()(networks[1](image), label).backward()
    torch.nn.utils.clip_grad_norm_(trainable_parameters(networks[1]), 1.0)
    optimizers[1].step()
    moved = 0.0
    for one, other, start in zip(*(trainable_parameters(network) for network in networks), started, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        moved = max(moved, float((one.detach() - start).abs().max()))
    assert moved > 1e-2


def test_maps_part_by_part_are_those_of_the_network():
    network, watch = build_small().eval(), Stopwatch("cpu")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(inference_cost.maps_by_part(network, image, watch), network.expert_maps(image))
    assert set(watch.take_round()) == {"trunk", "pyramid", "experts", "decoders", "gate"}


def test_a_way_that_fails_is_reported(monkeypatch):
    monkeypatch.setattr(switches, "time_in_turn", lambda runs, *_: {name: {"seconds": 2.0} for name in runs})

    def build(switch, image):
        def run():
            if switch == "compiled":
                raise RuntimeError("no compiler\nat all")
            return image * (2 if switch == "bfloat16" else 1)

        return run

    rows = switches.compare(build, torch.ones(1), ["bfloat16", "compiled"], repeats=1)
    assert rows["compiled"] == {"error": "RuntimeError: no compiler"}
    assert rows["bfloat16"]["largest_difference"] == 1
    assert rows["float32"]["of_float32"] == 1


def test_the_peak_is_of_what_runs_and_is_seen_after_it_is_freed():
    torch.ones(25_000_000).sum()  # an earlier peak, of 100 MB, that is not to count
    found = peak_memory(lambda: torch.ones(50_000_000).sum(), "cpu")
    assert 190 < found["peak_above_start_mb"] < 260
    assert found["peak_mb"] > found["peak_above_start_mb"]


def test_the_machine_is_named():
    assert hardware("cpu")["torch"] == torch.__version__


@pytest.mark.slow
def test_commands_write_what_they_measured(tmp_path, capsys):
    arguments = ["--backbone", "vit_t", "--repeats", "1", "--device", "cpu", "--output"]
    encoder_benchmark.main([*arguments, str(tmp_path / "e.json"), "--sizes", "64"])
    network_benchmark.main([*arguments, str(tmp_path / "n.json"), "--size", "64"])
    results = json.loads((tmp_path / "e.json").read_text())["results"]
    assert set(results) == {"64 float32", "64 bfloat16"}
    assert all(results["64 float32"][name]["peak_mb"] > 0 for name in encoder_benchmark.ENCODERS)
    assert set(json.loads((tmp_path / "n.json").read_text())["training"]) == set(network_benchmark.TRAININGS)
    assert "of full fine-tuning" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_is_measured_and_shown(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (tmp_path / "images").mkdir()
    shared = ["--device", "cpu", "--output"]
    short = ["--rounds", "1", "--steps", "1", "--settings", "vit_t:64:2"]
    training_cost.main([*short, *shared, str(results / "training_cost.json")])
    small = ["--window", "32", "--sides", "32", "64", "--workflows", "2:64", "--packs", "vit_t:32", "--repeats", "1"]
    inference_cost.main([*small, *shared, str(results / "inference_cost.json")])
    few = ["--switches", "channels last", "bfloat16", "--size", "32", "--repeats", "1"]
    switches.main([*few, *shared, str(results / "switches.json")])
    for name in ("inference", "rivals_cost", "roofline", "runtimes_cost"):
        (results / f"{name}.json").write_text((DOCS / "results" / f"{name}.json").read_text())
    (tmp_path / "cost.md").write_text((DOCS / "cost.md").read_text())
    assert cost_tables.main(["--check", "--docs", str(tmp_path)]) == 1
    assert cost_tables.main(["--docs", str(tmp_path)]) == 0
    assert cost_tables.main(["--check", "--docs", str(tmp_path)]) == 0
    cost_figures.main(["--docs", str(tmp_path)])
    assert {path.name for path in (tmp_path / "images").iterdir()} == {
        f"cost_{name}.png" for name in ("parts", "growth", "training")
    }
    rows = json.loads((results / "training_cost.json").read_text())["results"]["vit_t:64:2"]["trainings"]
    assert list(rows) == list(training_cost.TRAININGS)
    assert rows["icmoe"]["trained_parameters"] == rows["icmoe, cached"]["trained_parameters"]
