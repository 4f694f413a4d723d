"""DICOM: headers, pixels, scale and segmentations."""
