"""Command `icmoe listen`: a DICOM node that segments the studies it is sent, and sends the results back.

What is done with a study is the workflow of `icmoe predict`, into a folder of the study's own; only the model stays
loaded between studies.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from icmoe_monai.commands.workflow import build_workflow, find_config, names_of_packs, pack_file
from icmoe_monai.errors import FailedCasesError, InputError, find_input_error
from icmoe_monai.inference.journal import VOLUME
from icmoe_monai.inference.volumes import with_codes
from icmoe_monai.utils.locks import hold_folder
from icmoe_monai.utils.logs import silenced
from icmoe_monai.weights.frozen import describe_model

# settings that a node decides by itself: a folder for each study, whole results, and no processes beside its threads
_OURS = ("dataset_dir", "output_dir", "demo_dir", "overwrite", "anonymous", "num_workers")
_SHARED = ("trained", "network", "inferer", "calibrated")
_LOADED = ("load_frozen", "load_trained")
_LIBRARIES = ("pydicom", "pynetdicom", "highdicom")  # they log what files and senders say


def listen(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Run a DICOM node until a signal ends it, or open its failed studies again.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings of the inference to override, by name.

    Raises:
        InputError: If the config, the model or a port cannot be used, or another node has the folder.
    """
    try:
        from icmoe_monai.pacs.node.config import read_node_config
        from icmoe_monai.pacs.node.node import Node
        from icmoe_monai.pacs.node.queue import QUEUE, Queue
    except ModuleNotFoundError as error:
        raise InputError(f"icmoe listen needs {error.name}: pip install 'icmoe-monai[pacs]'.") from None
    output = Path(os.path.abspath(given.output))
    if given.retry:
        if not (output / QUEUE).is_file():
            raise InputError(f"{output} is no folder of a node: correct the path.")
        queue = Queue(output)
        sys.stdout.write(f"{queue.retry()} failed studies are open again.\n")
        queue.close()
        return
    config = read_node_config(_config_of(given), _settings_of(given))
    taken = [name for name in _OURS if name in further]
    if taken:
        raise InputError(f"--{taken[0]} is decided by icmoe listen: leave it out.")
    overrides = {**further, **({"device": given.device} if given.device else {})}
    if config.checkpoint:
        overrides["checkpoint"] = config.checkpoint
    files = [*_pack_of(root, config.experts), *(find_config(root, name) for name in config.configs)]
    with _silence():
        held = hold_folder(str(output), task="node")
        queue = Queue(output, most_tries=config.most_tries)
        segment = StudySegmenter(root, files, overrides)
        segment.load(output)
        node = Node(config, output, queue, segment)
        segment.is_stopped = lambda: node.is_stopped
        with _ended_by_signals(node.stop):
            node.run()
        queue.close()
        held.clear()


class StudySegmenter:
    """Segment studies one after another by the workflow of `icmoe predict`, with a model that stays loaded.

    Args:
        root: Folder of the bundle.
        configs: Configs that are laid over that of the inference.
        overrides: Settings to override, by name.

    Attributes:
        is_stopped: Asked after each case; then the study is left as it is, for another time.
    """

    def __init__(self, root: Path, configs: Sequence[Path], overrides: Mapping[str, Any]) -> None:
        self.is_stopped: Callable[[], bool] = lambda: False
        self._root = root
        self._files = [root / "configs" / "inference.json", *configs]
        self._overrides = {**overrides, "num_workers": 0}
        self._shared: dict[str, Any] = {}
        self._model: dict[str, Any] = {}

    def load(self, output: Path) -> None:
        """Load the model, and check the settings before the first study comes.

        Args:
            output: Folder of the node.

        Raises:
            InputError: If the model or a setting cannot be used.
        """
        part = self._build({"output_dir": str(output)}).parser.get_parsed_content
        part("checks")
        with_codes(part("segments"))
        for name, is_so in (("dicom_seg none", part("dicom_seg") == "none"), ("anonymous", part("anonymity"))):
            if is_so:
                raise InputError(f"{name} leaves nothing to send: leave it out.")
        part("network").eval()
        for name in _LOADED:
            part(name)(None)
        self._shared = {name: part(name) for name in _SHARED} | dict.fromkeys(_LOADED, _Loaded())
        self._model = _model_of(part)

    def __call__(self, images: Path, output: Path) -> Any:
        """Segment a study, or what is missing of it.

        Args:
            images: Folder of its images.
            output: Folder of its results.

        Returns:
            The results, as `pacs.node.node.Predicted` tells them.

        Raises:
            NotPredictedError: If there are no results, with the reason.
            StoppedError: If `is_stopped` said so.
        """
        from icmoe_monai.pacs.node.node import NotPredictedError, Predicted, StoppedError

        try:
            flow = self._prepare({"dataset_dir": str(images), "output_dir": str(output)})
            part = flow.parser.get_parsed_content
            part("evaluator").add_event_handler(Events.ITERATION_COMPLETED, self._end_if_stopped)
            has_failed = _run(flow)
        except Exception as error:
            cause = find_input_error(error)
            if cause is None and not isinstance(error, (MemoryError, OSError)):
                raise
            raise _told(cause or error) from None
        if part("evaluator").should_terminate:
            raise StoppedError
        journal = part("journal")
        if has_failed and not any(map(journal.is_done, part("datalist"))):
            raise NotPredictedError("unreadable", again=False)
        volumes = journal.records(VOLUME).values()
        files = {file["uid"]: file["file"] for volume in volumes for file in volume["files"]}
        return Predicted(files, "some_unreadable" if has_failed else "")

    def _prepare(self, folders: Mapping[str, str]) -> ConfigWorkflow:
        """Build the workflow of a study; it goes on with its results, unless these are of another model."""
        flow = self._build(folders)
        part = flow.parser.get_parsed_content
        if _model_of(part) != self._model:  # a file of the weights was replaced while the node runs
            self._shared = {}
            self.load(Path(folders["output_dir"]).parent)
            return self._prepare(folders)
        part("datalist")
        try:
            part("missing")
        except Exception as error:  # results of another model or version, or a damaged journal
            if find_input_error(error) is None:
                raise
            flow = self._build({**folders, "overwrite": True})
        return flow

    def _build(self, settings: Mapping[str, Any]) -> ConfigWorkflow:
        overrides = {**self._overrides, **settings, **self._shared}
        return build_workflow(self._root, self._files, overrides, workflow_type="infer")

    def _end_if_stopped(self, engine: Engine) -> None:
        if self.is_stopped():
            engine.terminate()


class _Loaded:
    """Take the place of a handler that loads weights, where they are loaded."""

    def attach(self, engine: Engine) -> None:
        """Do nothing."""


def _run(flow: ConfigWorkflow) -> bool:
    """Run a workflow, and return whether cases have failed, while the others are done."""
    try:
        flow.run()
    except Exception as error:
        if not isinstance(find_input_error(error), FailedCasesError):
            raise
        return True
    finally:
        flow.finalize()
    return False


def _model_of(part: Callable[[str], Any]) -> dict[str, Any]:
    return describe_model(part("checkpoint"), part("pretrained"), part("pyramid"))


def _told(error: BaseException) -> Exception:
    """Return an error as a node takes it: with a reason, in a word, and whether another try may end otherwise."""
    from icmoe_monai.pacs.node.node import NotPredictedError

    if isinstance(error, MemoryError):
        return NotPredictedError("memory", again=True)
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError):
        is_full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        return NotPredictedError("disk_full" if is_full else "disk", again=True)
    return NotPredictedError("refused", again=False)


def _config_of(given: argparse.Namespace) -> str:
    if len(given.config) != 1:
        raise InputError("icmoe listen takes one config, that of the node: --config node.yaml; docs/pacs.md shows one.")
    return str(given.config[0])


def _settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the node that the command line gives."""
    found = {name: getattr(given, name) for name in ("ae", "port", "experts") if getattr(given, name) is not None}
    if given.checkpoint:
        found["checkpoint"] = os.path.abspath(given.checkpoint)
    if given.to:
        found["to"] = [name.strip() for name in given.to.split(",")]
    return found


def _pack_of(root: Path, name: str | None) -> list[Path]:
    known = names_of_packs(root)
    if name is not None and name not in known:
        raise InputError(f"experts are one of {', '.join(known)}, got {name!r}: a node has one pack.")
    return [] if name is None else [pack_file(root, name)]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what files and senders say out of the log and off the screen in a `with` block."""
    with silenced(*_LIBRARIES), warnings.catch_warnings():
        for name in _LIBRARIES:
            warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        yield


@contextmanager
def _ended_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Make the first SIGTERM or Ctrl-C of a `with` block end it in good order, and the second at once."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def ended(number: int, frame: FrameType | None) -> None:
        stop()
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, ended)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
