"""DICOM files that a test makes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

HEIGHT, WIDTH = 12, 20


def asymmetric(maximum: int = 255) -> np.ndarray:
    """(H, W): a ramp along the columns, a bright corner at the top right, a dark bar at the bottom."""
    pattern = np.tile(np.linspace(0.2, 0.6, WIDTH), (HEIGHT, 1))
    pattern[:3, -5:] = 1
    pattern[-2:] = 0
    return (pattern * maximum).round().astype(np.int64)


def save(path: Path, pixels: np.ndarray | None, syntax: uid.UID = uid.ExplicitVRLittleEndian, **tags: Any) -> str:
    """Write an image, (H, W), (H, W, 3) or (N, H, W[, 3]), or with None a data set without one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.SeriesInstanceUID = "1.2.3"
    if pixels is not None:
        colour = pixels.shape[-1] == 3
        dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
        if pixels.ndim == 3 + colour:
            dataset.NumberOfFrames = len(pixels)
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        order = "<" if syntax.is_little_endian else ">"
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return str(path)


def item(**tags: Any) -> Dataset:
    dataset = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are not allowed
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
    return dataset
