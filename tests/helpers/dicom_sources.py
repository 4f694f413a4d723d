"""DICOM images that a DICOM Segmentation refers to, as a test makes them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

HEIGHT, WIDTH = 24, 20
CT, ENHANCED_MR, SC, MULTIFRAME_US, VL, CR, RETIRED_US, WHOLE_SLIDE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.77.1.4",
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.6",
    "1.2.840.10008.5.1.4.1.1.77.1.6",
)


def source(kind: str, number: int = 1, **attributes: Any) -> Dataset:
    """An image of the given SOP class with what every image has."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = kind, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = (
        generate_uid(entropy_srcs=["st"]),
        generate_uid(entropy_srcs=["se"]),
    )
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = (
        "Doe^Jane",
        "ID-4711",
        "19700101",
        "F",
    )
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240102", "101112", "st-9", "acc-7"
    image.ReferringPhysicianName, image.StudyDescription = "Who^Doctor", "a study"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "OT", 3, number
    image.Manufacturer, image.ConversionType = "nobody", "SYN"
    image.Rows, image.Columns, image.SamplesPerPixel = HEIGHT, WIDTH, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    num_frames = int(image.get("NumberOfFrames", 1))
    image.PixelData = bytes(num_frames * HEIGHT * WIDTH * image.SamplesPerPixel * image.BitsAllocated // 8)
    return image


def ct(number: int, z: float, **attributes: Any) -> Dataset:
    defaults = {
        "Modality": "CT",
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame"]),
        "PositionReferenceIndicator": "",
        "ImagePositionPatient": [-100.5, 20.25, z],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5, 0.75],
        "SliceThickness": 2.5,
    }
    return source(CT, number, **{**defaults, **attributes})


def enhanced_mr(num_frames: int) -> Dataset:
    image = source(ENHANCED_MR, Modality="MR", NumberOfFrames=num_frames, FrameOfReferenceUID=generate_uid())
    image.PositionReferenceIndicator = ""
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 3.0
    orientation.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    image.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for number in range(num_frames):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [3.0 * number, -50, 40]
        group.PlanePositionSequence = Items([position])
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = Items(groups)
    return image


def save(path: Path, image: Dataset) -> str:
    """Write an image as it is, also with values that the standard forbids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of such values
        image.save_as(path, enforce_file_format=True)
    return str(path)


def cine(num_frames: int = 3) -> Dataset:
    """An ultrasound cine: several frames, no place."""
    return source(MULTIFRAME_US, NumberOfFrames=num_frames, Modality="US")


def item(dataset: Dataset | None = None, **attributes: Any) -> Dataset:
    """A data set with attributes, also such that the standard forbids."""
    dataset = Dataset() if dataset is None else dataset
    for keyword, value in attributes.items():
        tag = Tag(tag_for_keyword(keyword))
        dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))
    return dataset
