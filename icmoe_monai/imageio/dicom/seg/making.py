"""What the writers of all objects share: what is taken over, who made it, and refusals without the source's values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.guard import silence
from icmoe_monai.imageio.dicom.seg.modules import settle
from icmoe_monai.imageio.dicom.seg.segments import MAX_TEXT
from icmoe_monai.imageio.dicom.seg.sources import Image, refused
from icmoe_monai.imageio.dicom.seg.takeover import take_over
from icmoe_monai.utils.files import write_atomically
from icmoe_monai.version import __version__

NOT_REVIEWED = "Found by an algorithm, not reviewed"
_UTF8 = "ISO_IR 192"
_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def taken_for(source: Dataset, *texts: object) -> tuple[Dataset, frozenset[str]]:
    """Return what an object takes over of a source, as `take_over` does, with the character set that its texts need.

    Args:
        source: Header of the source.
        texts: What else is written into the object.
    """
    taken, emptied = take_over(source)
    if not all(str(text).isascii() for text in (*taken.iterall(), *texts)):
        taken.SpecificCharacterSet = _UTF8  # pydicom decodes texts as they were read
    elif "SpecificCharacterSet" in taken:
        del taken.SpecificCharacterSet
    return taken, emptied


def equipment(name: str) -> dict[str, Any]:
    """Return what highdicom writes about who made an object.

    Args:
        name: The algorithm's.
    """
    return {
        "manufacturer": "icmoe_monai",
        "manufacturer_model_name": name[:MAX_TEXT],
        "software_versions": __version__,
        "device_serial_number": "0",
    }


def reference_of(segmentation: Dataset, taken: Dataset) -> Dataset:
    """Return what highdicom is shown as the source of an object that goes with a segmentation.

    Args:
        segmentation: The segmentation's header.
        taken: What is taken over of it.
    """
    reference = Dataset()
    reference.update(taken)
    for keyword in _IDENTITY:
        setattr(reference, keyword, segmentation[keyword].value)
    return reference


def finish(made: Dataset, segmentation: Dataset, taken: Dataset, emptied: frozenset[str]) -> None:
    """Bring an object that goes with a segmentation into the form that the standard asks for.

    Args:
        made: The object; changed in place.
        segmentation: The segmentation's header, which knows the equipment that acquired the source.
        taken: What was taken over of it.
        emptied: The keywords of what had no valid value.
    """
    settle(made, taken, emptied)
    if "ContributingEquipmentSequence" in segmentation:
        made.ContributingEquipmentSequence = segmentation.ContributingEquipmentSequence


def header_of(path: str | Path) -> Dataset:
    """Return the header of an object that was written here.

    Args:
        path: Its file.
    """
    return dcmread(path, stop_before_pixels=True)


def as_evidence(image: Image) -> Dataset:
    """Return what another object needs to refer to a source image.

    Args:
        image: The image.
    """
    reference = Dataset()
    for keyword in _IDENTITY:
        setattr(reference, keyword, str(image.dataset[keyword].value))
    return reference


def write_checked(
    path: str | Path, source: str, what: str, make: Callable[[], Dataset], is_whole: Callable[[Path], bool]
) -> None:
    """Make an object and write it; keep the file only if what is read back is what was meant.

    Args:
        path: Where the file shall be.
        source: The image that it is made of.
        what: What is written, such as "Segmentation".
        make: Makes the object.
        is_whole: Tells of the file whether all is in it.

    Raises:
        NoSegmentationError: highdicom refuses the source.
        InputError: The file cannot be written.
        RuntimeError: What is read back is something else.
    """

    def write(temporary: Path) -> None:
        with refusing(source, what):
            made.save_as(temporary)
            is_same = is_whole(temporary)
        if not is_same:
            raise RuntimeError(f"A DICOM {what} read back differs from what was written; it was not kept.")

    with silence():
        with refusing(source, what):
            made = make()
        write_atomically(path, write)


@contextmanager
def refusing(path: str, what: str) -> Iterator[None]:
    """Turn what highdicom raises about a source, with its values in the text, into a sentence without them.

    Args:
        path: The source.
        what: What is written.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        reason = f"cannot be described by a DICOM {what} (highdicom: {type(error).__name__})"
        raise refused(path, reason) from None  # not even a traceback shall show the values
