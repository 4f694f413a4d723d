"""Networks compiled by other libraries: equal to PyTorch's, exported once, and never used for other weights."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.inferers import runtimes
from icmoe_monai.inferers.runtimes import RUNTIMES, Runtime
from icmoe_monai.networks import ICMoE, ImagePyramid
from icmoe_monai.networks.pooling import SeenMaps

COMPILING = [name for name in RUNTIMES if name != "torch"]
# newer Pythons warn of a fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Small(nn.Module):
    """A network of two outputs, with a buffer that no state dict holds."""

    def __init__(self, scale: float = 2.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 2, 3, stride=2, padding=1)
        self.scale = nn.Buffer(torch.tensor(scale), persistent=False)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first(windows * self.scale).relu()
        return features, self.second(features)


@pytest.fixture
def exports(monkeypatch) -> list[tuple[int, ...]]:
    """Note the size of the windows of every export."""
    made: list[tuple[int, ...]] = []
    export = runtimes._onnx_of

    def noted(module: nn.Module, windows: Tensor) -> bytes:
        made.append(tuple(windows.shape))
        return export(module, windows)

    monkeypatch.setattr(runtimes, "_onnx_of", noted)
    return made


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    return {}


@pytest.fixture
def quick_exports(exports, graphs, monkeypatch) -> list[tuple[int, ...]]:
    """As `exports`, but what another test has exported already, a second's work, is not exported again."""
    export = runtimes._onnx_of

    def kept(module: nn.Module, windows: Tensor) -> bytes:
        key = runtimes._digest(module, windows)
        if key not in graphs:
            graphs[key] = export(module, windows)
        else:
            exports.append(tuple(windows.shape))
        return graphs[key]

    monkeypatch.setattr(runtimes, "_onnx_of", kept)
    return exports


def run(runtime: Runtime, network: nn.Module, windows: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return runtime.compiled(network.eval(), windows)


def test_outputs_are_pytorchs_for_any_number_of_windows_and_any_size(tmp_path, exports):
    network, runtime = Small(), Runtime("onnx", checkpoint=tmp_path / "best.pt")
    for shape in ((2, 3, 16, 24), (1, 3, 16, 24), (5, 3, 16, 24), (2, 3, 32, 16)):
        windows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        for ours, theirs in zip(run(runtime, network, windows), run(Runtime(), network, windows), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert exports == [(2, 3, 16, 24), (2, 3, 32, 16)]


def differences_of_openvino(folder: Path) -> None:
    """Write the largest difference of OpenVINO's outputs from PyTorch's, by amp and shape."""
    warnings.simplefilter("ignore")
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 3, stride=2)).eval()
    found = {}
    for amp in (False, True):
        runtime = Runtime("openvino", checkpoint=folder / "best.pt", amp=amp)
        for shape in ((2, 3, 16, 24), (1, 3, 16, 24), (5, 3, 16, 24), (2, 3, 32, 16)):
            windows = torch.randn(shape)
            ours, theirs = (run(each, network, windows)[0] for each in (runtime, Runtime()))
            found[f"{amp} {shape}"] = float((ours - theirs).abs().max())
    (folder / "found.json").write_text(json.dumps(found))


def test_openvinos_outputs_are_pytorchs_and_less_exact_only_with_amp(tmp_path):
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    # in a process of its own: after OpenVINO, a SIGTERM that a later test sends to its own process has crashed it
    process = get_context("fork").Process(target=differences_of_openvino, args=(tmp_path,))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == 8
    for name, difference in found.items():
        assert difference < (0.1 if name.startswith("True") else 1e-5), name
    assert len(list(tmp_path.glob("best.*.onnx"))) == 2  # one for each size of the windows


def test_a_graph_is_exported_once_for_all_runs_with_the_same_weights(tmp_path, quick_exports):
    windows = torch.zeros(1, 3, 16, 16)
    for _ in range(2):
        run(Runtime("onnx", checkpoint=tmp_path / "best.pt"), Small(), windows)
    assert len(quick_exports) == 1
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("best.")
    assert file.suffix == ".onnx"


@pytest.mark.parametrize("other", [Small(seed=1), Small(scale=3.0), nn.Sequential(Small())],
                         ids=["weights", "buffer", "structure"])  # fmt: skip
def test_a_graph_of_another_network_is_not_used(tmp_path, quick_exports, other):
    windows = torch.ones(1, 3, 16, 16)
    run(Runtime("onnx", checkpoint=tmp_path / "best.pt"), Small(), windows)
    found = run(Runtime("onnx", checkpoint=tmp_path / "best.pt"), other, windows)
    assert len(quick_exports) == 2
    torch.testing.assert_close(found[1], run(Runtime(), other, windows)[1], atol=1e-5, rtol=1e-5)


def test_the_graph_of_an_evaluation_serves_a_prediction():
    digests = set()
    for train_trunk in (False, True):  # which the two build differently, of the same weights
        torch.manual_seed(0)
        network = ICMoE(
            backbone=None, detail=ImagePyramid(), own_network={"semantic": "lite0"}, train_trunk=train_trunk
        )
        digests.add(runtimes._digest(SeenMaps(network), torch.zeros(1, 3, 32, 32)))
    assert len(digests) == 1


def test_where_nothing_can_be_written_the_graph_serves_one_run(tmp_path, quick_exports, caplog):
    (tmp_path / "file").write_text("no folder")
    runtime = Runtime("onnx", checkpoint=tmp_path / "file" / "best.pt")
    with caplog.at_level(logging.WARNING):
        run(runtime, Small(), torch.zeros(1, 3, 16, 16))
    assert "Cannot write best." in caplog.text
    assert "serves this run alone" in caplog.text
    assert len(quick_exports) == 1


def test_without_a_checkpoint_nothing_is_kept(tmp_path, quick_exports, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Runtime("onnx"), Small(), torch.zeros(1, 3, 16, 16))
    assert list(tmp_path.iterdir()) == []
    assert len(quick_exports) == 1


@pytest.mark.usefixtures("quick_exports")
def test_a_damaged_file_is_told_in_a_sentence(tmp_path):
    windows = torch.zeros(1, 3, 16, 16)
    run(Runtime("onnx", checkpoint=tmp_path / "best.pt"), Small(), windows)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"{file.name} cannot be used by runtime onnx .*: remove it"):
        run(Runtime("onnx", checkpoint=tmp_path / "best.pt"), Small(), windows)


def test_a_network_that_cannot_be_exported_is_told_in_a_sentence():
    class Odd(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return windows if float(windows.sum()) > 0 else -windows

    with pytest.raises(InputError, match=r"cannot be exported for another runtime \(\w+\): leave out --runtime"):
        run(Runtime("onnx"), Odd(), torch.zeros(1, 3, 16, 16))


def test_a_network_that_fixes_the_number_of_windows_is_refused():
    class Fixed(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return windows.reshape(len(windows), -1)

    with pytest.raises(InputError, match="cannot be exported for any number of windows: leave out --runtime"):
        run(Runtime("onnx"), Fixed(), torch.zeros(1, 3, 16, 16))


def test_threads_share_a_runtime(tmp_path, exports):
    network, runtime = Small(), Runtime("onnx", checkpoint=tmp_path / "best.pt")
    batches = [torch.full((2, 3, 16, 16), float(value)) for value in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda windows: run(runtime, network, windows)[1], batches))
    for windows, output in zip(batches, found, strict=True):
        torch.testing.assert_close(output, run(Runtime(), network, windows)[1], atol=1e-5, rtol=1e-5)
    assert len(exports) == 1


@pytest.mark.parametrize(
    ("name", "amp", "sentence"),
    [
        ("tensorrt", False, "runtime must be one of torch, onnx, openvino, int8, got 'tensorrt'"),
        ("onnx", True, "amp is bfloat16, which runtime onnx does not compute in"),
    ],
)
def test_what_cannot_work_is_refused(name, amp, sentence):
    with pytest.raises(InputError, match=sentence):
        Runtime(name, amp=amp)


@pytest.mark.parametrize("name", COMPILING)
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, runtimes._PACKAGES[name], None)
    with pytest.raises(
        InputError, match=rf"runtime {name} needs the package {runtimes._PACKAGES[name]}, .*\[runtimes\]"
    ):
        Runtime(name)


def test_another_device_is_refused():
    windows = torch.zeros(1, 3, 16, 16, device="meta")
    with pytest.raises(InputError, match="runtime onnx computes on the CPU: add --device cpu"):
        Runtime("onnx").compiled(Small(), windows)


def test_the_file_is_found_beside_the_checkpoint_from_any_folder(tmp_path, monkeypatch, quick_exports):
    (tmp_path / "model").mkdir()
    run(Runtime("onnx", checkpoint=tmp_path / "model" / "best.pt"), Small(), torch.zeros(1, 3, 16, 16))
    monkeypatch.chdir(tmp_path)
    run(Runtime("onnx", checkpoint=Path("model") / "best.pt"), Small(), torch.zeros(1, 3, 16, 16))
    assert len(quick_exports) == 1
