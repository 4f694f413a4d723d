"""What calibrated figures hold on test images."""
