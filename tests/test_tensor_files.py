import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.tensor_files import read_checkpoint, save_checkpoint


class _Code:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path):
    content = {"model": nn.Linear(2, 3).state_dict(), "best": {"best": 0.5}}
    save_checkpoint(content, tmp_path / "new folder" / "last.pt")
    found = read_checkpoint(tmp_path / "new folder" / "last.pt")
    assert torch.equal(found["model"]["weight"], content["model"]["weight"])
    assert found["best"] == {"best": 0.5}


def test_safetensors_are_read(tmp_path):
    state = {"weight": torch.randn(2, 3)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors")["weight"], state["weight"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pt", b""),
        ("page.pth", b"<!DOCTYPE html><title>404</title>"),
        ("code.pt", pickle.dumps(_Code())),
        ("empty.safetensors", b""),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(name, content, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} cannot be read as a checkpoint .*truncated, or not weights"):
        read_checkpoint(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_a_truncated_checkpoint_is_named(tmp_path):
    torch.save({"weight": torch.randn(1000)}, tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"half\.pt cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "half.pt")


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"list\.pt holds a list, not a dict of weights"):
        read_checkpoint(tmp_path / "list.pt")
