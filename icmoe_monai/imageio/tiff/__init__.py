"""TIFF: directories, stored samples and colours, of whole pages and of single tiles."""
