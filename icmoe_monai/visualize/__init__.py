"""Pictures and pages for people: overlays on images, the HTML templates and their writer.

Imports nothing of this package.
"""

from __future__ import annotations
