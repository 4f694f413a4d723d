"""Networks in 8 bits: near PyTorch's, made with example windows, and found beside their checkpoint alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.runtimes import Runtime


class Small(nn.Module):
    """A network of two outputs of values between about -1 and 1."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first(windows).relu()
        return features, torch.tanh(self.second(features))


def windows_of(seed: int, number: int = 2) -> Tensor:
    return torch.randn((number, 3, 16, 24), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Small, Path]:
    """A network, and its graph of 8 bits, beside its checkpoint best.pt."""
    network = Small().eval()
    folder = tmp_path_factory.mktemp("made")
    with torch.no_grad():
        path = Runtime("onnx", checkpoint=folder / "best.pt").write_int8(network, [windows_of(n) for n in range(4)])
    return network, path


def test_outputs_are_near_pytorchs_for_any_number_of_windows(made):
    network, path = made
    runtime = Runtime("int8", checkpoint=path.with_name("best.pt"))
    for number in (1, 2, 5):
        windows = windows_of(9, number)
        with torch.no_grad():
            pairs = list(zip(runtime.compiled(network, windows), network(windows), strict=True))
        for ours, theirs in pairs:
            spread = float(theirs.max() - theirs.min())
            assert float((ours - theirs).abs().mean()) < 0.02 * spread  # steps of 1/255 and 1/127, added up
            assert not torch.equal(ours, theirs)


def test_the_graph_computes_in_8_bits(made):
    onnx = pytest.importorskip("onnx")
    _, path = made
    kept = onnx.load(path).graph.initializer
    of_layers = [tensor for tensor in kept if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in of_layers} == {onnx.TensorProto.INT8}
    for tensor in of_layers:  # 7 bits, lest sums overflow where a CPU adds them in 16
        assert onnx.numpy_helper.to_array(tensor).min() >= -64
        assert onnx.numpy_helper.to_array(tensor).max() <= 64


def test_of_other_weights_or_windows_there_is_none(made):
    network, path = made
    runtime = Runtime("int8", checkpoint=path.with_name("best.pt"))
    for other, windows in ((Small(seed=1).eval(), windows_of(0)), (network, torch.zeros(1, 3, 16, 16))):
        with pytest.raises(InputError, match=r"no graph of 8 bits .* for windows of \d\d x 16 pixels .*icmoe quantize"):
            runtime.compiled(other, windows)


def test_it_may_be_written_elsewhere_for_a_trial(made, tmp_path):
    network, path = made
    with torch.no_grad():
        tried = Runtime("onnx", checkpoint=path.with_name("best.pt")).write_int8(
            network, [windows_of(0)], folder=tmp_path
        )
    assert tried == tmp_path / path.name
    assert list(tmp_path.iterdir()) == [tried]


def test_it_needs_a_checkpoint_to_lie_beside(made):
    with pytest.raises(InputError, match="kept beside a checkpoint: name one"):
        Runtime("onnx").write_int8(made[0], [windows_of(0)])


def test_windows_are_shown_before_they_are_run(made):
    network, path = made
    runtime = Runtime("int8", checkpoint=path.with_name("best.pt"))
    shown = []
    runtime.watch = lambda module, windows: shown.append((module, windows))
    runtime.compiled(network, windows_of(3))
    assert shown[0][0] is network
    assert torch.equal(shown[0][1], windows_of(3))
