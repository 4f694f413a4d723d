"""NIfTI: headers, voxels, scale and label volumes."""
