from __future__ import annotations

import pytest
import reference
import torch
from modes import in_training
from monai.data import MetaTensor
from torch import Tensor, nn

from icmoe_monai.inferers import voting
from icmoe_monai.inferers.voting import AutocastInferer, SlidingWindowVotingInferer, VotingInferer, vote
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.voting import PixelVoting, to_probabilities


class Pointwise(nn.Module):
    """Stand in for a network whose maps at a pixel depend on that pixel alone, so that windows cannot matter."""

    def __init__(self, out_channels: int, is_constant: bool = False) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.voting = PixelVoting(num_experts=3)
        self.maps = nn.Conv2d(3, 3 * out_channels + 3, 1)
        self.batches: list[int] = []
        if is_constant:
            nn.init.zeros_(self.maps.weight)

    def expert_maps(self, image: Tensor) -> Tensor:
        self.batches.append(len(image))
        maps = self.maps(image)
        probabilities = to_probabilities(maps[:, :-3].unflatten(1, (3, self.out_channels)))
        return torch.cat([probabilities.flatten(1, 2), maps[:, -3:]], dim=1)


@pytest.fixture(scope="module")
def network() -> ICMoE:
    """Return a network whose experts and gate differ; no test changes it."""
    torch.manual_seed(1)
    network = ICMoE().requires_grad_(False).eval()
    for name, parameter in network.named_parameters():
        if "updates" in name or name.startswith(("communication.out", "gate.out")):
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture(params=[1, 3], ids=["K=1", "K=3"])
def pointwise(request: pytest.FixtureRequest) -> Pointwise:
    return Pointwise(request.param).requires_grad_(False)


@pytest.mark.parametrize("with_experts", [False, True])
def test_one_window_is_the_whole_image(network: ICMoE, with_experts: bool) -> None:
    image = torch.randn(2, 3, 48, 48)
    whole = VotingInferer(with_experts=with_experts)(image, network)
    windowed = SlidingWindowVotingInferer(roi_size=48, with_experts=with_experts)(image, network)
    assert whole.std() > 1e-3
    torch.testing.assert_close(windowed, whole, rtol=0, atol=1e-5)
    logits = network(image)
    expected = to_probabilities(logits) if with_experts else logits
    torch.testing.assert_close(whole[:, :1], expected, rtol=0, atol=1e-5)


def test_images_smaller_than_the_window_are_padded_around(network: ICMoE) -> None:
    # MONAI pads on both sides, `VotingInferer` at the bottom and right: the same where the network sees the same
    image = torch.randn(1, 3, 32, 20)
    padded = torch.zeros(1, 3, 48, 48)
    padded[..., 8:40, 14:34] = image
    windowed = SlidingWindowVotingInferer(roi_size=48)(image, network)
    torch.testing.assert_close(windowed, network(padded)[..., 8:40, 14:34], rtol=0, atol=1e-5)
    whole = VotingInferer()(image, network)
    padded = torch.zeros(1, 3, 32, 32)
    padded[..., :20] = image
    torch.testing.assert_close(whole, network(padded)[..., :20], rtol=0, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
def test_constant_predictions_survive_the_stitching(overlap: float) -> None:
    network = Pointwise(1, is_constant=True).requires_grad_(False)
    image = torch.randn(1, 3, 70, 45)
    result = SlidingWindowVotingInferer(roi_size=32, overlap=overlap, with_experts=True)(image, network)
    assert network.batches[0] == 4
    assert result[0, 1:4, 0, 0].std() > 0.01  # the experts differ
    torch.testing.assert_close(result, result[..., :1, :1].expand_as(result), rtol=0, atol=1e-5)
    torch.testing.assert_close(result, VotingInferer(with_experts=True)(image, network), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(33, 47), (16, 70), (5, 5), (1, 90)], ids=str)
def test_odd_sizes_of_a_pointwise_network(pointwise: Pointwise, size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size)
    expected = vote(pointwise.expert_maps(image), pointwise, with_experts=True)
    assert expected.std() > 0.1
    for inferer in (VotingInferer(with_experts=True), SlidingWindowVotingInferer(roi_size=32, with_experts=True)):
        result = inferer(image, pointwise)
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_votes_are_cast_once_over_stitched_maps(network: ICMoE) -> None:
    image = torch.randn(1, 3, 48, 48)
    inferer = SlidingWindowVotingInferer(roi_size=32, with_experts=True)
    result = inferer(image, network)
    voted, probabilities, votes = result[:, :1], result[:, 1:4], result[:, 4:]
    fused = reference.fused(probabilities[:, :, None].double().numpy(), votes.double().numpy())
    torch.testing.assert_close(voted, torch.from_numpy(fused).float(), rtol=0, atol=1e-5)
    assert votes.std(dim=1).max() > 0.01


@pytest.mark.parametrize("with_experts", [False, True])
def test_a_large_image_is_voted_some_rows_at_a_time(
    pointwise: Pointwise, with_experts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(2, 3, 77, 40)
    maps = pointwise.expert_maps(image)
    whole = vote(maps, pointwise, with_experts)
    rows: list[int] = []
    count = pointwise.voting.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[-2]))
    monkeypatch.setattr(voting, "_VOTED_AT_ONCE", 2 * 40 * 30)
    in_parts = vote(maps, pointwise, with_experts)
    count.remove()
    assert rows == [30, 30, 17]  # 2 rows of both images, of 40 pixels each, fill vectors of 32 numbers
    torch.testing.assert_close(in_parts, whole, rtol=0, atol=1e-6)


def test_channels_with_experts(pointwise: Pointwise) -> None:
    K = pointwise.out_channels
    image = torch.randn(2, 3, 32, 32)
    maps = pointwise.expert_maps(image)
    result = VotingInferer(with_experts=True)(image, pointwise)
    assert result.shape == (2, K + 3 * K + 3, 32, 32)
    torch.testing.assert_close(result[:, :K], to_probabilities(VotingInferer()(image, pointwise)))
    torch.testing.assert_close(result[:, K : 4 * K], maps[:, : 3 * K])
    _, votes = pointwise.voting(maps[:, : 3 * K].unflatten(1, (3, K)), maps[:, 3 * K :])
    torch.testing.assert_close(result[:, 4 * K :], votes)
    torch.testing.assert_close(result[:, 4 * K :].sum(dim=1), torch.ones(2, 32, 32))


def test_windows_in_a_batch_change_nothing(network: ICMoE) -> None:
    # to 1e-5, not bitwise: matrix products of another batch size sum in another order
    image = torch.randn(1, 3, 64, 48)
    one, three, all_ = (
        SlidingWindowVotingInferer(roi_size=32, sw_batch_size=n, with_experts=True)(image, network) for n in (1, 3, 16)
    )
    torch.testing.assert_close(three, one, rtol=0, atol=1e-5)
    torch.testing.assert_close(all_, one, rtol=0, atol=1e-5)


def test_two_runs_are_bitwise_equal(network: ICMoE) -> None:
    image = torch.randn(1, 3, 40, 50)
    for inferer in (VotingInferer(with_experts=True), SlidingWindowVotingInferer(roi_size=32, with_experts=True)):
        assert torch.equal(inferer(image, network), inferer(image, network))


INFERERS = [VotingInferer, lambda **options: SlidingWindowVotingInferer(roi_size=32, **options)]


@pytest.mark.parametrize("build", INFERERS, ids=["whole", "windows"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.bfloat16], ids=str)
def test_integers_and_halves_are_taken_as_float32(
    network: ICMoE, build: type[VotingInferer], dtype: torch.dtype
) -> None:
    image = torch.randint(0, 256, (1, 3, 40, 32)).to(dtype)
    result = build()(image, network)
    assert result.dtype == torch.float32
    assert torch.equal(result, build()(image.float(), network))


@pytest.mark.parametrize("build", INFERERS, ids=["whole", "windows"])
def test_amp_computes_in_bfloat16_on_a_cpu(network: ICMoE, build: type[VotingInferer]) -> None:
    seen: list[torch.dtype] = []
    hook = network.encoder.blocks[-1].mlp.lin1.register_forward_hook(lambda *of: seen.append(of[2].dtype))
    image = torch.randn(1, 3, 48, 32)
    try:
        single, half = (build(amp=amp, with_experts=True)(image, network) for amp in (False, True))
    finally:
        hook.remove()
    assert seen[0] == torch.float32
    assert seen[-1] == torch.bfloat16
    assert single.dtype == half.dtype == torch.float32
    difference = (single - half).abs()
    assert 0 < difference.max() < 0.2
    assert difference.mean() < 0.01


def test_autocast_inferer_runs_training_and_evaluation(network: ICMoE) -> None:
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(AutocastInferer()(image, network), network(image))
    half = AutocastInferer(amp=True)(image, network)
    assert 0 < (half - network(image)).abs().max() < 0.2
    output = AutocastInferer(amp=True)(image, in_training(network))
    assert output.expert_logits.shape == (1, 3, 1, 32, 32)
    assert torch.equal(output.logits, half)


@pytest.mark.parametrize("build", INFERERS, ids=["whole", "windows"])
def test_metadata_of_the_image_stays(network: ICMoE, build: type[VotingInferer]) -> None:
    image = torch.randn(1, 3, 40, 50)
    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64))
    result = build()(MetaTensor(image, affine=affine), network)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine)
    assert torch.equal(result.as_tensor(), build()(image, network))


@pytest.mark.parametrize("build", INFERERS, ids=["whole", "windows"])
def test_wrapped_network(pointwise: Pointwise, build: type[VotingInferer]) -> None:
    class Wrapper(nn.Module):  # as DistributedDataParallel
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    image = torch.randn(1, 3, 40, 50)
    assert torch.equal(build()(image, Wrapper(pointwise)), build()(image, pointwise))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi_size": 40}, r"positive multiple of 16, got 40\."),
        ({"roi_size": 0}, r"positive multiple of 16, got 0\."),
        ({"roi_size": -32}, r"positive multiple of 16, got -32\."),
        ({"roi_size": 32, "overlap": 1.0}, r"overlap must be at least 0 and below 1, got 1\.0\."),
        ({"roi_size": 32, "overlap": -0.1}, r"overlap must be at least 0 and below 1, got -0\.1\."),
        ({"roi_size": 32, "sw_batch_size": 0}, r"sw_batch_size must be at least 1, got 0\."),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlidingWindowVotingInferer(**options)
