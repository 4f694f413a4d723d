"""Slides as scanners write them, made of a picture: Aperio's SVS, and DICOM whole slides of one file for each level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from dicom_sources import WHOLE_SLIDE
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

TILE = 64


def save_svs(path: Path, pixels: np.ndarray, *, mpp: float = 0.5, compression: str | None = "jpeg") -> Path:
    """Write an SVS: the full size, a thumbnail, and every fourth pixel as the second level."""
    note = "Aperio Image Library v12.0\n{1}x{0} (64x64)|AppMag = 20|MPP = {2}|ImageID = 7"
    about = {"photometric": "rgb", "metadata": None, "software": False}
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate((pixels, pixels[::8, ::8], pixels[::4, ::4])):
            told = note.format(*pixels.shape[:2], mpp)
            how = {} if number == 1 else {"tile": (TILE, TILE), "compression": compression}
            file.write(np.ascontiguousarray(level), description=told, subfiletype=0, **about, **how)
    return path


def save_dicom_slide(folder: Path, pixels: np.ndarray, *, mpp: float = 0.5, num_levels: int = 2) -> list[Path]:
    """Write a DICOM whole slide, TILED_FULL and uncompressed; each level has every second pixel of the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = {name: generate_uid() for name in ("Study", "Series", "FrameOfReference", "Pyramid")}
    paths = []
    for level in range(num_levels):
        image = _level(pixels[:: 2**level, :: 2**level], mpp * 2**level, level + 1)
        image.StudyInstanceUID, image.SeriesInstanceUID = uids["Study"], uids["Series"]
        image.FrameOfReferenceUID, image.PyramidUID = uids["FrameOfReference"], uids["Pyramid"]
        paths.append(folder / f"{level}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def _level(pixels: np.ndarray, mpp: float, number: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = WHOLE_SLIDE, generate_uid()
    image.ImageType = ["ORIGINAL" if number == 1 else "DERIVED", "PRIMARY", "VOLUME", "NONE"]
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Doe^Jane", "ID-4711", "", "F"
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240102", "101112", "st-9", "acc-7"
    image.ReferringPhysicianName, image.Modality = "Who^Doctor", "SM"
    image.SeriesNumber, image.InstanceNumber = 3, number
    image.Manufacturer, image.PositionReferenceIndicator = "nobody", "SLIDE_CORNER"
    image.ContainerIdentifier, image.VolumetricProperties = "SLIDE_1", "VOLUME"
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.Rows = image.Columns = TILE
    image.TotalPixelMatrixRows, image.TotalPixelMatrixColumns = pixels.shape[:2]
    image.TotalPixelMatrixFocalPlanes, image.NumberOfOpticalPaths = 1, 1
    image.DimensionOrganizationType, image.ImageOrientationSlide = "TILED_FULL", [0, -1, 0, -1, 0, 0]
    image.ImagedVolumeHeight, image.ImagedVolumeWidth = (side * mpp / 1000 for side in pixels.shape[:2])
    image.ImagedVolumeDepth = 0.001
    image.LossyImageCompression = "00"
    origin, measures, shared, path, specimen = (Dataset() for _ in range(5))
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "SPECIMEN_1", "1.2.3.4"
    specimen.IssuerOfTheSpecimenIdentifierSequence = specimen.SpecimenPreparationSequence = []
    image.SpecimenDescriptionSequence = Items([specimen])
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20.0, 40.0
    image.TotalPixelMatrixOriginSequence = Items([origin])
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    shared.PixelMeasuresSequence = Items([measures])
    image.SharedFunctionalGroupsSequence = Items([shared])
    path.OpticalPathIdentifier = "0"
    image.OpticalPathSequence = Items([path])
    tiles = _tiles(pixels)
    image.NumberOfFrames = len(tiles)
    image.PixelData = b"".join(tile.tobytes() for tile in tiles)
    return image


def _tiles(pixels: np.ndarray) -> list[np.ndarray]:
    """Return the tiles, row by row; those at the edges go on in white."""
    height, width = (-(-side // TILE) * TILE for side in pixels.shape[:2])
    padded = np.full((height, width, 3), 255, dtype=np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return [
        padded[top : top + TILE, left : left + TILE] for top in range(0, height, TILE) for left in range(0, width, TILE)
    ]
