"""Several processes as one: what they share, by two forked processes over gloo, without a network or an engine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import in_two
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.losses.contrast import UNLABELLED, SemanticContrastiveLoss
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.icmoe import ICMoE, ICMoEOutput
from icmoe_monai.training.batch_norm import SharedBatchNorm2d, share_batch_norms
from icmoe_monai.utils import distributed
from icmoe_monai.utils.distributed import (
    batch_mean,
    by_first,
    check_torchrun,
    gathered,
    leave_at_exit,
    share_cases,
    share_volumes,
    total,
)

# Python 3.12 warns of every fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SHARES = {"alike": (slice(0, 2), slice(2, 4)), "unlike": (slice(0, 1), slice(1, 4))}


@pytest.fixture
def second_of_three(monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: 3)
    monkeypatch.setattr(distributed, "process_index", lambda: 1)


def test_a_process_that_ends_by_an_error_leaves_the_others_in_order(monkeypatch, tmp_path: Path):
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(distributed.atexit, "register", at_exit.append)
    leave_at_exit()
    (leave,) = at_exit
    leave()  # there is nothing to leave
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        leave()
        assert not dist.is_initialized()
    finally:
        leave()


def test_sums_and_means_are_those_of_all_with_a_gradient_to_each(tmp_path):
    values = torch.arange(1.0, 13.0).reshape(4, 3)

    def work(index: int) -> dict[str, torch.Tensor]:
        own = values[SHARES["unlike"][index]].clone().requires_grad_()
        mean = batch_mean(own, (0,))
        (mean.square().sum() + total(own.sum())).backward()
        none = batch_mean(values[: 4 * index])
        return {"mean": mean.detach(), "all": batch_mean(own).detach(), "none": none, "gradient": own.grad}

    whole = values.clone().requires_grad_()
    (whole.mean(0).square().sum() + whole.sum()).backward()
    parts = in_two(work, tmp_path)
    for part in parts:
        assert part["mean"].tolist() == values.mean(0).tolist()
        assert part["all"] == part["none"] == values.mean()
    # each process has the whole loss, so that a value's gradient comes twice, which the mean over processes takes back
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]) / 2, whole.grad)


def draw_outputs(out_channels: int, steps: int = 3) -> list[tuple[ICMoEOutput, torch.Tensor]]:
    """Return outputs and labels of four images, the last unlabelled, of which only some have the second class."""
    drawn = []
    for _ in range(steps):
        votes = torch.softmax(torch.randn(4, 3, 32, 32), dim=1)
        parts = (torch.randn(4, out_channels, 32, 32), torch.randn(4, 3, out_channels, 32, 32), votes)
        label = torch.randint(0, max(out_channels, 2), (4, 1, 8, 8)).repeat_interleave(4, 2).repeat_interleave(4, 3)
        label[0] = 0
        label[3] = UNLABELLED
        drawn.append((ICMoEOutput(*(3 * part for part in parts[:2]), votes, torch.randn(4, 8, 8, 8)), label))
    return drawn


def build_loss(out_channels: int) -> ICMoELoss:
    contrast = SemanticContrastiveLoss(  # all anchors, so that nothing is drawn at random
        num_classes=max(out_channels, 2), embedding_channels=8, num_anchors=10_000, confident=0.6, agreement=0.3
    )
    return ICMoELoss(out_channels=out_channels, mutual_weight=1.0, contrast=contrast).train()


def take_steps(out_channels: int, images: slice, drawn: list) -> dict[str, torch.Tensor]:
    """Return the losses and gradients of a share of the images, and the memory at the end."""
    loss = build_loss(out_channels)
    values, terms, gradients = [], [], []
    for output, label in drawn:
        own = ICMoEOutput(*(part[images].clone().requires_grad_() for part in output))
        parts = loss.terms(own, label[images])
        value = torch.stack([loss.weights[name] * term for name, term in parts.items()]).sum()
        value.backward()
        values.append(value.detach())
        terms.append(torch.stack([parts[name].detach() for name in loss.weights]))
        gradients.append(torch.cat([part.grad.flatten(1) for part in own], dim=1))
    memory = {"prototypes": loss.contrast.prototypes, "remembered": loss.contrast.remembered}
    return {"loss": torch.stack(values), "terms": torch.stack(terms), "gradient": torch.stack(gradients)} | memory


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES.keys())
@pytest.mark.parametrize("out_channels", [1, 3])
def test_the_loss_of_a_shared_batch_is_that_of_the_whole(out_channels, shares, tmp_path):
    drawn = draw_outputs(out_channels)
    whole = take_steps(out_channels, slice(0, 4), drawn)
    parts = in_two(lambda index: take_steps(out_channels, shares[index], drawn), tmp_path)
    for part in parts:
        torch.testing.assert_close(part["loss"], whole["loss"])
        torch.testing.assert_close(part["terms"], whole["terms"])
        torch.testing.assert_close(part["prototypes"], whole["prototypes"])
        assert part["remembered"].tolist() == whole["remembered"].tolist() == [True] * max(out_channels, 2)
    assert torch.equal(parts[0]["prototypes"], parts[1]["prototypes"])  # bit for bit: they go on alike
    gradient = torch.cat([part["gradient"] for part in parts], dim=1) / 2
    torch.testing.assert_close(gradient, whole["gradient"], atol=1e-7, rtol=1e-4)
    assert (whole["terms"].abs() > 1e-3).all()  # every term took part


def test_the_loss_would_be_another_without_the_others_sums():
    drawn = draw_outputs(1)
    whole = take_steps(1, slice(0, 4), drawn)["loss"]
    halves = [take_steps(1, share, drawn)["loss"] for share in SHARES["alike"]]
    assert (torch.stack(halves).mean(0) - whole).abs().min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_batch_norms_take_the_statistics_of_all(dtype, tmp_path):
    x = (torch.randn(4, 3, 9, 11) * 3 + 1).to(dtype)  # bfloat16 has no 297, a process's count
    weights = torch.randn_like(x)

    def normalise(norm: nn.Module, images: slice) -> dict[str, torch.Tensor]:
        own = x[images].clone().requires_grad_()
        for _ in range(2):
            y = norm(own)
        (y * weights[images]).sum().backward()
        return {"y": y.detach(), "x": own.grad, "scale": norm.weight.grad, **norm.state_dict()}

    whole = normalise(nn.BatchNorm2d(3), slice(0, 4))
    parts = in_two(lambda index: normalise(SharedBatchNorm2d(3), SHARES["unlike"][index]), tmp_path)
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name])
    torch.testing.assert_close(parts[0]["scale"] + parts[1]["scale"], whole["scale"])
    for name in nn.BatchNorm2d(3).state_dict():
        torch.testing.assert_close(parts[0][name], whole[name])
        torch.testing.assert_close(parts[1][name], whole[name])


def test_a_mean_of_half_precision_counts_in_full(tmp_path):
    values = torch.zeros(257, dtype=torch.bfloat16)  # which has no 257
    values[0] = 1
    shares = (values[:100], values[100:])
    for mean in in_two(lambda index: batch_mean(shares[index]), tmp_path):
        assert mean.dtype == torch.bfloat16
        assert mean == torch.tensor(1 / 257).bfloat16() != 1 / 256


def test_a_networks_batch_norms_are_shared_and_its_checkpoints_fit():
    network = ICMoE(backbone="vit_t")
    names = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    shared = share_batch_norms(network, "cpu")
    assert [name for name, module in shared.named_modules() if isinstance(module, SharedBatchNorm2d)] == names != []
    assert shared.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in shared.state_dict().items())
    image = torch.randn(2, 3, 64, 64)
    fresh = ICMoE(backbone="vit_t")
    fresh.load_state_dict(state)
    assert torch.equal(shared(image).logits, fresh(image).logits)  # a single process: nothing has changed


def test_on_a_gpu_batch_norms_are_pytorchs():
    shared = share_batch_norms(nn.Sequential(nn.BatchNorm2d(2)), "cuda:0")
    assert type(shared[0]) is nn.SyncBatchNorm


def test_all_take_what_the_first_finds_and_raise_what_it_raises(tmp_path):
    calls = []

    @by_first
    def find(folder: str) -> list[str]:
        calls.append(folder)
        if folder == "bad":
            raise InputError("bad is empty.")
        return [folder]

    def work(index: int) -> list:
        found = find("good")
        try:
            find("bad")
        except InputError as error:
            return [found, str(error), len(calls)]
        return []

    assert in_two(work, tmp_path) == [[["good"], "bad is empty.", 2], [["good"], "bad is empty.", 0]]


def test_records_come_back_in_the_order_of_one_process(tmp_path):
    cases = [f"case {number}" for number in range(5)]
    assert in_two(lambda index: gathered(share_cases(cases)), tmp_path) == [cases, cases]


def test_each_case_is_of_one_process(monkeypatch, second_of_three):
    shares = []
    for index in range(3):
        monkeypatch.setattr(distributed, "process_index", lambda index=index: index)
        shares.append(share_cases(list("abcdefg")))
    assert shares == [["a", "d", "g"], ["b", "e"], ["c", "f"]]


def test_fewer_cases_than_processes_are_told(second_of_three):
    with pytest.raises(InputError, match="There are 3 processes for 2 cases: start at most 2"):
        share_cases(["a", "b"])


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("aaab", [["a0", "a1", "a2"], ["b3"], []]),
        ("", [[], [], []]),
        ("aa...bb", [["a0", "a1"], [".2", ".4"], [".3", "b5", "b6"]]),
    ],
)
def test_a_volume_is_of_one_process(groups, expected, monkeypatch, second_of_three):
    cases = [
        {"name": f"{group}{number}", "group": "" if group == "." else group} for number, group in enumerate(groups)
    ]
    shares = []
    for index in range(3):
        monkeypatch.setattr(distributed, "process_index", lambda index=index: index)
        shares.append([case["name"] for case in share_volumes(cases)])
    assert shares == expected


def test_a_process_that_torchrun_did_not_start_is_told(monkeypatch):
    told = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    check_torchrun()
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(
        InputError, match=r"not started by torchrun \(RANK, MASTER_PORT are not set\): start it by torchrun"
    ):
        check_torchrun()


def test_a_single_process_gets_what_it_gave():
    values = torch.rand(3, 4)
    assert total(values) is values
    assert torch.equal(batch_mean(values, (0,)), values.mean(0))
    assert gathered([1, 2]) == share_cases([1, 2]) == [1, 2]
    identity: Callable[[object], object] = by_first(lambda value: value)
    assert identity(values) is values
    assert np.isfinite(float(batch_mean(values)))
