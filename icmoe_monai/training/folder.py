"""Beginning of a training in its folder: an earlier training there is gone on with, kept, or replaced on request."""

from __future__ import annotations

from pathlib import Path

from icmoe_monai.errors import InputError
from icmoe_monai.utils.distributed import by_first
from icmoe_monai.weights.checkpoint import TRAINER
from icmoe_monai.weights.tensor_files import read_checkpoint

BEST, LAST = "best.pt", "last.pt"
_RESULTS = (BEST, LAST, "best.calibration.json", "metrics.csv", "tensorboard/events.out.tfevents.*")


@by_first
def begin_training(*, output_dir: str, checkpoint: str | None = None, overwrite: bool = False) -> None:
    """Refuse to replace the weights of an earlier training, unless that is asked for; nothing is removed yet.

    With several processes, the first one looks and all take its result.

    Args:
        output_dir: Folder of the training.
        checkpoint: File that it starts from. The state of a training in this folder goes on with that training.
        overwrite: Whether the results of an earlier training are to be replaced.

    Raises:
        InputError: If there are such weights, and they are neither gone on with nor to be replaced; or the checkpoint
            cannot be read.
    """
    folder = Path(output_dir)
    if overwrite or _goes_on(folder, checkpoint):
        return
    found = [name for name in (BEST, LAST) if (folder / name).is_file()]
    if found:
        going_on = f"go on with it, --checkpoint {folder / LAST}, " if LAST in found else ""
        raise InputError(
            f"{folder} holds an earlier training ({', '.join(found)}): {going_on}give another output_dir, or replace "
            "it, --overwrite True."
        )


@by_first
def replace_training(*, output_dir: str, checkpoint: str | None = None, overwrite: bool = False) -> None:
    """Remove the results of an earlier training, if that is asked for: the step before the first that writes.

    By then all that a training needs is there, so that a mistaken command costs no weights.

    Args:
        output_dir: As of `begin_training`.
        checkpoint: As of `begin_training`; this file stays.
        overwrite: As of `begin_training`.

    Raises:
        InputError: If the checkpoint cannot be read.
    """
    folder = Path(output_dir)
    if not overwrite or _goes_on(folder, checkpoint):
        return
    for path in [path for pattern in _RESULTS for path in folder.glob(pattern)]:
        if checkpoint is None or path.resolve() != Path(checkpoint).resolve():
            path.unlink()


def _goes_on(folder: Path, checkpoint: str | None) -> bool:
    """Return whether a checkpoint is the state of a training in a folder."""
    if checkpoint is None or Path(checkpoint).parent.resolve() != folder.resolve():
        return False
    return TRAINER in read_checkpoint(checkpoint, mapped=True)
