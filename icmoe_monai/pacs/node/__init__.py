"""A DICOM node that takes studies, has them segmented, and sends the results back; `node.Node` joins its parts.

May import pacs and below. What speaks DICOM is pynetdicom.
"""
