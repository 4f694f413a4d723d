import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized

from icmoe_monai.transforms.resize import ResizeLongestd


def both(side: int) -> tuple[ResizeLongestd, Resized]:
    monais = Resized("image", side, size_mode="longest", mode="bilinear", anti_aliasing=True)
    return ResizeLongestd("image", spatial_size=side), monais


@pytest.mark.parametrize(
    ("size", "side"),
    [((96, 96), 48), ((150, 217), 64), ((700, 40), 64), ((30, 41), 64), ((64, 48), 64), ((16, 900), 32)],
    ids=["halved", "odd", "tall", "enlarged", "kept", "to one row"],
)
def test_it_gives_the_numbers_and_the_trace_of_monais_resized(size, side):
    image = MetaTensor(255 * torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))
    own, monais = (resize({"image": image})["image"] for resize in both(side))
    assert own.shape == monais.shape
    assert own.dtype == torch.float32
    assert monais.std() > 1
    torch.testing.assert_close(own.as_tensor(), monais.as_tensor(), rtol=0, atol=255e-6)
    torch.testing.assert_close(own.affine, monais.affine)
    for trace in (own.applied_operations, monais.applied_operations):
        trace[0].pop("id")
    assert own.applied_operations == monais.applied_operations


@pytest.mark.parametrize("nearest", [False, True], ids=["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(90, 70), (20, 30), (32, 24)], ids=["larger", "smaller", "of one size"])
def test_invertd_takes_a_prediction_back_as_after_monais_resized(size, nearest):
    image = MetaTensor(torch.rand(3, *size))
    restored = []
    for resize in both(32):
        item = resize({"image": image})
        item["pred"] = item["image"][:1].clone()
        invert = Invertd("pred", Compose([resize]), orig_keys="image", nearest_interp=nearest)
        restored.append(invert(item)["pred"])
    assert restored[0].shape == (1, *size)
    torch.testing.assert_close(restored[0].affine, restored[1].affine)
    assert restored[0].applied_operations == restored[1].applied_operations == []
    torch.testing.assert_close(restored[0].as_tensor(), restored[1].as_tensor(), rtol=0, atol=1e-6)


def test_the_item_itself_stays_as_it_was():
    image = torch.rand(3, 40, 60)
    item = {"image": image.clone()}
    ResizeLongestd("image", spatial_size=32)(item)
    assert torch.equal(item["image"], image)


def test_the_short_side_of_a_strip_does_not_vanish():
    assert ResizeLongestd("image", spatial_size=16)({"image": torch.ones(3, 2, 100)})["image"].shape == (3, 1, 16)
