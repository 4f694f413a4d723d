"""Measurements behind the documents: segmentation `study`, `cost`, and `reliability` of calibrated figures."""
