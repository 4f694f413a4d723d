"""Words, and the frames that compress them, as encoders of each kind make them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import openjpeg
from dicom_files import save
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder


def by_jpeg_2000(words: np.ndarray, **options: Any) -> bytes:
    photometric = 1 if words.ndim == 3 else 2
    return bytes(openjpeg.encode(words, photometric_interpretation=photometric, **options))


def by_jpeg_ls(words: np.ndarray, near: int = 0) -> bytes:
    return bytes(jpeg_ls.encode_array(words, lossy_error=near))


def by_rle(words: np.ndarray) -> bytes:
    rows, columns = words.shape[:2]
    return get_encoder(uid.RLELossless).encode(
        words.tobytes(),
        rows=rows,
        columns=columns,
        samples_per_pixel=1 if words.ndim == 2 else 3,
        number_of_frames=1,
        bits_allocated=8 * words.itemsize,
        bits_stored=8 * words.itemsize,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2" if words.ndim == 2 else "RGB",
        planar_configuration=0,
    )


def by_lossless_jpeg(words: np.ndarray) -> bytes:
    import imagecodecs

    return imagecodecs.ljpeg_encode(words)


def by_jpeg(picture: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", **options)
    return file.getvalue()


CODERS: dict[uid.UID, Callable[[np.ndarray], bytes]] = {
    uid.RLELossless: by_rle,
    uid.JPEG2000Lossless: by_jpeg_2000,
    uid.JPEGLSLossless: by_jpeg_ls,
    uid.JPEGLosslessSV1: by_lossless_jpeg,
}


def save_coded(path: Path, pixels: np.ndarray, coded: list[bytes], syntax: uid.UID, **tags: Any) -> str:
    """Write an image of one frame or more whose header is that of the pixels (of the first frame)."""
    dataset = dcmread(save(path, pixels, **tags))
    dataset.file_meta.TransferSyntaxUID = syntax
    if len(coded) > 1:
        dataset.NumberOfFrames = len(coded)
    dataset.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2) for frame in coded], has_bot=False)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return str(path)
