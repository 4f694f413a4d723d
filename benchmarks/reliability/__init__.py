"""Measurements of how well calibrated figures hold on test images."""
