"""What `icmoe info` says of a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from icmoe_monai import ICMoE, save_weights, trunk_fingerprint
from icmoe_monai.__main__ import main
from icmoe_monai.commands.info import describe_file
from icmoe_monai.errors import InputError
from icmoe_monai.version import __version__

ROOT = Path(__file__).parents[2]
SHIPPED = "073a04c8098a1b832bbffa7c1a4e0d2812c40bf5e2b013c9232bedb0539c37db"  # the trunk's, in docs/models.md


def facts(path: Path) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in describe_file(path))


def test_checkpoints_tell_of_their_encoder(tmp_path):
    network = ICMoE()
    for name in ("best.pt", "best.safetensors"):
        save_weights(network, tmp_path / name, trunk_source="sam_vit_t.safetensors")
        told = facts(tmp_path / name)
        assert told["kind"] == "checkpoint, weights of a network without its frozen parts"
        assert told["encoder's fingerprint"] == trunk_fingerprint(network.encoder)
        assert told["encoder's source"] == "sam_vit_t.safetensors"
        assert told["version"] == "not noted"
    save_weights(network, tmp_path / "whole.pt", whole=True)
    told = facts(tmp_path / "whole.pt")
    assert told["kind"] == "checkpoint, weights of a network with its frozen parts"
    assert told["tensors"].startswith(f"{len(network.state_dict())}, with ")
    assert told["encoder's fingerprint"] == trunk_fingerprint(network.encoder)


def test_the_state_of_a_training_and_a_noted_version_are_told(tmp_path):
    content = {"model": {"a": torch.zeros(2, 3)}, "trainer": {}, "version": "9.9.9"}
    torch.save(content, tmp_path / "last.pt")
    told = facts(tmp_path / "last.pt")
    assert told["kind"].startswith("state of a training, network with its frozen parts")
    assert (told["tensors"], told["version"]) == ("1, with 0.0 million numbers", "9.9.9")


@pytest.mark.parametrize(
    ("path", "kind", "name", "value"),
    [
        (
            "models/experts_busi.safetensors",
            "checkpoint, weights of a network without",
            "modality",
            "breast ultrasound",
        ),
        ("models/model.pt", "checkpoint, weights of a network with its", "modality", "dermoscopy"),
        ("models/sam_vit_t_medical.safetensors", "encoder, vit_t", "encoder's fingerprint", SHIPPED),
        ("models/efficientnet_lite0_imagenet.safetensors", "EfficientNet-Lite0", "tensors", "96, with 3.0 million"),
        ("models/model.calibration.json", "calibration", "fitted on", "160 images of the split val"),
        ("configs/metadata.json", "the bundle's metadata", "version", __version__),
        ("configs/train.json", "config of a workflow", "sets", "bundle_root, "),
        ("configs/backbones/vit_b.yaml", "config to lay over another", "sets", "backbone, own_network, "),
    ],
)
def test_every_kind_of_shipped_file_is_known(path, kind, name, value):
    told = facts(ROOT / path)
    assert told["kind"].startswith(kind)
    assert told[name].startswith(value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"train": ["a", "b"], "val": ["c"]}, {"kind": "splits of a dataset folder", "images": "2 train, 1 val"}),
        (
            {"format": "icmoe plan", "version": 1, "facts": {"num_images": 24}, "faults": [{}, {}]},
            {"kind": "plan of a training", "images": "24", "faults and notes": "2"},
        ),
        (
            {"schema": 2, "complete": False, "num_cases": 3, "num_failed": 1, "cases": []},
            {"kind": "report of a prediction that was stopped", "images": "3, of which 1 could not be used"},
        ),
        ({"mine": 3, "longest_side#x": 4}, {"kind": "config to lay over another", "sets": "mine, longest_side"}),
    ],
    ids=["splits", "plan", "report", "config"],
)
def test_what_the_package_reads_and_writes_is_no_config(content, told, tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())  # as Windows may save it
    assert facts(tmp_path / "a.json").items() >= told.items()


def test_a_table_of_other_names_is_no_config_and_they_are_not_told(tmp_path):
    """Such as groups.json, whose names may identify patients."""
    for content in ({"case1": "patient 7"}, {"patient 7": ["case1", "case2"]}, {"3": 4}):
        (tmp_path / "groups.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"^\S*groups\.json is no config, .* none of its names is a setting\.$"):
            describe_file(tmp_path / "groups.json")


def test_what_is_no_file_of_the_package_is_told_in_a_sentence(tmp_path, capsys):
    shutil.copyfile(ROOT / "LICENSE", tmp_path / "a.pt")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.yaml").write_text("- 1")
    torch.save({"epoch": 3}, tmp_path / "d.pt")
    for name, sentence in {
        "a.pt": "cannot be read as a checkpoint", "b.json": "cannot be read as JSON", "c.yaml": "is no config",
        "d.pt": "holds no weights by name", "e.pt": "There is no file",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            describe_file(tmp_path / name)
    assert main(["info", str(ROOT / "models" / "model.calibration.json")]) == 0
    assert capsys.readouterr().out.startswith("kind: calibration\n")
