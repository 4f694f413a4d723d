"""The hospital's network: images that come from an archive, and results that go back, over DICOMweb or DICOM itself.

May import inference and below. What it needs beside the package is the extra `pacs`.
"""
