"""Beginning of a training in its folder: an earlier training there is gone on with, kept, or replaced on request."""

from __future__ import annotations

from pathlib import Path

from icmoe_monai.errors import InputError
from icmoe_monai.utils.distributed import by_first
from icmoe_monai.weights.checkpoint import TRAINER
from icmoe_monai.weights.tensor_files import read_checkpoint

BEST, LAST = "best.pt", "last.pt"
_RESULTS = (BEST, LAST, "metrics.csv", "tensorboard/events.out.tfevents.*")


@by_first
def begin_training(*, output_dir: str, checkpoint: str | None = None, overwrite: bool = False) -> None:
    """Refuse to replace the weights of an earlier training, unless that is asked for.

    With several processes, the first one looks and all take its result.

    Args:
        output_dir: Folder of the training.
        checkpoint: File that it starts from. The state of a training in this folder goes on with that training.
        overwrite: Remove the results of an earlier training, but for the checkpoint itself.

    Raises:
        InputError: If there are such weights, and they are neither gone on with nor to be replaced; or the checkpoint
            cannot be read.
    """
    folder = Path(output_dir)
    start = None if checkpoint is None else Path(checkpoint)
    if (
        start is not None
        and start.parent.resolve() == folder.resolve()
        and TRAINER in read_checkpoint(start, mapped=True)
    ):
        return
    found = [name for name in (BEST, LAST) if (folder / name).is_file()]
    if found and not overwrite:
        going_on = f"go on with it, --checkpoint {folder / LAST}, " if LAST in found else ""
        raise InputError(
            f"{folder} holds an earlier training ({', '.join(found)}): {going_on}give another output_dir, or replace "
            "it, --overwrite True."
        )
    for path in [path for pattern in _RESULTS for path in folder.glob(pattern)]:
        if overwrite and (start is None or path.resolve() != start.resolve()):
            path.unlink()
