"""DICOM objects of what was found in DICOM images, by highdicom.

A Segmentation shows it, a Structured Report beside it tells its numbers, and Secondary Captures show its outlines.

Patient, study and geometry are the source's, as far as they are valid, and every object refers to the images or frames
that it is about. What is malformed is mended or left out, and told by its keyword.

A source may name a patient: no message here holds a value of its tags, nor the text of a library's exception, and the
libraries' own warnings are not passed on.

Letters: N source frames; H, W their size; S segments, which are the foreground classes 1..S.
"""

from icmoe_monai.imageio.dicom.seg.captures import write_capture
from icmoe_monai.imageio.dicom.seg.identity import Series
from icmoe_monai.imageio.dicom.seg.making import header_of
from icmoe_monai.imageio.dicom.seg.reports import Finding, write_report
from icmoe_monai.imageio.dicom.seg.segments import Segment, as_segment
from icmoe_monai.imageio.dicom.seg.sources import (
    NoSegmentationError,
    Part,
    plan_segmentations,
    plan_slide,
    references_of,
)
from icmoe_monai.imageio.dicom.seg.writing import write_segmentation

__all__ = [
    "Finding",
    "NoSegmentationError",
    "Part",
    "Segment",
    "Series",
    "as_segment",
    "header_of",
    "plan_segmentations",
    "plan_slide",
    "references_of",
    "write_capture",
    "write_report",
    "write_segmentation",
]
