import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modes import randomise
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
from transformers import SamConfig, SamModel, SamVisionConfig, SamVisionModel

from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.sam import BACKBONES, SamImageEncoder, build_sam_encoder
from icmoe_monai.weights import formats as weight_formats
from icmoe_monai.weights.formats import from_hugging_face, read_sam_weights, to_hugging_face
from icmoe_monai.weights.official import OFFICIAL_WEIGHTS
from icmoe_monai.weights.sam import find_backbone, load_sam_weights, save_sam_weights, trunk_fingerprint
from icmoe_monai.weights.tensor_files import read_checkpoint, read_metadata

# Width C, depth, head width D and global blocks of Meta's checkpoints sam_vit_b_01ec64, _l_0b3195 and _h_4b8939
OFFICIAL = {
    "vit_b": (768, 12, 64, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 64, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 80, (7, 15, 23, 31)),
}
TINY = {
    "tiny_a": {
        "image_size": 64, "width": 16, "depth": 2, "num_heads": 2, "window_size": 3, "global_blocks": (1,),
        "neck_channels": 8,
    },
    "tiny_b": {
        "image_size": 64, "width": 32, "depth": 3, "num_heads": 2, "window_size": 3, "global_blocks": (2,),
        "neck_channels": 8,
    },
}  # fmt: skip
State = dict[str, Any]


@pytest.fixture(autouse=True)
def _tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in TINY.items():
        monkeypatch.setitem(BACKBONES, name, size)


@pytest.fixture
def encoder() -> SamImageEncoder:
    encoder = build_sam_encoder("tiny_a")
    randomise(encoder)
    return encoder


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def rest_of(*names: str) -> State:
    return dict.fromkeys(names, torch.ones(1))


def metas(state: State) -> State:
    """The names that lie beside each other in sam_vit_b_01ec64.pth and in medsam_vit_b.pth."""
    others = rest_of("prompt_encoder.no_mask_embed.weight", "mask_decoder.iou_token.weight", "pixel_mean", "pixel_std")
    return under("image_encoder.", state) | others


def ours(state: State) -> State:
    names = "adapted.x", "communication.x", "decoders.x", "detail.x", "embed.x", "gate.x", "voting.alpha"
    return under("encoder.", state) | rest_of(*names)


def hugging_faces(state: State) -> State:
    names = "shared_image_embedding.positional_embedding", "prompt_encoder.x", "mask_decoder.x"
    return to_hugging_face(state) | rest_of(*names)


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("backbone", OFFICIAL)
def test_names_and_shapes_are_those_of_metas_checkpoints(backbone: str) -> None:
    C, depth, D, global_blocks = OFFICIAL[backbone]
    expected = {
        "image_encoder.pos_embed": (1, 64, 64, C),
        "image_encoder.patch_embed.proj.weight": (C, 3, 16, 16),
        "image_encoder.patch_embed.proj.bias": (C,),
        "image_encoder.neck.0.weight": (256, C, 1, 1),
        "image_encoder.neck.1.weight": (256,),
        "image_encoder.neck.1.bias": (256,),
        "image_encoder.neck.2.weight": (256, 256, 3, 3),
        "image_encoder.neck.3.weight": (256,),
        "image_encoder.neck.3.bias": (256,),
    }
    for i in range(depth):
        table = (127, D) if i in global_blocks else (27, D)
        block = {
            "norm1.weight": (C,),
            "norm1.bias": (C,),
            "attn.rel_pos_h": table,
            "attn.rel_pos_w": table,
            "attn.qkv.weight": (3 * C, C),
            "attn.qkv.bias": (3 * C,),
            "attn.proj.weight": (C, C),
            "attn.proj.bias": (C,),
            "norm2.weight": (C,),
            "norm2.bias": (C,),
            "mlp.lin1.weight": (4 * C, C),
            "mlp.lin1.bias": (4 * C,),
            "mlp.lin2.weight": (C, 4 * C),
            "mlp.lin2.bias": (C,),
        }
        expected |= under(f"image_encoder.blocks.{i}.", block)
    state = on_meta(lambda: build_sam_encoder(backbone)).state_dict()
    assert {f"image_encoder.{name}": tuple(value.shape) for name, value in state.items()} == expected
    assert find_backbone(state) == backbone


@pytest.mark.parametrize("backbone", OFFICIAL)
def test_names_are_mapped_to_those_of_transformers_and_back(backbone: str) -> None:
    C, depth, D, global_blocks = OFFICIAL[backbone]
    config = SamVisionConfig(
        hidden_size=C, num_hidden_layers=depth, num_attention_heads=C // D, global_attn_indexes=list(global_blocks)
    )
    state = on_meta(lambda: build_sam_encoder(backbone)).state_dict()
    theirs = on_meta(lambda: SamVisionModel(config)).state_dict()
    found = to_hugging_face(state)
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in theirs.items()}
    assert list(from_hugging_face(found)) == list(state)
    assert to_hugging_face(from_hugging_face(theirs)).keys() == theirs.keys()


def test_every_weight_of_an_encoder_is_in_its_state() -> None:
    """What is not would be left undefined in an encoder that is built without values and then loaded."""
    for backbone in BACKBONES:
        network = on_meta(lambda name=backbone: build_sam_encoder(name))
        held = {name for name, _ in [*network.named_parameters(), *network.named_buffers()]}
        assert held == network.state_dict().keys()


# ---------------------------------------------------------------- files that are read


FORMATS: dict[str, Callable[[State], State]] = {
    "meta": metas,
    "hugging-face": hugging_faces,
    "hugging-face-vision": to_hugging_face,
    "ours": ours,
    "hugging-face-bare": lambda state: {
        name.removeprefix("vision_encoder."): value for name, value in to_hugging_face(state).items()
    },
    "bare": dict,
    "encoder-behind-its-prefix": lambda state: under("image_encoder.", state),
    "parallel": lambda state: under("module.", metas(state)),
    "model": lambda state: {"model": metas(state), "optimizer": {0: 1.0}, "epoch": 3},
    "state_dict": lambda state: {"state_dict": under("module.", state), "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": ours(state), "trunk": "?"},
    "model-in-model": lambda state: {"model": {"state_dict": under("module.", hugging_faces(state))}},
}


@pytest.mark.parametrize("given", [False, True], ids=["built", "given"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_loaded(kind: str, given: bool, encoder: SamImageEncoder, tmp_path: Path) -> None:
    torch.save(FORMATS[kind](encoder.state_dict()), tmp_path / "a.pth")
    target = build_sam_encoder("tiny_a") if given else None
    loaded = load_sam_weights(tmp_path / "a.pth", target)
    assert target is None or loaded is target
    assert same(loaded.state_dict(), encoder.state_dict())
    assert same(read_sam_weights(str(tmp_path / "a.pth")), encoder.state_dict())


def test_the_size_is_known_by_the_shapes(tmp_path: Path) -> None:
    torch.save(build_sam_encoder("tiny_b").state_dict(), tmp_path / "a.pth")
    assert load_sam_weights(tmp_path / "a.pth").pos_embed.shape[-1] == TINY["tiny_b"]["width"]


def test_our_own_network_is_read_at_its_real_size(tmp_path: Path) -> None:
    network = ICMoE(backbone="vit_t")
    torch.save({"model": network.state_dict()}, tmp_path / "last.pt")
    assert same(load_sam_weights(tmp_path / "last.pt").state_dict(), network.encoder.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_take_the_encoders_dtype(dtype: torch.dtype, encoder: SamImageEncoder, tmp_path: Path) -> None:
    torch.save({name: value.to(dtype) for name, value in encoder.state_dict().items()}, tmp_path / "a.pth")
    loaded = load_sam_weights(tmp_path / "a.pth")
    half = load_sam_weights(tmp_path / "a.pth", build_sam_encoder("tiny_a").half())
    assert loaded.pos_embed.dtype == torch.float32
    assert torch.equal(loaded.pos_embed, encoder.pos_embed.to(dtype).float())
    assert torch.equal(half.pos_embed, encoder.pos_embed.to(dtype).half())


def test_a_loaded_encoder_owns_its_weights(encoder: SamImageEncoder, tmp_path: Path) -> None:
    torch.save(encoder.state_dict(), tmp_path / "a.pth")
    loaded = load_sam_weights(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(bytes((tmp_path / "a.pth").stat().st_size))  # of a mapped file all would be zero
    assert same(loaded.state_dict(), encoder.state_dict())


@pytest.mark.parametrize("name", OFFICIAL_WEIGHTS)
def test_official_weights_are_fetched_by_name(
    name: str, encoder: SamImageEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(metas(encoder.state_dict()), tmp_path / f"{name}.pth")
    monkeypatch.setattr(weight_formats, "fetch_official", lambda name: tmp_path / f"{name}.pth")
    assert same(load_sam_weights(name).state_dict(), encoder.state_dict())


def tiny_hugging_face(architecture: type[nn.Module]) -> nn.Module:
    """Random weights, wide, in a model with a grid of 6 that windows of 4 do not divide."""
    config = SamVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=96, window_size=4,
        global_attn_indexes=[2], output_channels=8,
    )  # fmt: skip
    model = architecture(SamConfig(vision_config=config) if architecture is SamModel else config)
    randomise(model, std=0.4)
    return model.eval()


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("architecture", [SamModel, SamVisionModel])
def test_a_model_of_hugging_face_gives_the_same_features(
    architecture: type[nn.Module], safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"image_size": 96, "width": 32, "depth": 3, "num_heads": 2, "window_size": 4, "global_blocks": (2,)}
    monkeypatch.setitem(BACKBONES, "tiny_hugging_face", {**size, "neck_channels": 8})
    theirs = tiny_hugging_face(architecture)
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    (file,) = (path for path in tmp_path.iterdir() if path.suffix != ".json")
    image = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs.vision_encoder(image).last_hidden_state
        scale = expected.std()
        assert scale > 0.1
        assert (expected[0] - expected[1]).std() > 0.2 * scale  # it is the image that is seen, not the biases
        for source in (tmp_path, file):
            found = load_sam_weights(source).eval()(image)
            torch.testing.assert_close(found / scale, expected / scale, atol=2e-5, rtol=0)


# ---------------------------------------------------------------- files that are refused


def change(name: str, value: Tensor | None) -> Callable[[State], State]:
    return lambda state: {**state, name: value}


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name not in names}


def of_other_size(**size: Any) -> Callable[[State], State]:
    return lambda state: SamImageEncoder(**{**TINY["tiny_a"], **size}).state_dict()


NOT_SAM: dict[str, tuple[Callable[[State], State], str]] = {
    "sam2": (
        lambda _: {"model": rest_of("image_encoder.trunk.pos_embed", "sam_mask_decoder.x", "memory_attention.x")},
        r"holds a SAM 2 model; expected SAM's \(first\) image encoder, for example sam_vit_b\.",
    ),
    "sam2-of-hugging-face": (lambda _: rest_of("vision_encoder.backbone.blocks.0.x"), r"holds a SAM 2 model; expected"),
    "mobile-sam": (
        lambda _: rest_of("image_encoder.patch_embed.seq.0.c.weight", "image_encoder.layers.0.blocks.0.conv1.c.weight"),
        r"holds a MobileSAM model \(TinyViT\); expected SAM's \(first\) image encoder",
    ),
    "experts": (
        lambda state: {"model": without(*under("encoder.", state))(ours(state)), "trunk": "0123"},
        r"holds trained experts without a trunk: give the foundation encoder that they were trained on",
    ),
    "another-vit": (
        lambda _: rest_of("cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "norm.bias"),
        r"holds no SAM image encoder, but cls_token, pos_embed, blocks\.0\.attn\.qkv\.weight and 2 more: give a file",
    ),
    "numbers": (lambda _: {0: torch.ones(1)}, r"holds no SAM image encoder, but 0: give a file of one, or a name"),
    "nothing": (lambda _: {}, r"holds no SAM image encoder, but nothing: give a file of one"),
    "more-than-sam": (
        lambda state: metas(state) | rest_of("lora_a.weight"),
        r"holds more than SAM \(lora_a\.weight\), and its encoder may rely on that: give SAM's own file",
    ),
    "more-than-ours": (lambda state: ours(state) | rest_of("segmenter.x"), r"holds more than SAM \(segmenter\.x\)"),
    "no-tensor": (change("pos_embed", None), r"holds no tensor of floats as pos_embed: give SAM's own file"),
    "integers": (change("neck.1.bias", torch.ones(8).int()), r"holds no tensor of floats as neck\.1\.bias: give"),
}
NO_FIT: dict[str, tuple[Callable[[State], State], str]] = {
    "pixels": (
        of_other_size(image_size=96),
        r"has position tables for 96 pixels, and the encoder is for 64: give a file made for 64\.",
    ),
    "adapters": (
        lambda state: metas({**state, "blocks.0.Adapter.weight": torch.ones(1)}),
        r"has blocks\.0\.Adapter\.weight in its encoder, which SAM's has not \(adapters\?\): without them",
    ),
    "missing": (without("pos_embed", "neck.1.bias"), r"lacks neck\.1\.bias, pos_embed of the encoder: it is incompl"),
    "not-a-number": (
        change("neck.1.bias", torch.full((8,), torch.nan)),
        r"holds numbers in neck\.1\.bias that are not finite as torch\.float32: give another file",
    ),
    "infinite": (change("neck.1.bias", torch.full((8,), -torch.inf)), r"in neck\.1\.bias that are not finite"),
    "too-large": (change("neck.1.bias", torch.full((8,), 1e300, dtype=torch.float64)), r"not finite as torch\.float32"),
}


def assert_untouched_by_refusal(content: State, sentence: str, path: Path) -> None:
    torch.save(content, path)
    target = build_sam_encoder("tiny_a")
    before = trunk_fingerprint(target)
    with pytest.raises(InputError, match=sentence) as caught:
        load_sam_weights(path, target)
    assert str(caught.value).startswith(f"{path} ")
    assert trunk_fingerprint(target) == before


@pytest.mark.parametrize("kind", NOT_SAM)
def test_a_file_of_another_kind_is_told_by_its_names(kind: str, encoder: SamImageEncoder, tmp_path: Path) -> None:
    build, sentence = NOT_SAM[kind]
    assert_untouched_by_refusal(build(encoder.state_dict()), sentence, tmp_path / "a.pth")
    with pytest.raises(InputError, match=sentence):
        read_sam_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", NO_FIT)
def test_a_file_that_does_not_fit_leaves_the_encoder_alone(kind: str, encoder: SamImageEncoder, tmp_path: Path) -> None:
    build, sentence = NO_FIT[kind]
    assert_untouched_by_refusal(build(encoder.state_dict()), sentence, tmp_path / "a.pth")
    with pytest.raises(InputError, match=sentence):
        load_sam_weights(tmp_path / "a.pth")


def test_another_backbone_is_named_with_the_setting(tmp_path: Path) -> None:
    content = metas(build_sam_encoder("tiny_b").state_dict())
    sentence = r"holds tiny_b; the network has tiny_a: set --backbone tiny_b or give another file\."
    assert_untouched_by_refusal(content, sentence, tmp_path / "a.pth")


def test_a_network_of_another_size_is_no_backbone_of_ours(tmp_path: Path) -> None:
    content = of_other_size(width=48)({})
    sentence = r"does not fit \(pos_embed is \(1, 4, 4, 48\) in it and \(1, 4, 4, 16\) in the encoder\)"
    assert_untouched_by_refusal(content, sentence, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds an encoder of 2 blocks that is none of vit_t, vit_b, vit_l, vit_h"):
        load_sam_weights(tmp_path / "a.pth")


def test_a_file_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: State = {"x": torch.ones(1)}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds no SAM image encoder, but x, model"):
        load_sam_weights(tmp_path / "a.pth")


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights at sam_vit_x: name a file, .*, or one of sam_vit_b, sam_vit_l"):
        load_sam_weights("sam_vit_x")
    with pytest.raises(InputError, match=r"The folder .* holds no model\.safetensors or pytorch_model\.bin: name the"):
        load_sam_weights(tmp_path)


# ---------------------------------------------------------------- fingerprints, and files that are written


def test_a_fingerprint_is_the_hash_of_names_types_shapes_and_bytes() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.fill_(0.5)
    # IEEE 754, little-endian: 0.5 is 3f000000, 1 is 3f800000, -2 is c0000000
    expected = b"bias torch.float32 (1,)\n" + bytes.fromhex("0000003f")
    expected += b"weight torch.float32 (1, 2)\n" + bytes.fromhex("0000803f000000c0")
    assert trunk_fingerprint(layer) == hashlib.sha256(expected).hexdigest()


def test_a_fingerprint_changes_with_every_value_name_dtype_and_shape(encoder: SamImageEncoder) -> None:
    seen = {trunk_fingerprint(encoder)}
    changes = 1
    for weight in encoder.parameters():
        with torch.no_grad():
            flat = weight.view(-1)
            flat[-1] = torch.nextafter(flat[-1], torch.tensor(torch.inf))
        seen.add(trunk_fingerprint(encoder))
        changes += 1
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        seen.add(trunk_fingerprint(encoder.to(dtype)))
        changes += 1
    for other in ({"a": nn.Linear(2, 3)}, {"b": nn.Linear(2, 3)}, {"b": nn.Linear(3, 2)}):
        module = nn.ModuleDict(other)
        nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in module.parameters())), module.parameters())
        seen.add(trunk_fingerprint(module))
        changes += 1
    assert len(seen) == changes


def test_a_fingerprint_is_of_values_not_of_their_layout(encoder: SamImageEncoder) -> None:
    before = trunk_fingerprint(encoder)
    assert trunk_fingerprint(encoder.to(memory_format=torch.channels_last).requires_grad_(False)) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fingerprint_is_the_same_on_a_gpu(encoder: SamImageEncoder) -> None:
    assert trunk_fingerprint(encoder) == trunk_fingerprint(encoder.cuda())


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_a_written_encoder_comes_back_with_its_fingerprint(
    dtype: torch.dtype | None, encoder: SamImageEncoder, tmp_path: Path
) -> None:
    path = tmp_path / "new folder" / "encoder.safetensors"
    save_sam_weights(encoder, path, dtype=dtype)
    loaded = load_sam_weights(path)
    fingerprint = trunk_fingerprint(loaded)
    assert read_metadata(path) == {"format": "pt", "backbone": "tiny_a", "fingerprint": fingerprint}
    assert (fingerprint == trunk_fingerprint(encoder)) == (dtype is None)
    assert {value.dtype for value in read_checkpoint(path).values()} == {dtype or torch.float32}
    assert torch.equal(loaded.pos_embed, encoder.pos_embed.to(dtype).float())
    assert encoder.pos_embed.dtype == torch.float32


def test_an_encoder_in_half_precision_is_written_as_it_is(encoder: SamImageEncoder, tmp_path: Path) -> None:
    save_sam_weights(encoder.half(), tmp_path / "a.safetensors")
    assert read_sam_weights(tmp_path / "a.safetensors")["pos_embed"].dtype == torch.float16
    fingerprint = trunk_fingerprint(load_sam_weights(tmp_path / "a.safetensors"))
    assert read_metadata(tmp_path / "a.safetensors")["fingerprint"] == fingerprint


def test_an_encoder_of_a_size_of_its_own_is_written_as_custom(tmp_path: Path) -> None:
    encoder = SamImageEncoder(**{**TINY["tiny_a"], "width": 48})
    save_sam_weights(encoder, tmp_path / "a.safetensors")
    assert read_metadata(tmp_path / "a.safetensors")["backbone"] == "custom"
    target = SamImageEncoder(**{**TINY["tiny_a"], "width": 48})
    assert same(load_sam_weights(tmp_path / "a.safetensors", target).state_dict(), encoder.state_dict())


def test_weights_beyond_a_dtype_are_not_written(encoder: SamImageEncoder, tmp_path: Path) -> None:
    nn.init.constant_(encoder.neck[1].bias, 1e6)
    with pytest.raises(InputError, match=r"neck\.1\.bias is not finite as torch\.float16, so .*a\.safetensors was not"):
        save_sam_weights(encoder, tmp_path / "a.safetensors", dtype=torch.float16)
    assert not os.listdir(tmp_path)
