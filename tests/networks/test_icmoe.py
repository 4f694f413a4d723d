from __future__ import annotations

import copy
import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from modes import in_training
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.losses.icmoe import ICMoELoss
from icmoe_monai.networks.decoder import NoDetail
from icmoe_monai.networks.icmoe import EXPERTS, ICMoE, ICMoEOutput
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.networks.sam import BACKBONES
from icmoe_monai.networks.voting import STRATEGIES

# torch calls its own TorchScript deprecated; the Model Zoo still asks for it. Tracing warns of every size it fixes.
jit = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")

EXPERT_SETS = [
    ("basic",),
    ("semantic",),
    ("adaptive",),
    ("basic", "semantic"),
    ("basic", "adaptive"),
    ("semantic", "adaptive"),
    EXPERTS,
]


TINY = {
    "image_size": 64, "width": 32, "depth": 3, "num_heads": 2, "window_size": 3, "global_blocks": (1,),
    "neck_channels": 16,
}  # fmt: skip


def build(**arguments: object) -> ICMoE:
    """Build a network with an encoder so small that a test can train or script it quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", TINY)
        return ICMoE(**({"backbone": "tiny"} | arguments))


def waken(network: ICMoE) -> ICMoE:
    """Move the parts that start at zero, so that experts, communication and gate have something to say."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "updates" in name or name.startswith(("communication.out", "gate.out")):
                parameter.normal_(std=0.1)
    return network


@pytest.fixture(scope="module", params=[1, 3], ids=["K=1", "K=3"])
def network(request: pytest.FixtureRequest) -> ICMoE:
    """Return one awake network for all tests that change nothing in it."""
    torch.manual_seed(1)
    return waken(build(out_channels=request.param)).requires_grad_(False).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 96)


def blobs(size: int, out_channels: int) -> Tensor:
    """Return a label, (1, 1, size, size), with a rectangle of every class."""
    label = torch.zeros(1, 1, size, size)
    half = size // 2
    for c in range(1, max(out_channels, 2)):
        label[:, :, half : size - 4, (c - 1) * half : (c - 1) * half + half - 4] = c
    return label


def sha256(x: Tensor) -> str:
    return hashlib.sha256(x.detach().numpy().tobytes()).hexdigest()


def train(network: ICMoE, num_steps: int, lr: float = 1e-3, out_channels: int = 1) -> list[dict[str, Tensor]]:
    """Train on a random image; return every step's gradients."""
    network.train()
    criterion = ICMoELoss(out_channels=out_channels, experts=network.expert_names).train()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=lr, weight_decay=0)  # decay would move what no gradient reaches
    label = blobs(32, out_channels)
    image = torch.randn(1, 3, 32, 32) + label
    gradients = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        criterion(network(image), label).backward()
        gradients.append({name: p.grad.clone() for name, p in trained.items() if p.grad is not None})
        optimizer.step()
    return gradients


def test_untrained_experts_are_the_pretrained_encoder(image: Tensor) -> None:
    network = ICMoE().eval()
    with torch.no_grad():
        for parameter in network.encoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # as after pretraining, no two weights are alike
        pretrained = network.encoder(image)
        features = network.expert_features(network.trunk(image))
    assert features.shape == (2, 3, 128, 4, 6)
    assert pretrained.std() > 0.1
    for e in range(3):
        assert torch.equal(features[:, e], pretrained)


def test_adapted_experts_differ_and_the_basic_one_stays_pretrained(network: ICMoE, image: Tensor) -> None:
    features = network.expert_features(network.trunk(image))
    assert torch.equal(features[:, 0], network.encoder(image))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (features[:, a] - features[:, b]).abs().mean() > 0.01


def test_semantic_expert_is_the_encoder_with_updated_matrices(image: Tensor) -> None:
    network = waken(build(communicate=False)).requires_grad_(False).eval()
    merged = copy.deepcopy(network.encoder)
    updates = network.adapted["semantic"].updates
    for j, block in enumerate(merged.blocks[network.split :]):
        for matrix, update in (
            (block.attn.qkv, updates.qkv),
            (block.mlp.lin1, updates.lin1),
            (block.mlp.lin2, updates.lin2),
        ):
            matrix.weight += update.up[j] @ update.down[j]
    features = network.expert_features(network.trunk(image))
    assert (features[:, 1] - features[:, 0]).abs().mean() > 0.01
    torch.testing.assert_close(features[:, 1], merged(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("out_channels", [1, 3])
def test_training_moves_all_that_trains_and_nothing_else(out_channels: int) -> None:
    network = ICMoE(out_channels=out_channels) if out_channels == 1 else build(out_channels=out_channels)
    before = {name: sha256(value) for name, value in network.state_dict().items()}
    train(network, 20, out_channels=out_channels)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    statistics = {name for name, _ in network.named_buffers()}
    moved = {name for name, value in network.state_dict().items() if sha256(value) != before[name]}
    assert moved - statistics == trained
    assert not any(name.startswith("encoder.") for name in moved)


@pytest.mark.parametrize("experts", EXPERT_SETS, ids="+".join)
@pytest.mark.parametrize("train_trunk", [False, True], ids=["frozen", "trunk"])
def test_every_trained_weight_gets_a_gradient_within_two_steps(experts: tuple[str, ...], train_trunk: bool) -> None:
    network = build(experts=experts, train_trunk=train_trunk)
    gradients = train(network, 2)
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        assert all(torch.isfinite(step[name]).all() for step in gradients), name
        assert max(float(step[name].abs().max()) for step in gradients) > 0, name


@pytest.mark.parametrize("experts", EXPERT_SETS, ids="+".join)
def test_no_trained_weight_is_dead_once_the_experts_differ(experts: tuple[str, ...]) -> None:
    # rounding alone leaves about 1e-9 where the gradient is 0 by the equations
    (gradients,) = train(waken(build(experts=experts, train_trunk=True)), 1)
    assert {name: g.abs().max().item() for name, g in gradients.items() if g.abs().max() < 1e-7} == {}


@pytest.mark.parametrize("voting", STRATEGIES)
@pytest.mark.parametrize("experts", EXPERT_SETS, ids="+".join)
@pytest.mark.parametrize("train_trunk", [False, True], ids=["frozen", "trunk"])
def test_what_trains(experts: tuple[str, ...], voting: str, train_trunk: bool) -> None:
    with torch.device("meta"):
        network = ICMoE(experts=experts, voting=voting, train_trunk=train_trunk)
    expected = {f"decoders.{name}." for name in experts} | {"detail."}
    expected |= {f"adapted.{name}." for name in experts if name != "basic"}
    if "semantic" in experts:
        expected.add("embed.")
    if len(experts) > 1:
        expected.add("communication.")
        if voting == "adaptive":
            expected |= {"gate.", "voting.alpha"} | ({"voting.beta"} if len(experts) > 2 else set())
    if train_trunk:
        expected.add("encoder.")
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert {prefix for prefix in expected if any(name.startswith(prefix) for name in trained)} == expected
    assert [name for name in trained if not name.startswith(tuple(expected))] == []


def test_frozen_trunk_leaves_no_graph(image: Tensor) -> None:
    network = build()
    tokens = network.trunk(image)
    assert not tokens.requires_grad
    assert network.encoder.tail(tokens, network.split).grad_fn is None
    assert network.expert_features(tokens).requires_grad


def test_result_is_a_tensor_in_eval_and_a_named_tuple_in_training(network: ICMoE, image: Tensor) -> None:
    K = network.out_channels
    logits = network(image)
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, K, 64, 96)
    output = in_training(network)(image)
    assert isinstance(output, ICMoEOutput)
    shapes = [tuple(x.shape) for x in output]
    assert shapes == [(2, K, 64, 96), (2, 3, K, 64, 96), (2, 3, 64, 96), (2, 32, 16, 24)]
    assert all(torch.isfinite(x).all() for x in output)
    assert torch.equal(output.logits, logits)
    torch.testing.assert_close(output.votes.sum(dim=1), torch.ones(2, 64, 96))
    assert output.votes.std(dim=1).max() > 0.01


def test_voting_over_expert_maps_is_the_forward_pass(network: ICMoE, image: Tensor) -> None:
    K = network.out_channels
    maps = network.expert_maps(image)
    assert maps.shape == (2, 3 * K + 3, 64, 96)
    probabilities, gate = maps[:, : 3 * K].unflatten(1, (3, K)), maps[:, 3 * K :]
    assert 0 <= probabilities.min() < probabilities.max() <= 1
    if K > 1:
        torch.testing.assert_close(probabilities.sum(dim=2), torch.ones(2, 3, 64, 96))
    activate = torch.sigmoid if K == 1 else nn.Softmax(dim=1)
    voted, expected = activate(network.voting(probabilities, gate)[0]), activate(network(image))
    torch.testing.assert_close(voted, expected, rtol=0, atol=1e-6)
    output = in_training(network)(image)
    for e in range(3):
        torch.testing.assert_close(probabilities[:, e], activate(output.expert_logits[:, e]))


@pytest.mark.parametrize("experts", [["adaptive", "basic"], ["basic", "basic"]], ids=["order", "twice"])
def test_experts_have_one_order_by_which_all_results_are_named(experts: list[str]) -> None:
    with pytest.raises(
        InputError, match=r"experts must be some of basic, semantic, adaptive, each once, in this order"
    ):
        build(experts=experts)


@pytest.mark.parametrize(
    ("detail", "trained"), [(None, True), (ImagePyramid(), False), (NoDetail(), False)], ids=["stem", "pyramid", "none"]
)
def test_what_shows_the_image_to_the_decoders(detail: nn.Module | None, trained: bool, image: Tensor) -> None:
    network = build(detail=detail)
    assert any(weight.requires_grad for weight in network.detail.parameters()) == trained
    gradients = [weight.grad for weight in network.detail.parameters()]
    network(image).logits.sum().backward()
    gradients = [weight.grad is not None for weight in network.detail.parameters()]
    assert gradients == [trained] * len(gradients)
    features = network.expert_features(network.trunk(image))
    changed = (
        network.decode(features, network.detail(image))[1] - network.decode(features, network.detail(-image))[1]
    ).abs().max() > 1e-4
    assert changed == (not isinstance(detail, NoDetail))


def test_one_expert_alone_votes_for_itself(image: Tensor) -> None:
    network = build(experts=("adaptive",))
    output = network(image)
    assert output.votes.eq(1).all()
    torch.testing.assert_close(torch.sigmoid(output.logits), torch.sigmoid(output.expert_logits[:, 0]))


def test_images_of_a_batch_do_not_mix(network: ICMoE, image: Tensor) -> None:
    torch.testing.assert_close(network(image)[1:], network(image[1:]), rtol=0, atol=1e-4)


def test_state_dict_is_complete_and_loads_strictly(network: ICMoE, image: Tensor, tmp_path: Path) -> None:
    state = network.state_dict()
    assert set(state) == {name for name, _ in [*network.named_parameters(), *network.named_buffers()]} - {
        "voting.gamma"  # a number of the design
    }
    torch.save(state, tmp_path / "network.pt")
    loaded = build(out_channels=network.out_channels).requires_grad_(False).eval()
    assert not torch.equal(loaded(image), network(image))
    loaded.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True), strict=True)
    assert torch.equal(loaded(image), network(image))


def test_checkpoints_fit_all_voting_strategies(network: ICMoE) -> None:
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    for strategy in STRATEGIES:
        other = build(out_channels=network.out_channels, voting=strategy)
        assert {name: value.shape for name, value in other.state_dict().items()} == shapes


def test_moves_to_float64(image: Tensor) -> None:
    with torch.no_grad():
        network = waken(build(out_channels=3)).eval()
        single = network(image)
        network.to(torch.float64)
        assert {x.dtype for x in network.state_dict().values() if x.is_floating_point()} == {torch.float64}
        torch.testing.assert_close(network(image.double()).float(), single, rtol=0, atol=1e-3)


class Maps(nn.Module):
    """Call `expert_maps`, which tracing cannot reach since it is exported already."""

    def __init__(self, network: ICMoE) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.expert_maps(image)


@jit
@pytest.mark.parametrize("method", ["forward", "expert_maps"])
def test_eager_and_trace_agree(network: ICMoE, method: str) -> None:
    image = torch.randn(1, 3, 32, 48)
    module = network if method == "forward" else Maps(network)
    traced = torch.jit.trace(module, image, check_trace=False)
    torch.testing.assert_close(traced(image), module(image), rtol=0, atol=1e-5)


@jit
def test_shipped_network_can_be_scripted() -> None:
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        network = waken(ICMoE()).eval()
        torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def scripted(network: ICMoE, tmp_path_factory: pytest.TempPathFactory) -> torch.jit.ScriptModule:
    """Return the network as TorchScript, from a file."""
    path = tmp_path_factory.mktemp("script") / "network.ts"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        torch.jit.script(network).save(path)
        return torch.jit.load(path)


@jit
@pytest.mark.parametrize("method", ["forward", "expert_maps"])
def test_eager_and_script_agree(network: ICMoE, scripted: torch.jit.ScriptModule, method: str) -> None:
    for size in [(32, 48), (16, 16)]:
        image = torch.randn(1, 3, *size)
        expected = getattr(network, method)(image)
        torch.testing.assert_close(getattr(scripted, method)(image), expected, rtol=0, atol=1e-5)


@jit
@pytest.mark.parametrize("experts", EXPERT_SETS[:-1], ids="+".join)
def test_every_set_of_experts_can_be_scripted(experts: tuple[str, ...]) -> None:
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        network = waken(build(experts=experts)).eval()
        torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"experts": ("basic", "clever")},
            r"each once, in this order, got \['basic', 'clever'\]\.",
        ),
        ({"experts": ()}, r"each once, in this order, got \[\]\."),
        ({"expert_depth": 0}, r"expert_depth must be in 1\.\.8 for this backbone, got 0\."),
        ({"expert_depth": 9}, r"expert_depth must be in 1\.\.8 for this backbone, got 9\."),
        ({"out_channels": 0}, r"out_channels must be at least 1, got 0\."),
        ({"backbone": "vit_x"}, r"backbone must be one of vit_t, vit_b, vit_l, vit_h, got 'vit_x'\."),
        ({"voting": "median"}, r"voting must be one of adaptive, .*, got 'median'\."),
        ({"experts": ("basic",), "voting": "best", "best_expert": 1}, r"best_expert must be in 0\.\.0, got 1\."),
    ],
)
def test_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        ICMoE(**arguments)


def test_an_image_of_another_size_is_refused(network: ICMoE) -> None:
    with pytest.raises(ValueError, match=r"multiples of 16, got \(H, W\) = \(64, 90\): pad to \(64, 96\)\."):
        network(torch.zeros(1, 3, 64, 90))
