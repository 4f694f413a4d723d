"""Run a network's windows in another library than PyTorch: onnxruntime or OpenVINO, which are faster on a CPU.

Runtime int8 is onnxruntime in numbers of 8 bits, of a graph that was made beforehand, with images to measure ranges.

A network is exported to ONNX once for each size of its windows. The file is kept beside the checkpoint, under a name
that holds the digest of everything that the graph depends on, so that it is found again, and never used for others.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.inferers.int8 import in_8_bits
from icmoe_monai.networks.baselines import as_mixture
from icmoe_monai.networks.blueprint import blueprint_of
from icmoe_monai.networks.pooling import SeenMaps
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.version import __version__

INT8 = "int8"
RUNTIMES = ("torch", "onnx", "openvino", INT8)
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", INT8: "onnxruntime"}
_OF_TRAINING = ("train_trunk",)  # what a network is built with and no graph depends on
_Graph = Callable[[Tensor], list[Tensor]]
Seen: TypeAlias = "Callable[[Tensor], tuple[Any, Tensor | None]]"
_logger = logging.getLogger(__name__)


class Runtime:
    """Compile networks for a library, each at its first windows, and run them there.

    May be used by several threads.

    Attributes:
        watch: Called with a module and its windows before they are run; None: nothing is.

    Args:
        name: One of `RUNTIMES`; with "torch" a network runs as it is.
        checkpoint: File of the network's weights, beside which the exported graphs are kept; None, or a folder where
            nothing can be written, keeps none.
        amp: Compute in bfloat16, which OpenVINO can and onnxruntime cannot.

    Raises:
        InputError: If there is no such runtime, its package is missing, or it cannot do what is asked.

    Example:
        >>> Runtime("torch").compiled(nn.Identity(), torch.zeros(1, 3, 32, 32))[0].shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, name: str = "torch", *, checkpoint: str | Path | None = None, amp: bool = False) -> None:
        if name not in RUNTIMES:
            raise InputError(f"runtime must be one of {', '.join(RUNTIMES)}, got {name!r}.")
        if name in ("onnx", INT8) and amp:
            raise InputError(f"amp is bfloat16, which runtime {name} does not compute in: leave out one of them.")
        for package in (_PACKAGES[name], "onnxscript") if name != "torch" else ():
            _import(package, name)
        self.name = name
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.amp = amp
        self.watch: Callable[[nn.Module, Tensor], None] | None = None
        self._graphs: dict[tuple[nn.Module, torch.Size], _Graph] = {}
        self._seen: dict[int, SeenMaps] = {}  # by the network's identity, which it keeps alive
        self._lock = threading.Lock()

    def seen(self, network: nn.Module, packs: Mapping[str, nn.Module] | None = None) -> Seen | None:
        """Return a function from windows (B, 3, H, W) to a network's maps and the grid to pool, or None for "torch".

        Args:
            network: As of `SeenMaps`, in eval mode, or a plain one, which is taken for one expert.
            packs: As of `SeenMaps`.
        """
        if self.name == "torch":
            return None
        with self._lock:
            if id(network) not in self._seen:
                self._seen[id(network)] = SeenMaps(as_mixture(network), packs).eval()
            module = self._seen[id(network)]
        return lambda windows: module.told(self.compiled(module, windows))

    def compiled(self, module: nn.Module, windows: Tensor) -> tuple[Tensor, ...]:
        """Return a module's outputs for windows.

        Args:
            module: Maps a float32 tensor (B, 3, H, W) to a tensor or a tuple of tensors, for any B; in eval mode, with
                the weights that it keeps.
            windows: (B, 3, H, W), on the CPU unless the runtime is "torch".

        Raises:
            InputError: If the windows are on another device, or the module cannot be exported.
        """
        if self.name == "torch":
            return _tuple(module(windows))
        if windows.device.type != "cpu":
            raise InputError(f"runtime {self.name} computes on the CPU: add --device cpu, or leave out --runtime.")
        if self.watch is not None:
            self.watch(module, windows)
        key = (module, windows.shape[1:])
        with self._lock:
            if key not in self._graphs:
                self._graphs[key] = self._open(module, windows)
        return tuple(self._graphs[key](windows.float().contiguous()))

    def write_int8(self, module: nn.Module, windows: Sequence[Tensor], *, folder: Path | None = None) -> Path:
        """Write a module's graph in 8 bits beside the checkpoint, where runtime int8 finds it; return its path.

        Args:
            module: As of `compiled`.
            windows: Windows of one size, (B, 3, H, W) each, whose ranges are taken for those of all.
            folder: Another folder to write it to; None: the checkpoint's.

        Raises:
            InputError: If there is no checkpoint, its folder cannot be written, or the module cannot be exported.
        """
        path = self._place(module, windows[0], bits=8)
        if path is None:
            raise InputError("A graph of 8 bits is kept beside a checkpoint: name one.")
        quantization = _import("onnxruntime.quantization", INT8)
        path = path if folder is None else folder / path.name
        content = in_8_bits(self._content(module, windows[0]), [each.float().cpu() for each in windows], quantization)
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
        return path

    def _content(self, module: nn.Module, windows: Tensor) -> bytes:
        """Return a module's graph of 32 bits, which is made where it is not there."""
        path = self._place(module, windows)
        return path.read_bytes() if path and path.is_file() else self._export(module, windows, path)

    def _open(self, module: nn.Module, windows: Tensor) -> _Graph:
        path = self._place(module, windows, bits=8 if self.name == INT8 else 32)
        if self.name != INT8:
            content = self._content(module, windows)
        elif path and path.is_file():
            content = path.read_bytes()
        else:
            raise InputError(
                f"There is no graph of 8 bits of this network for windows of {windows.shape[-1]} x {windows.shape[-2]} "
                f"pixels beside {self.checkpoint}: make it, icmoe quantize DATA --checkpoint FILE, or give another "
                "--runtime."
            )
        opened = _open_openvino if self.name == "openvino" else _open_onnxruntime
        try:
            return opened(content, self.amp)
        except Exception as error:  # of the library's own kinds
            again = "make it again, icmoe quantize" if self.name == INT8 else "remove it, so that it is made again"
            raise InputError(
                f"{path or 'The exported network'} cannot be used by runtime {self.name} ({kind_of(error)}): {again}."
            ) from error

    def _place(self, module: nn.Module, windows: Tensor, *, bits: int = 32) -> Path | None:
        """Return the file of a module's graph, or None where none is kept."""
        if self.checkpoint is None:
            return None
        suffix = ".int8.onnx" if bits == 8 else ".onnx"
        return self.checkpoint.with_name(f"{self.checkpoint.stem}.{_digest(module, windows)[:16]}{suffix}")

    def _export(self, module: nn.Module, windows: Tensor, path: Path | None) -> bytes:
        """Export a module, and keep the graph if there is a place that can be written."""
        _logger.info("Exporting the network for runtime %s, once for these weights; this takes a moment.", self.name)
        content = _onnx_of(module, windows)
        if path is not None:
            try:
                write_atomically(path, lambda temporary: temporary.write_bytes(content))
            except InputError as error:
                _logger.warning("%s The exported network serves this run alone.", error)
        return content


def _digest(module: nn.Module, windows: Tensor) -> str:
    """Return the SHA-256 of what a graph depends on: weights, structure, size of the windows, versions."""
    digest = hashlib.sha256(f"{__version__} {torch.__version__} {tuple(windows.shape[1:])}".encode())
    for name, part in module.named_modules():
        built = _without(blueprint_of(part), _OF_TRAINING)
        digest.update(f"{name} {json.dumps(built, sort_keys=True, default=str)}".encode())
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without(value: Any, names: Collection[str]) -> Any:
    """Return plain values without some keys of the dictionaries among them."""
    if isinstance(value, Mapping):
        return {key: _without(each, names) for key, each in value.items() if key not in names}
    return [_without(each, names) for each in value] if isinstance(value, (list, tuple)) else value


def _onnx_of(module: nn.Module, windows: Tensor) -> bytes:
    """Return a module as an ONNX graph for any number of windows of one size.

    Raises:
        InputError: If PyTorch cannot export it.
    """
    onnx = _import("onnx", "onnx")
    example = torch.zeros(2, *windows.shape[1:])  # of one window, the exporter would take their number for a constant
    with tempfile.TemporaryDirectory() as folder, _quiet(), torch.no_grad():
        path = Path(folder, "graph.onnx")
        try:
            torch.onnx.export(
                module,
                (example,),
                path,
                input_names=["windows"],
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter's own kinds, of several packages
            raise InputError(
                f"The network cannot be exported for another runtime ({kind_of(error)}): leave out --runtime."
            ) from error
        content = path.read_bytes()
    (windows_in,) = onnx.load_from_string(content).graph.input
    if not windows_in.type.tensor_type.shape.dim[0].dim_param:
        raise InputError("The network cannot be exported for any number of windows: leave out --runtime.")
    return content


def _open_onnxruntime(content: bytes, amp: bool) -> _Graph:
    onnxruntime = _import("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(windows: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {"windows": windows.numpy()})]

    return run


def _open_openvino(content: bytes, amp: bool) -> _Graph:
    openvino = _import("openvino", "openvino")
    properties = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if amp else "f32",  # it would choose bfloat16 by itself where a CPU has it
    }
    core = openvino.Core()
    model = core.compile_model(core.read_model(content), "CPU", properties)
    own = threading.local()  # a request serves one thread at a time

    def run(windows: Tensor) -> list[Tensor]:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        found = own.request.infer([windows.numpy()])
        return [torch.from_numpy(found[output].copy()) for output in model.outputs]

    return run


def _import(package: str, runtime: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(
            f"runtime {runtime} needs the package {package}, which is not installed: pip install "
            "'icmoe-monai[runtimes]', or leave out --runtime."
        ) from error


def _tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns of PyTorch's own parts and of packages that are not needed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
