"""The transform that loads a case's image and mask files, and its reader.

`LoadImage2Dd` is MONAI's `LoadImaged` with one reader and nothing else to fall back on: MONAI's own readers transpose
pictures, ignore their EXIF orientation and disagree on colour, and which of them reads a file depends on what is
installed. Images become float32 (3, H, W) in 0..255, masks float32 (1, H, W) of whole numbers. A file that cannot be
used raises an `InputError`, or with `keep_going` sets the case's `failure`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config.type_definitions import KeysCollection, PathLike
from monai.data.image_reader import ImageReader
from monai.transforms.io.array import LoadImage
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.transform import MapTransform
from monai.utils.misc import ensure_tuple
from monai.utils.type_conversion import convert_to_numpy

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_label, see_image
from icmoe_monai.imageio.sight import Sight, judge

LABEL_KEY = "label"  # key of the masks; every other key holds images
_SIDE_OF_NOTHING = 16  # side in pixels of the black image that replaces an unreadable one


class LoadImage2Dd(LoadImaged):
    """Transform: load a case's 2-D images, (3, H, W) in 0..255, and masks, (1, H, W) of class numbers.

    An image is a file, or, of a file with several frames, slices or pages, the one with the number `frame` of the case,
    from 0; or its upright RGB in memory, an array (H, W, 3) in 0..255. A label is one file or a list of files, merged
    by their maximum. With `out_channels` 1 the label is 0 or 1 and a mask file may hold 0 and one other value;
    with K > 1 it holds the numbers 0..K-1. In a case whose `label_kind` is "instances" masks number objects instead of
    classes: every value above 0 is class 1.

    The metadata hold `spatial_shape` (H, W) and `filename_or_obj` (of several files, the first).

    Args:
        keys: Keys of the paths to load; "label" is the key of masks, every other key of an image.
        out_channels: Output channels K of the network.
        allow_missing_keys: Whether a case may lack a key, as one without a label does.
        keep_going: Go on where an image cannot be read: the error's sentence becomes the case's `failure`, its code the
            `failure_code`, and a small black image takes its place. A case that comes with a `failure` is not read at
            all. An image in which there is little or nothing to see gets a `note`, a sentence that is "" for all
            others, and `is_blank`.
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
        out_channels: int = 1,
        allow_missing_keys: bool = False,
        keep_going: bool = False,
        keep_picture: bool = False,
    ) -> None:
        # Not LoadImaged's constructor: it builds all of MONAI's readers, one of which warns that it misses a library.
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.out_channels = out_channels
        self.keep_going = keep_going
        self.keep_picture = keep_picture
        self._loader = _OneReader()

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Replace the paths of a case by the images and masks that the files hold.

        Args:
            data: A case: paths under the keys, and `label_kind` where its masks number instances.
            reader: Reader to use for all keys instead, as in `LoadImaged`.

        Raises:
            InputError: If a file cannot be used.
        """
        case = dict(data)
        for key in self.key_iterator(case):
            loaded = self._load(key, case, reader)
            if self._loader.image_only:
                case[key] = loaded
            else:  # MONAI Label sets `image_only` to False
                case[key], case[f"{key}_meta_dict"] = loaded
        if self.keep_picture:
            image = convert_to_numpy(case[self.keys[0]])
            case["picture"] = np.ascontiguousarray(image.transpose(1, 2, 0).round().astype(np.uint8))
        return case

    def _load(self, key: Hashable, case: dict[Hashable, Any], reader: ImageReader | None) -> Any:
        path = "" if isinstance(case[key], np.ndarray) else case[key]
        name = str(case.get("name", path))
        if isinstance(case[key], np.ndarray):
            reader = _Held(case[key], name or "the image")
        reader = reader or self._reader(key, case)
        if not self.keep_going:
            return self._loader(path, reader)
        told: dict[Hashable, Any] = {"failure": str(case.get("failure") or ""), "note": "", "is_blank": False}
        told["failure_code"] = str(case.get("failure_code") or "")
        if not told["failure"]:
            try:
                loaded = self._loader(path, reader)
            except InputError as error:
                told |= {"failure": _named(str(error), path, name), "failure_code": error.code}
            else:
                sight = getattr(reader, "sight", None)  # other readers do not look
                if sight is not None:
                    told |= {"note": _named(sight.note, path, name), "is_blank": sight.is_blank}
                case |= told
                return loaded
        case |= told
        return self._loader(path, _Nothing())

    def _reader(self, key: Hashable, case: Mapping[Hashable, Any]) -> Image2DReader:
        if key != LABEL_KEY:
            return Image2DReader(frame=case.get("frame"))
        return Image2DReader(
            label=True, out_channels=self.out_channels, instances=case.get("label_kind") == "instances"
        )


class Image2DReader(ImageReader):
    """Read images and masks by `read_image` and `read_label`, behind MONAI's reader interface.

    Args:
        label: Whether the files are masks.
        out_channels: Output channels of the network, for masks.
        instances: Whether masks number objects instead of classes.
        frame: Number of the frame, slice or page in the file, from 0; None for a file that holds one.

    Attributes:
        sight: The image that was read last, and what is to be seen in it.

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
        self.sight: Sight | None = None

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Accept every file, so that MONAI tries no other reader.

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
            InputError: If a file cannot be used.
        """
        paths = [str(path) for path in ensure_tuple(data)]
        if self.label:
            return read_label(paths, out_channels=self.out_channels, instances=self.instances)[None]
        if len(paths) != 1:
            raise InputError(f"An image must be one file, got {len(paths)}: {', '.join(paths)}.")
        self.sight = see_image(paths[0], frame=self.frame)
        return np.ascontiguousarray(self.sight.rgb.transpose(2, 0, 1))

    def get_data(self, img: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the pixels and their metadata.

        Args:
            img: What `read` returned, (C, H, W).
        """
        return img, {"spatial_shape": np.asarray(img.shape[1:]), "original_channel_dim": 0}


def _named(sentence: str, path: Any, name: str) -> str:
    """Return a sentence with the case's name in the place of its file's path."""
    return sentence.replace(str(path), name) if path else sentence


class _Nothing(Image2DReader):
    """Return a black image for any path."""

    def read(self, data: Sequence[PathLike] | PathLike) -> np.ndarray:  # type: ignore[override]  # has no options
        return np.zeros((3, _SIDE_OF_NOTHING, _SIDE_OF_NOTHING), dtype=np.float32)


class _Held(Image2DReader):
    """Return an image that is in memory, (H, W, 3), for any path."""

    def __init__(self, rgb: np.ndarray, name: str) -> None:
        super().__init__()
        self.rgb = rgb
        self.name = name

    def read(self, data: Sequence[PathLike] | PathLike) -> np.ndarray:  # type: ignore[override]  # has no options
        self.sight = judge(self.name, self.rgb)
        return np.ascontiguousarray(self.sight.rgb.transpose(2, 0, 1))


class _OneReader(LoadImage):
    """MONAI's `LoadImage` without its readers, so that the exception of `Image2DReader` reaches the caller."""

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
