"""The folders of a run's results, and what their files are called in a report."""

from __future__ import annotations

# a file for each case
OF_CASES = ("masks", "overlays", "controlled", "probabilities", "disagreement", "votes", "outlines")
# DICOM objects, which hold the patient's data as their sources do
SEGMENTATIONS, STRUCTURED_REPORTS, SECONDARY_CAPTURES = "segmentations", "structured_reports", "secondary_captures"
WITH_PATIENT_DATA = (SEGMENTATIONS, STRUCTURED_REPORTS, SECONDARY_CAPTURES)
# files of several cases or beside them, by folder the key of a case in a report
OBJECTS = {
    "volumes": "volume",
    SEGMENTATIONS: "segmentation",
    STRUCTURED_REPORTS: "structured_report",
    SECONDARY_CAPTURES: "secondary_capture",
}
FOLDERS = (*OF_CASES, *OBJECTS)
