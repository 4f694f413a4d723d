"""Where a training may begin: not over the weights of an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from icmoe_monai.__main__ import main
from icmoe_monai.errors import InputError
from icmoe_monai.training.folder import begin_training, replace_training
from icmoe_monai.weights.tensor_files import save_checkpoint

WEIGHTS = {"weight": torch.ones(1)}
STATE = {"model": WEIGHTS, "trainer": {"iteration": 3}}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that a training has left."""
    save_checkpoint(WEIGHTS, tmp_path / "best.pt")
    save_checkpoint(STATE, tmp_path / "last.pt")
    (tmp_path / "metrics.csv").write_text("epoch\n1\n")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1").write_bytes(b"curve")
    (tmp_path / "best.calibration.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_is_fine(tmp_path):
    begin_training(output_dir=str(tmp_path / "new"))


@pytest.mark.parametrize("start", [None, "best.pt", "elsewhere.pt"])
def test_an_earlier_training_is_kept_and_how_to_go_on_is_told(folder, start, tmp_path_factory):
    checkpoint = None if start is None else folder / start
    if start == "elsewhere.pt":
        checkpoint = tmp_path_factory.mktemp("other") / "last.pt"
        save_checkpoint(STATE, checkpoint)
    before = files_of(folder)
    with pytest.raises(InputError, match=r"best\.pt, last\.pt.*--checkpoint .*last\.pt.*--overwrite True"):
        begin_training(output_dir=str(folder), checkpoint=checkpoint and str(checkpoint))
    assert files_of(folder) == before


def test_one_without_a_state_cannot_be_gone_on_with(folder):
    (folder / "last.pt").unlink()
    with pytest.raises(InputError, match=r"holds an earlier training \(best\.pt\): give another output_dir"):
        begin_training(output_dir=str(folder))


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_state_of_the_folder_goes_on(folder, overwrite, monkeypatch):
    before = files_of(folder)
    for step in (begin_training, replace_training):
        step(output_dir=str(folder), checkpoint=str(folder / "last.pt"), overwrite=overwrite)
    monkeypatch.chdir(folder)
    for step in (begin_training, replace_training):
        step(output_dir=".", checkpoint="last.pt", overwrite=overwrite)
    assert files_of(folder) == before


@pytest.mark.parametrize("start", [None, "best.pt"])
def test_what_is_replaced_is_removed_but_for_what_the_new_one_starts_from(folder, start):
    before, given = files_of(folder), {"output_dir": str(folder), "checkpoint": start and str(folder / start)}
    begin_training(**given, overwrite=True)
    replace_training(**given, overwrite=False)
    assert files_of(folder) == before
    replace_training(**given, overwrite=True)
    assert files_of(folder) == {"notes.txt"} | ({start} if start else set())


def test_a_mistaken_command_costs_no_weights(folder, capsys):
    before = files_of(folder)
    assert main(["train", str(folder / "no_set"), str(folder), "--overwrite", "True", "--device", "cpu"]) == 1
    assert "no_set does not exist" in capsys.readouterr().err
    assert files_of(folder) >= before
