import copy
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from icmoe_monai.errors import InputError
from icmoe_monai.weights import tensor_files
from icmoe_monai.weights.tensor_files import read_checkpoint, read_metadata, save_checkpoint, save_tensors


class _Code:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


def _saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "hello")
    return file.getvalue()


STATE = {"weight": torch.arange(1000.0)}
ZIP, LEGACY = _saved(STATE), _saved(STATE, _use_new_zipfile_serialization=False)
SAFETENSORS = safetensors.torch.save(STATE, metadata={"format": "pt"})
# the length of its header, 60, is an angle bracket
LIKE_A_PAGE = b"<".ljust(8, b"\0") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(60)
CHANGED = ZIP.replace(np.float32(500).tobytes(), np.float32(-7).tobytes())
BROKEN = [
    ("changed.pt", CHANGED, r"the bytes of \S+/data/0 are not those that were written\): fetch it again"),
    ("empty.pt", b"", r"it is empty\): fetch it again"),
    ("empty.safetensors", b"", r"it is empty\): fetch it again"),
    ("page.pth", b"<!DOCTYPE html><title>404</title>", r"it is a web page, not weights\): the download went wrong"),
    ("page.safetensors", b"\xef\xbb\xbf\n  <html>{", r"it is a web page, not weights\): the download went wrong"),
    ("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", r"Git LFS.*run `git lfs pull`"),
    ("half.pth", ZIP[:2000], r"it is only the beginning of one, 2000 bytes\): the download or copy was cut off"),
    ("most.pth", ZIP[:-10], r"it is only the beginning of one, \d+ bytes\): the download or copy was cut off"),
    ("header.pth", LEGACY[:100], r"it is only the beginning of one, 100 bytes\)"),
    ("half.bin", LEGACY[:2000], r"it is only the beginning of one, 2000 bytes\)"),
    ("header.safetensors", SAFETENSORS[:30], r"it is only the beginning of one, 30 bytes\)"),
    ("half.safetensors", SAFETENSORS[:2000], r"it is only the beginning of one, 2000 bytes\)"),
    ("angle.safetensors", LIKE_A_PAGE, r"it is only the beginning of one, 68 bytes\)"),
    ("bad.safetensors", SAFETENSORS.replace(b"F32", b"F99"), r"SafetensorError\): truncated, or not weights"),
    ("code.pt", pickle.dumps(_Code(), protocol=2), r"it holds code, \S*print, which is never run\): save its"),
    ("other.pkl", pickle.dumps(_Code(), protocol=4), r"UnpicklingError\): truncated, or not weights"),
    ("code.pth", _saved({"a": _Code()}), r"it holds code, \S*print, which is never run\): save its weights alone"),
    ("numpy.pth", _saved({"a": np.float64(1)}), r"it holds code, numpy\.\S+\.scalar, which is never run\)"),
    ("text.pth", b'{"message": "Not Found"}', r"UnpicklingError\): truncated, or not weights"),
    ("letter.pth", b"N", r"EOFError\): truncated, or not weights"),
    ("tale.pth", b"Now, it was a dark night", r"\): truncated, or not weights"),
    ("other.pth", _zip("readme.txt"), r"RuntimeError\): truncated, or not weights"),
]


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path):
    content = {"model": nn.Linear(2, 3).state_dict(), "best": {"best": 0.5}}
    save_checkpoint(content, tmp_path / "new folder" / "last.pt")
    found = read_checkpoint(tmp_path / "new folder" / "last.pt")
    assert torch.equal(found["model"]["weight"], content["model"]["weight"])
    assert found["best"] == {"best": 0.5}


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("content", [ZIP, LEGACY, SAFETENSORS], ids=["zip", "legacy", "safetensors"])
def test_a_checkpoint_is_read_by_its_content(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert torch.equal(read_checkpoint(tmp_path / name)["weight"], STATE["weight"])


@pytest.mark.parametrize("content", [ZIP, SAFETENSORS], ids=["zip", "safetensors"])
def test_what_is_done_to_mapped_weights_stays_out_of_the_file(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    read_checkpoint(tmp_path / "a.pt", mapped=True)["weight"].zero_()
    assert (tmp_path / "a.pt").read_bytes() == content


@pytest.mark.parametrize("content", [ZIP, LEGACY], ids=["zip", "legacy"])
def test_what_is_done_to_the_file_stays_out_of_weights_that_are_kept(content, tmp_path):
    """An optimizer keeps what it loads, for the whole of a resumed training."""
    (tmp_path / "last.pt").write_bytes(content)
    kept = read_checkpoint(tmp_path / "last.pt")["weight"]
    with (tmp_path / "last.pt").open("r+b") as file:
        file.write(bytes(len(content)))
    assert torch.equal(kept, STATE["weight"])


def repacked(*further: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a checkpoint whose parts are packed again, some of them replaced or added."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ZIP)) as before, zipfile.ZipFile(file, "w", compression) as after:
        parts = {name: before.read(name) for name in before.namelist()}
        for name, data in (parts | dict(further)).items():
            after.writestr(name, data)
    return file.getvalue()


def overlapping() -> bytes:
    """Return an archive of many entries that all stand for the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data/0", bytes(1 << 16))
        first = archive.getinfo("archive/data/0")
        for number in range(1, 100):
            again = copy.copy(first)
            again.filename = f"archive/data/{number}"
            archive.filelist.append(again)
    return file.getvalue()


BOMBS = {
    "a large part": repacked(("archive/version", bytes(1 << 26))),
    "an unknown part": repacked(("archive/other", bytes(1 << 26))),
    "bzip2": repacked(("archive/version", bytes(1 << 26)), compression=zipfile.ZIP_BZIP2),
    "small but packed": repacked(),
    "many entries of one part": overlapping(),
    "a stride of 0": _saved({"weight": torch.zeros(1).expand(1 << 20, 1 << 20)}),
    "a stride of 0 deep inside": _saved({"model": [{"a": (torch.zeros(1).expand(1 << 40),)}]}),
    "a stride of 0 in the old format": _saved(
        {"a": torch.zeros(1).expand(1 << 40)}, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "read"])
def test_a_file_never_becomes_larger_than_it_is(content, mapped, tmp_path, monkeypatch):
    (tmp_path / "bomb.pt").write_bytes(content)
    assert len(content) < 1 << 20
    if content[:2] == b"PK" and not is_stored(tmp_path / "bomb.pt"):
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch unpacks it"))
    with pytest.raises(InputError, match=r"bomb\.pt cannot be read as a checkpoint \(.*\): save the weights again by"):
        read_checkpoint(tmp_path / "bomb.pt", mapped=mapped)


def is_stored(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    honest = sum(part.file_size for part in parts) <= path.stat().st_size
    return honest and all(part.compress_type == zipfile.ZIP_STORED for part in parts)


def test_weights_that_share_their_memory_are_no_bomb(tmp_path):
    weight = torch.arange(1000.0)
    shared = {f"layer{number}": weight for number in range(50)} | {"view": weight.view(10, 100).t()}
    save_checkpoint(shared, tmp_path / "tied.pt")
    assert (tmp_path / "tied.pt").stat().st_size < sum(value.nbytes for value in shared.values())
    assert torch.equal(read_checkpoint(tmp_path / "tied.pt")["layer49"], weight)


@pytest.mark.parametrize(("name", "content", "sentence"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_file_that_is_no_checkpoint_is_told_by_what_it_is(name, content, sentence, tmp_path, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} cannot be read as a checkpoint \(.*{sentence}") as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to run the code
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_without_checksums_is_read(tmp_path):
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        (tmp_path / "a.pt").write_bytes(_saved(STATE))
    finally:
        torch.serialization.set_crc32_options(computes)
    assert torch.equal(read_checkpoint(tmp_path / "a.pt")["weight"], STATE["weight"])


# torch calls its own TorchScript deprecated; here it only has to make a file
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_no_checkpoint(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.ts")
    with pytest.raises(InputError, match=r"model\.ts cannot be .* \(it is a TorchScript program, which is never run\)"):
        read_checkpoint(tmp_path / "model.ts")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pt").write_bytes(ZIP)
    monkeypatch.setattr(Path, "open", refuse)  # the tests may be run by root, who may read all
    with pytest.raises(InputError, match=r"a\.pt cannot be read as a checkpoint \(it may not be read\): change its"):
        read_checkpoint(tmp_path / "a.pt")


def test_no_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no checkpoint at .*nowhere\.pt: train first, or name the file"):
        read_checkpoint(tmp_path / "nowhere.pt")


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"list\.pt holds a list, not a dict of weights"):
        read_checkpoint(tmp_path / "list.pt")


def test_tensors_come_back_with_what_is_said_of_them(tmp_path):
    tensors = {"a": nn.Parameter(torch.randn(2, 3)), "b": torch.randn(3, 4).t().bfloat16()}
    path = tmp_path / "new folder" / "a.safetensors"
    save_tensors(tensors, path, metadata={"origin": "here"})
    found = read_checkpoint(path)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert read_metadata(path) == {"format": "pt", "origin": "here"}
    assert os.listdir(path.parent) == ["a.safetensors"]
    save_checkpoint(tensors, tmp_path / "a.pt")
    assert path.stat().st_mode == (tmp_path / "a.pt").stat().st_mode  # for all that may read what torch writes


def test_other_files_say_nothing_of_themselves(tmp_path):
    (tmp_path / "a.pt").write_bytes(ZIP)
    (tmp_path / "a.safetensors").write_bytes(safetensors.torch.save(STATE))
    assert read_metadata(tmp_path / "a.pt") == read_metadata(tmp_path / "a.safetensors") == {}


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(_tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensor_files.safetensors.torch, "save_file", fail)
    with pytest.raises(InputError, match=r"Cannot write a\.safetensors in .*: No space left on device. Free some"):
        save_tensors(STATE, tmp_path / "a.safetensors", metadata={})
    assert not os.listdir(tmp_path)
