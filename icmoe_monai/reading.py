"""Files in, tensors out: 2-D images as upright RGB, their masks as class numbers, for MONAI's transforms.

`LoadImage2Dd` is MONAI's `LoadImaged` with one reader and nothing else to fall back on: MONAI's own readers transpose
pictures, ignore their EXIF orientation and disagree on colour, and which of them reads a file depends on what is
installed. Images become float32 (3, H, W) in 0..255, masks float32 (1, H, W) of whole numbers. A file that cannot be
used is an `InputError`: one sentence that names the file and the remedy. How each kind of file is decoded is told in
`pictures`, `dicom` and `nifti`, what a mask may hold in `masks`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from monai.config.type_definitions import KeysCollection, PathLike
from monai.data.image_reader import ImageReader
from monai.transforms.io.array import LoadImage
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.transform import MapTransform
from monai.utils.misc import ensure_tuple
from monai.utils.type_conversion import convert_to_numpy

from icmoe_monai import dicom, nifti, pictures
from icmoe_monai.errors import InputError
from icmoe_monai.masks import to_classes

# A DICOM file may have any name: its content tells.
SUFFIXES = (*pictures.SUFFIXES, *nifti.SUFFIXES)
SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide")  # read by `large_images` only
_SIDE_OF_NOTHING = 16  # pixels of the black image in the place of one that cannot be read


class LoadImage2Dd(LoadImaged):
    """Load 2-D images and masks of a case: image (3, H, W) in 0..255, label (1, H, W) of class numbers.

    An image is a file, or of a file with several frames, slices or pages the one that the case's `frame` numbers, from
    0. A label is one file or a list of files, which are merged by their maximum. With `out_channels` 1 the label is 0
    or 1 and a mask file may hold 0 and one other value; with K > 1 it holds the numbers 0..K-1. A case whose
    `label_kind` is "instances" numbers objects instead of classes: every value above 0 is class 1.

    The meta data say `spatial_shape` (H, W) and `filename_or_obj` (of several files, the first).

    Args:
        keys: Keys of the paths to load.
        label_keys: Those of the keys that are masks.
        out_channels: Output channels K of the network.
        allow_missing_keys: Whether a case may lack a key, as one without a label does.
        keep_going: Let an image that cannot be read not stop a run of many: the sentence goes to the case's `failure`,
            and a small black image takes its place. A case that comes with a `failure` is not read at all.
        keep_picture: Add `picture`, the first key's image as it was read, uint8 (H, W, 3), for pictures of results.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 30), 255).save(f"{folder}/a.png")
        ...     case = LoadImage2Dd(("image", "label"))({"image": f"{folder}/a.png", "label": f"{folder}/a.png"})
        >>> tuple(case["image"].shape), tuple(case["label"].shape), case["label"].max().item()
        ((3, 30, 40), (1, 30, 40), 1.0)
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        *,
        label_keys: KeysCollection = ("label",),
        out_channels: int = 1,
        allow_missing_keys: bool = False,
        keep_going: bool = False,
        keep_picture: bool = False,
    ) -> None:
        # Not LoadImaged's constructor: it builds all of MONAI's readers, one of which warns that it misses a library.
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.label_keys = ensure_tuple(label_keys)
        self.out_channels = out_channels
        self.keep_going = keep_going
        self.keep_picture = keep_picture
        self._loader = _OneReader()

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Replace the paths of a case by what they hold.

        Args:
            data: A case: paths under the keys, and `label_kind` where its masks number instances.
            reader: Another reader for all keys, as `LoadImaged` has it.

        Raises:
            InputError: A file cannot be used.
        """
        case = dict(data)
        for key in self.key_iterator(case):
            loaded = self._load(key, case, reader)
            if self._loader.image_only:
                case[key] = loaded
            else:  # MONAI Label asks for it
                case[key], case[f"{key}_meta_dict"] = loaded
        if self.keep_picture:
            image = convert_to_numpy(case[self.keys[0]])
            case["picture"] = np.ascontiguousarray(image.transpose(1, 2, 0).round().astype(np.uint8))
        return case

    def _load(self, key: Hashable, case: dict[Hashable, Any], reader: ImageReader | None) -> Any:
        reader = reader or self._reader(key, case)
        if not self.keep_going:
            return self._loader(case[key], reader)
        if not case.get("failure"):
            try:
                loaded = self._loader(case[key], reader)
            except InputError as error:
                case["failure"] = str(error).replace(str(case[key]), str(case.get("name", case[key])))
            else:
                case["failure"] = ""
                return loaded
        return self._loader(case[key], _Nothing())

    def _reader(self, key: Hashable, case: Mapping[Hashable, Any]) -> Image2DReader:
        if key not in self.label_keys:
            return Image2DReader(frame=case.get("frame"))
        return Image2DReader(
            label=True, out_channels=self.out_channels, instances=case.get("label_kind") == "instances"
        )


class Image2DReader(ImageReader):
    """MONAI's reader interface over `read_image` and `read_label`.

    Args:
        label: Whether the files are masks.
        out_channels: Output channels of the network, for masks.
        instances: Whether masks number objects instead of classes.
        frame: Which frame, slice or page of the file, from 0; None: the file holds one.

    Example:
        >>> Image2DReader().verify_suffix("scan.anything")
        True
    """

    def __init__(
        self, *, label: bool = False, out_channels: int = 1, instances: bool = False, frame: int | None = None
    ) -> None:
        self.label = label
        self.out_channels = out_channels
        self.instances = instances
        self.frame = frame

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Claim every file, so that no other reader is asked.

        Args:
            filename: Ignored.
        """
        return True

    def read(self, data: Sequence[PathLike] | PathLike) -> np.ndarray:  # type: ignore[override]  # has no options
        """Read the files of one key.

        Args:
            data: One path, or several for a mask in several files.

        Returns:
            float32 (C, H, W).

        Raises:
            InputError: A file cannot be used.
        """
        paths = [str(path) for path in ensure_tuple(data)]
        if self.label:
            return read_label(paths, out_channels=self.out_channels, instances=self.instances)[None]
        if len(paths) != 1:
            raise InputError(f"An image must be one file, got {len(paths)}: {', '.join(paths)}.")
        return np.ascontiguousarray(read_image(paths[0], frame=self.frame).transpose(2, 0, 1))

    def get_data(self, img: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the pixels and their meta data.

        Args:
            img: What `read` returned, (C, H, W).
        """
        return img, {"spatial_shape": np.asarray(img.shape[1:]), "original_channel_dim": 0}


class _Nothing(Image2DReader):
    """A black image, whatever the path says."""

    def read(self, data: Sequence[PathLike] | PathLike) -> np.ndarray:  # type: ignore[override]  # has no options
        return np.zeros((3, _SIDE_OF_NOTHING, _SIDE_OF_NOTHING), dtype=np.float32)


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
    return _decoder(path).decode_rgb(path, _only_frame(path) if frame is None else frame)


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
    masks = [
        to_classes(
            one, *_decoder(one).decode_values(one, _only_frame(one)), out_channels=out_channels, instances=instances
        )
        for one in paths
    ]
    for one, mask in zip(paths, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(
                f"{one} is {mask.shape[1]}x{mask.shape[0]} and {paths[0]} is {masks[0].shape[1]}x{masks[0].shape[0]}: "
                "the masks of one image must have one size."
            )
    return np.maximum.reduce(masks)


def read_size(path: str, *, whole: bool = False) -> tuple[int, int]:
    """Return an image's upright (H, W) without its pixels.

    Args:
        path: The file.
        whole: Decode the pixels too, to find a damaged file or one of several frames.

    Raises:
        InputError: The file cannot be used.
    """
    if whole:
        _only_frame(path)
    return _decoder(path).decode_size(path, whole=whole)


def count_frames(path: str) -> int:
    """Return how many frames, slices or pages a file holds.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be used.
    """
    return _decoder(path).count_frames(path)


def split_suffix(name: str) -> tuple[str, str]:
    """Split a file's name into what its results are named after and its suffix; "1.2.840" has no suffix.

    Args:
        name: POSIX path.

    Example:
        >>> split_suffix("a/b.nii.gz"), split_suffix("a/1.2.840")
        (('a/b', '.nii.gz'), ('a/1.2.840', ''))
    """
    for suffix in (*SUFFIXES, *dicom.SUFFIXES, *SLIDE_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""


class _OneReader(LoadImage):
    """MONAI's `LoadImage` without its readers, so that the own reader's exception reaches the caller."""

    def __init__(self) -> None:
        # what LoadImage's constructor sets, less the registration of MONAI's readers
        self.readers = [Image2DReader()]
        self.auto_select = True
        self.image_only = True
        self.dtype = np.float32
        self.ensure_channel_first = False
        self.simple_keys = False
        self.pattern = None
        self.sep = "."
        self.expanduser = True


class _Decoder(Protocol):
    """What a module that decodes a kind of file has; `pictures` documents each function."""

    def count_frames(self, path: str) -> int: ...
    def decode_rgb(self, path: str, frame: int = 0) -> np.ndarray: ...
    def decode_values(self, path: str, frame: int = 0) -> tuple[np.ndarray, bool]: ...
    def decode_size(self, path: str, *, whole: bool = False) -> tuple[int, int]: ...


def _decoder(path: str) -> _Decoder:
    """Choose the decoder: the one place that tells kinds of file apart."""
    if path.lower().endswith(nifti.SUFFIXES):
        return nifti
    if dicom.is_dicom(path):
        return dicom
    return pictures


def _only_frame(path: str) -> int:
    num_frames = count_frames(path)
    if num_frames > 1:
        raise InputError(f"{path} holds {num_frames} frames, slices or pages: save each as a file of its own.")
    return 0
