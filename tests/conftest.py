from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator

import pytest
import torch

# The tensors of these tests are too small to share between threads, which wait for each other on a busy machine; and a
# process that a test forks (helpers/processes.py) may hang where threads of its parent were in use.
torch.set_num_threads(1)
# Without a GPU, `torch.manual_seed` keeps its callers' stack for one at every call.
_SEED = torch.manual_seed if torch.version.cuda or torch.version.hip else torch.default_generator.manual_seed


def pytest_collection_finish() -> None:
    """Keep all that the tests have imported out of later searches for garbage, which would read it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a command to which MLflow and transformers are not installed.

    The package needs neither, and MONAI takes seconds to import them wherever it finds them.
    """
    folder = tmp_path_factory.mktemp("absent")
    for name in ("mlflow", "transformers"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r})\n")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random state, alone or among others."""
    _SEED(0)


@pytest.fixture(autouse=True)
def _no_handler_left() -> Iterator[None]:
    """Take away the log handlers that a command has set up, which write to a stream that pytest closes after a test."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)
