"""The size of the decoders, which a training chooses by its masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.training import choose_decoder
from icmoe_monai.weights import save_weights

ROOT = Path(__file__).parents[2]
SIDE = 64


def put_set(folder: Path, width: int, *, num_images: int = 8) -> str:
    """Write images of a band, which is as wide as given."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20 : 20 + width] = 255
    for i in range(num_images):
        Image.fromarray(np.stack([mask // 2 + 40] * 3, axis=-1)).save(folder / "images" / f"case_{i}.png")
        Image.fromarray(mask).save(folder / "masks" / f"case_{i}.png")
    return str(folder)


@pytest.mark.parametrize(
    ("width", "longest_side", "decoder"),
    [(3, SIDE, "full"), (21, SIDE, "light"), (3, 4 * SIDE, "light"), (21, 16, "full")],
)
def test_what_is_thin_where_the_network_sees_it_is_drawn_by_full_decoders(tmp_path, width, longest_side, decoder):
    folder = put_set(tmp_path, width)
    assert choose_decoder(None, dataset_dir=folder, longest_side=longest_side) == decoder


def test_a_size_that_is_known_stays_and_without_a_data_set_it_is_light(tmp_path):
    thin = put_set(tmp_path, 3)
    assert choose_decoder("light", dataset_dir=thin, longest_side=SIDE) == "light"
    assert choose_decoder("full", dataset_dir=None, longest_side=SIDE) == "full"
    assert choose_decoder(None, dataset_dir=None, longest_side=SIDE) == "light"


def test_test_images_have_no_say_and_training_and_validation_images_the_same(tmp_path):
    put_set(tmp_path, 21)
    thin = put_set(tmp_path / "thin", 3)
    for i in range(4):  # half of the masks are thin
        (Path(thin) / "masks" / f"case_{i}.png").replace(tmp_path / "masks" / f"case_{i}.png")
    thin_ones, thick_ones = [f"case_{i}" for i in range(4)], [f"case_{i}" for i in range(4, 8)]

    def chosen(**splits: list[str]) -> str:
        (tmp_path / "splits.json").write_text(json.dumps(splits))
        return choose_decoder(None, dataset_dir=str(tmp_path), longest_side=SIDE)

    assert chosen(train=thick_ones[:2], val=thick_ones[2:], test=thin_ones) == "light"
    assert chosen(train=thin_ones[:2], val=thin_ones[2:], test=thick_ones) == "full"
    assert chosen(train=thin_ones[:1] + thick_ones[:1], val=thin_ones[1:], test=thick_ones[1:]) == "full"


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist: correct its path"):
        choose_decoder(None, dataset_dir=str(tmp_path / "nowhere"), longest_side=SIDE)


def parser_of(**settings: object) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_files([str(ROOT / "configs" / "train.json")]))
    parser.update({"device": "cpu", "image_size": SIDE, **settings})
    return parser


def test_a_training_builds_and_records_what_it_has_chosen(tmp_path):
    thin = put_set(tmp_path, 3)
    chosen = {"full": {"dataset_dir": thin}, "light": {"dataset_dir": thin, "decoder": "light"}}
    for decoder, given in chosen.items():
        parser = parser_of(**given)
        assert parser.get_parsed_content("settings")["decoder"] == decoder
        network = parser.get_parsed_content("network_def")
        assert network.decoders["basic"].draws_every_pixel == (decoder == "full")
    of_bundle = parser_of().get_parsed_content("network_def")  # as MONAI loads a bundle, without data
    assert not of_bundle.decoders["basic"].draws_every_pixel


def test_a_network_that_is_trained_further_keeps_its_decoders(tmp_path):
    thin, thick = put_set(tmp_path / "thin", 3), put_set(tmp_path / "thick", 21)
    for name, recipe, decoder in (("full", {"settings": {"decoder": "full"}}, "full"), ("old", None, "light")):
        checkpoint = str(tmp_path / f"{name}.pt")
        save_weights(torch.nn.Linear(1, 1), checkpoint, recipe=recipe)
        for folder in (thin, thick):
            assert choose_decoder(None, dataset_dir=folder, checkpoint=checkpoint, longest_side=SIDE) == decoder
        assert parser_of(dataset_dir=thin, checkpoint=checkpoint).get_parsed_content("settings")["decoder"] == decoder
