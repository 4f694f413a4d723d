"""Every row of the studies is what its overlay says: what is trained, by which loss."""

from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

from icmoe_monai.networks.baselines import Baseline
from icmoe_monai.networks.icmoe import EXPERTS, ICMoE
from icmoe_monai.networks.voting import STRATEGIES
from icmoe_monai.settings import trainable_parameters
from icmoe_monai.weights.frozen import frozen_parts, has_frozen_trunk

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
OVER_ENCODER = sorted((CONFIGS / "ablations" / "encoder").glob("*.yaml"))
ABLATIONS = sorted((CONFIGS / "ablations").glob("*.yaml"))
BASELINES = sorted((CONFIGS / "baselines").glob("*.yaml"))
ALL = ABLATIONS + OVER_ENCODER + BASELINES
ENCODER = CONFIGS / "backbones" / "vit_t.yaml"  # the base of studies over an encoder
TRUNK = {"pretrained": "some trunk"}  # as such a study gives it, before the row's own overlay
# MONAI's own: heads of UNet++ for deep supervision only
UNUSED = {"unet_plus_plus": ("network.final_conv_0_1.", "network.final_conv_0_2.", "network.final_conv_0_3.")}
# over the image pyramid, which they take pretrained; rows of mixture.yaml
RIVALS = {"pyramid_unet", "pyramid_unet_lite2", "pyramid_unet_frozen", "pyramid_unet_ensemble"}
LOCATOR = ComponentLocator()  # which every parser would else make anew
SINGLE = {"decoder_only", "semantic_only", "adaptive_only", "lora_all", "full_finetuning"}


def parser_of(overlay: Path | None, *more: str) -> ConfigParser:
    over_encoder = overlay in (*OVER_ENCODER, ENCODER)
    files = [str(CONFIGS / "train.json"), *([str(ENCODER)] if over_encoder else [])]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.locator = LOCATOR
    if over_encoder:
        parser.update(TRUNK)
    for file in (overlay, *more):
        if file is not None:
            parser.update(ConfigParser.load_config_file(str(file)))
    parser["device"] = "cpu"
    return parser


@pytest.fixture(scope="module")
def full() -> tuple[ICMoE, dict[str, float]]:
    parser = parser_of(None)
    return parser.get_parsed_content("network_def"), parser.get_parsed_content("loss_def").weights


@pytest.fixture(scope="module")
def encoded() -> tuple[ICMoE, dict[str, float]]:
    parser = parser_of(ENCODER)
    return parser.get_parsed_content("network_def"), parser.get_parsed_content("loss_def").weights


def by_name(name: str) -> Path:
    (path,) = (path for path in ABLATIONS + OVER_ENCODER if path.stem == name)
    return path


def names_trained(network: torch.nn.Module) -> set[str]:
    return {name for name, weight in network.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("overlay", ALL, ids=lambda path: path.stem)
def test_an_overlay_is_short_and_asks_something(overlay):
    lines = overlay.read_text().splitlines()
    assert len(lines) <= 10
    assert lines[0].startswith("# ")
    assert overlay in BASELINES or "?" in lines[0]


@pytest.mark.parametrize("overlay", ALL, ids=lambda path: path.stem)
def test_an_overlay_trains_what_it_says_that_it_trains(overlay):
    parser = parser_of(overlay)
    network, loss = parser.get_parsed_content("network_def").train(), parser.get_parsed_content("loss_def")
    image = torch.randn(2, 3, 64, 64)
    label = torch.zeros(2, 1, 64, 64)
    label[:, :, 16:48, 16:40] = 1
    loss(network(image), label).backward()
    without = [name for name, weight in network.named_parameters() if weight.requires_grad != (weight.grad is not None)]
    assert all(name.startswith(UNUSED.get(overlay.stem, ("-",))) for name in without), without
    assert network.eval()(image).shape == label.shape
    if overlay in OVER_ENCODER:
        trains_trunk = overlay.stem in ("full_finetuning", "from_scratch")
        assert has_frozen_trunk(network) != trains_trunk
        assert (parser["pretrained"] is None) == (overlay.stem == "from_scratch")


@pytest.mark.parametrize("overlay", ALL, ids=lambda path: path.stem)
def test_an_overlay_serves_training_and_evaluation_alike(overlay):
    trained = parser_of(overlay)
    evaluated = parser_of(overlay, str(CONFIGS / "evaluate.json"))
    evaluated["recipe"] = "none"  # the default checkpoint is of another network
    # names and shapes alone are compared, and MONAI's SwinUNETR alone needs values
    with torch.device("cpu" if overlay.stem == "swin_unetr" else "meta"):
        state = trained.get_parsed_content("network_def").state_dict()
    found = evaluated.get_parsed_content("network_def").state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in state.items()}
    methods = evaluated.get_parsed_content("validate#additional_metrics")
    names = {f"{name}_dice" for name in evaluated.get_parsed_content("experts")}
    assert names <= methods.keys()  # not val_: it may be the test split


@pytest.mark.parametrize("overlay", [p for p in BASELINES if p.stem not in RIVALS], ids=lambda path: path.stem)
def test_a_baseline_is_trained_whole_by_dice_and_cross_entropy_alone(overlay):
    parser = parser_of(overlay)
    network, loss = parser.get_parsed_content("network_def"), parser.get_parsed_content("loss_def")
    assert isinstance(network, Baseline)
    assert parser["pretrained"] is None
    assert names_trained(network.network) == {name for name, _ in network.network.named_parameters()}
    assert 2e6 <= sum(weight.numel() for weight in trainable_parameters(network)) <= 8e6
    assert loss.weights["experts"] == 0
    norms = {name: type(module).__name__ for name, module in network.named_modules() if "Norm" in type(module).__name__}
    assert "BatchNorm2d" in norms.values()
    others = {name for name, kind in norms.items() if kind not in ("BatchNorm2d", "LayerNorm")}
    assert all(overlay.stem == "attention_unet" and ".merge." in name for name in others)  # MONAI has no option there


def test_the_pyramids_unet_differs_from_its_frozen_form_in_what_is_trained():
    tuned, frozen = (
        parser_of(CONFIGS / "baselines" / f"{name}.yaml") for name in ("pyramid_unet", "pyramid_unet_frozen")
    )
    assert tuned["pretrained"] is frozen["pretrained"] is None
    assert tuned["pyramid"] == frozen["pyramid"] == parser_of(None)["pyramid"]
    assert all(parser.get_parsed_content("loss_def").weights["experts"] == 0 for parser in (tuned, frozen))
    whole, part = tuned.get_parsed_content("network_def"), frozen.get_parsed_content("network_def")
    assert whole.state_dict().keys() == part.state_dict().keys()
    assert names_trained(whole) == {name for name, _ in whole.named_parameters() if name.startswith("network.")}
    assert names_trained(part) == {name for name in names_trained(whole) if name.startswith("network.decoder.")}
    assert frozen_parts(whole) == []  # its checkpoints are whole
    assert frozen_parts(part) == ["network.detail"]
    rates = [
        [group["lr"] for group in p.get_parsed_content("optimizer").param_groups]
        for p in (tuned, frozen, parser_of(None))
    ]
    both = [0.003, pytest.approx(0.0006)]
    assert rates == [both, [0.003], both]


def test_an_ensemble_is_three_of_the_pyramids_unet_under_their_own_losses():
    parser, one = (
        parser_of(CONFIGS / "baselines" / f"{name}.yaml") for name in ("pyramid_unet_ensemble", "pyramid_unet")
    )
    network, loss = parser.get_parsed_content("network_def"), parser.get_parsed_content("loss_def")
    member = one.get_parsed_content("network_def").network
    assert len(parser.get_parsed_content("experts")) == len(network.networks) == loss.weights["experts"] == 3
    assert loss.weights["mutual"] == 0
    assert loss.pixel_weights is None
    assert len({id(weight) for weight in network.networks.parameters()}) == 3 * len(list(member.parameters()))
    for each in network.networks:
        assert {n: w.shape for n, w in each.named_parameters()} == {n: w.shape for n, w in member.named_parameters()}
    assert names_trained(network) == {name for name, _ in network.named_parameters() if name.startswith("networks.")}
    groups = parser.get_parsed_content("optimizer").param_groups
    assert [group["lr"] for group in groups] == [0.003, pytest.approx(0.0006)]
    pyramid = len(list(member.detail.parameters()))
    assert len(groups[1]["params"]) == 3 * pyramid


def test_single_experts_are_trained_by_their_own_loss_alone(full):
    for name in SINGLE:
        parser = parser_of(by_name(name))
        assert len(parser["experts"]) == 1
        assert parser.get_parsed_content("loss_def").weights["experts"] == 0


@pytest.mark.parametrize(
    ("name", "term"),
    [("no_vote_loss", "vote"), ("no_balance", "balance"), ("no_contrast", "contrast"), ("no_mutual", "mutual")],
)
def test_a_loss_is_left_out_and_no_other(name, term, full):
    weights = parser_of(by_name(name)).get_parsed_content("loss_def").weights
    assert weights == full[1] | {term: 0.0}
    assert full[1][term] > 0


def test_pixel_weights_are_left_out_over_an_encoder_and_else_added(full, encoded):
    without = parser_of(by_name("no_pixel_weights")).get_parsed_content("loss_def")
    added = parser_of(by_name("pixel_weights")).get_parsed_content("loss_def")
    assert without.pixel_weights is None
    assert added.pixel_weights is not None
    assert (without.weights, added.weights) == (encoded[1], full[1])


def test_experts_can_be_deaf_to_the_vote_or_lean_on_it(full):
    assert full[0].hear_vote
    assert not parser_of(by_name("deaf")).get_parsed_content("network_def").hear_vote
    lean = parser_of(by_name("experts_lean")).get_parsed_content("loss_def")
    assert lean.weights == full[1] | {"experts": 0.2}


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("adaptive", "best")])
def test_another_vote_leaves_the_experts_as_they_are(strategy, full):
    network = parser_of(by_name(f"voting_{strategy}")).get_parsed_content("network_def")
    assert network.voting.strategy == strategy
    lost = names_trained(full[0]) - names_trained(network)
    assert lost
    assert all(name.startswith(("gate.", "voting.")) for name in lost)


@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("decoder_only", ["basic"]),
        ("basic_semantic", ["basic", "semantic"]),
        ("basic_adaptive", ["basic", "adaptive"]),
        ("lora_all", ["semantic"]),
        ("full_finetuning", ["basic"]),
        ("from_scratch", list(EXPERTS)),
    ],
)
def test_the_experts_are_those_that_the_name_says(name, experts):
    assert parser_of(by_name(name)).get_parsed_content("network_def").expert_names == experts


def test_decoder_only_trains_nothing_of_the_encoders_kind(full):
    network = parser_of(by_name("decoder_only")).get_parsed_content("network_def")
    decoder = {name for name in names_trained(full[0]) if name.startswith("decoders.basic.")}
    assert names_trained(network) == decoder


@pytest.mark.parametrize("name", ["semantic", "adaptive"])
def test_an_expert_trained_alone_is_that_of_the_whole(name, full):
    network = parser_of(by_name(f"{name}_only")).get_parsed_content("network_def")
    assert network.expert_names == [name]
    assert names_trained(network) < names_trained(full[0])


def test_the_pyramid_gives_way_to_a_stem_that_is_trained(encoded):
    assert frozen_parts(encoded[0]) == ["encoder", "detail"]
    parser = parser_of(by_name("detail_stem"))
    network = parser.get_parsed_content("network_def")
    assert frozen_parts(network) == ["encoder"]
    assert parser["pyramid"] is None
    assert {name for name in names_trained(network) if name.startswith("detail.")}


def test_experts_over_an_encoder_can_be_trained_to_stand_alone(encoded):
    weights = parser_of(by_name("expert_weight_1")).get_parsed_content("loss_def").weights
    assert weights == encoded[1] | {"experts": 1.0}
    assert encoded[1]["experts"] < 1


def test_the_default_has_experts_over_their_own_networks_beside_the_frozen_one(full):
    network, weights = full
    assert frozen_parts(network) == ["detail"]
    assert network.detail.size == "lite0"
    assert {name: part.pyramid.size for name, part in network.views.items() if hasattr(part, "pyramid")} == {
        "semantic": "lite1",
        "adaptive": "lite2",
    }
    assert weights["experts"] == 3  # of the mean of three: each counts fully
    assert weights["mutual"] > 0


def test_low_rank_updates_stand_in_every_block():
    network = parser_of(by_name("lora_all")).get_parsed_content("network_def")
    assert network.split == 0


@pytest.mark.parametrize(("name", "depth"), [("depth_1", 1), ("depth_4", 4)])
def test_depths_differ_from_the_encoders_by_their_name(name, depth, encoded):
    network = parser_of(by_name(name)).get_parsed_content("network_def")
    num_blocks = len(network.encoder.blocks)
    assert num_blocks - network.split == depth
    assert num_blocks - encoded[0].split == 2


def test_communication_is_left_out(encoded):
    network = parser_of(by_name("no_communication")).get_parsed_content("network_def")
    lost = names_trained(encoded[0]) - names_trained(network)
    assert lost
    assert all(name.startswith("communication.") for name in lost)


def test_every_ablation_and_rival_is_a_row_of_its_name_in_a_study():
    studies = {name: yaml.safe_load((CONFIGS / "studies" / f"{name}.yaml").read_text())
               for name in ("reduced", "parts", "mixture")}  # fmt: skip
    rows = {name: study["rows"] for name, study in studies.items()}
    assert all(next(iter(each.items())) == ("icmoe", None) for each in rows.values())
    files = {path: {path.stem: str(path.relative_to(ROOT))} for path in ALL}
    for path, row in files.items():
        named = [name for name, each in rows.items() if row.items() <= each.items()]
        assert named, path
        assert (path in OVER_ENCODER) <= (named == ["reduced"]), path
        assert (path.stem in RIVALS - {"pyramid_unet_ensemble"}) <= ("mixture" in named), path
    assert studies["reduced"]["base"] == str(ENCODER.relative_to(ROOT))
    assert "base" not in studies["parts"] | studies["mixture"]
    # each at its best learning rate, but ensembles of the study's own runs, and nnU-Net, which has a rate of its own
    untuned = {*studies["mixture"]["once"], "nnunet", "light_decoders"}  # which learns at the rate of the row icmoe
    assert set(studies["mixture"]["tuning"]["rows"]) == set(rows["mixture"]) - untuned
