"""What is compared computes the same thing, and the measures see what they are to see."""

import json
import os
import time

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
from benchmarks import encoder as encoder_benchmark
from benchmarks import network as network_benchmark
from benchmarks.measure import hardware, peak_memory, time_in_turn


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


def test_time_is_taken_in_turns_after_a_warm_up():
    calls = []
    rows = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.01))}, 3, "cpu")
    assert calls == ["a", "b"] + ["a", "b"] * 3
    assert rows["b"]["seconds"] >= 0.01
    assert len(rows["a"]["all_seconds"]) == 3


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
