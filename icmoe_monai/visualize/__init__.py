"""The parts of pictures and pages: overlays on images, the colours of figures, the HTML templates and their loader.

Imports nothing of this package.
"""

from __future__ import annotations
