"""Read 2-D images as upright RGB, and their masks as class numbers, from any kind of file.

Images are float32 (H, W, 3) in 0..255, masks float32 (H, W) of whole numbers. A file is opened once, by `open_image`,
which finds its kind; its frames, size and pixels come from what was opened. A new format is one module with a class
that derives from `image_file.ImageFile`, and one entry in `FORMATS`. What a mask may hold is told in `masks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.bmp import BmpFile
from icmoe_monai.imageio.dicom.pixels import DicomFile
from icmoe_monai.imageio.image_file import ImageFile, open_file, read_head
from icmoe_monai.imageio.masks import to_classes
from icmoe_monai.imageio.nifti.pixels import NiftiFile
from icmoe_monai.imageio.pictures import PictureFile
from icmoe_monai.imageio.sight import Sight, look
from icmoe_monai.imageio.tiff.pixels import TiffFile

# All kinds of file that are read; of several that recognise a file, the first reads it. What none recognises is tried
# by the last, which looks at a file's content whatever its name.
FORMATS: tuple[type[ImageFile], ...] = (NiftiFile, DicomFile, BmpFile, TiffFile, PictureFile)

# A DICOM file may have any name: its content tells.
SUFFIXES = tuple(suffix for kind in reversed(FORMATS) if not kind.any_name for suffix in kind.suffixes)
SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".vms",
    ".vmu",
    ".mrxs",
    ".scn",
    ".bif",
    ".svslide",
    ".czi",
)  # read by `slides.images` only
PICTURE_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in NiftiFile.suffixes)
LARGE_SUFFIXES = (*PICTURE_SUFFIXES, *SLIDE_SUFFIXES)


def open_image(path: str) -> ImageFile:
    """Open an image file of any kind.

    Args:
        path: The file.

    Returns:
        The open file, which a `with` block closes.

    Raises:
        InputError: The file cannot be opened, is of no kind that is read, or is damaged.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 30), 5).save(f"{folder}/a.png")
        ...     with open_image(f"{folder}/a.png") as image:
        ...         print(type(image).__name__, image.num_frames, image.size, image.rgb()[0, 0])
        PictureFile 1 (30, 40) [5. 5. 5.]
    """
    file = open_file(path)
    try:
        head = file.head()
        kind = next((kind for kind in FORMATS if kind.recognises(path, head)), FORMATS[-1])
        return kind(path, file)
    except BaseException:
        file.close()
        raise


def is_image_kind(path: str) -> bool:
    """Tell whether a file is of a kind that is read, by its name, or of a kind of any name, by its first bytes.

    Args:
        path: The file.
    """
    if any(kind.recognises(path, b"") for kind in FORMATS):
        return True
    head = read_head(path)
    return any(kind.recognises(path, head) for kind in FORMATS if kind.any_name)


def read_image(path: str, *, frame: int | None = None) -> np.ndarray:
    """Read an image as upright RGB.

    Args:
        path: The file.
        frame: Which frame, slice or page of it, from 0; None: it must hold one.

    Returns:
        float32 (H, W, 3) in 0..255.

    Raises:
        InputError: The file cannot be used.
    """
    return see_image(path, frame=frame).rgb


def see_image(path: str, *, frame: int | None = None) -> Sight:
    """Read an image as upright RGB, and tell whether there is anything to see in it.

    Args:
        path: The file.
        frame: Which frame, slice or page of it, from 0; None: it must hold one.

    Raises:
        InputError: The file cannot be used.
    """
    with open_image(path) as image:
        return look(image, _only_frame(image) if frame is None else frame)


def read_label(path: str | Sequence[str], *, out_channels: int = 1, instances: bool = False) -> np.ndarray:
    """Read a mask as class numbers.

    Args:
        path: The file, or several whose maximum is taken.
        out_channels: 1: the files hold 0 and one other value, which becomes 1. K > 1: they hold 0..K-1.
        instances: The files number objects; every value above 0 becomes 1.

    Returns:
        float32 (H, W).

    Raises:
        InputError: A file cannot be used, its values do not fit `out_channels`, or the files differ in size.
    """
    paths = [path] if isinstance(path, str) else list(path)
    masks = [to_classes(one, *stored_values(one), out_channels=out_channels, instances=instances) for one in paths]
    return merged(paths, masks)


def read_objects(path: str) -> np.ndarray:
    """Read a mask that numbers objects.

    Args:
        path: The file.

    Returns:
        int64 (H, W), 0 the background.

    Raises:
        InputError: The file cannot be read or does not keep whole numbers from 0 on.
    """
    values, lossless = stored_values(path)
    if not lossless or values.min() < 0 or (values % 1 != 0).any():
        raise InputError(f"{path} does not number objects by 0, 1, 2, ...: save the objects' numbers as PNG.")
    return values.astype(np.int64)


def read_size(path: str, *, whole: bool = False) -> tuple[int, int]:
    """Return an image's upright (H, W) without its pixels.

    Args:
        path: The file.
        whole: Decode the pixels too, to find a damaged file or one of several frames.

    Raises:
        InputError: The file cannot be used.
    """
    with open_image(path) as image:
        if whole:
            _only_frame(image)
            image.check_pixels()
        return image.size


def read_orientation(path: str) -> int:
    """Return how a file's pixels as stored lie, by EXIF's numbers 1 to 8: 1 is upright.

    Args:
        path: The file.

    Raises:
        InputError: It cannot be used.
    """
    with open_image(path) as image:
        return image.orientation


def count_frames(path: str) -> int:
    """Return how many frames, slices or pages a file holds.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be used.
    """
    with open_image(path) as image:
        return image.num_frames


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file's name into what its results are named after and its suffix; "1.2.840" has no suffix.

    Args:
        name: POSIX path.

    Example:
        >>> split_suffix("a/b.nii.gz"), split_suffix("a/1.2.840")
        (('a/b', '.nii.gz'), ('a/1.2.840', ''))
    """
    for suffix in (*(suffix for kind in FORMATS for suffix in kind.suffixes), *SLIDE_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""


def merged(paths: Sequence[str], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the maximum of the masks of one image.

    Args:
        paths: The masks' files, for messages.
        masks: The masks, (H, W) each.

    Raises:
        InputError: They differ in size.
    """
    for one, mask in zip(paths, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(
                f"{one} is {mask.shape[1]}x{mask.shape[0]} and {paths[0]} is {masks[0].shape[1]}x{masks[0].shape[0]}: "
                "the masks of one image must have one size."
            )
    return np.maximum.reduce(masks)


def stored_values(path: str) -> tuple[np.ndarray, bool]:
    """Return the values that a mask file stores, (H, W), and whether it keeps every value, as JPEG does not.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be used, or holds several frames.
    """
    with open_image(path) as image:
        return image.values(_only_frame(image))


def _only_frame(image: ImageFile) -> int:
    if image.num_frames > 1:
        raise InputError(
            f"{image.path} holds {image.num_frames} frames, slices or pages: save each as a file of its own."
        )
    return 0
