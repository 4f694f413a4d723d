"""What a kind of image file gives, with the file opened anew for each question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from icmoe_monai.imageio.image_file import ImageFile


@dataclass(frozen=True)
class ByPath:
    kind: type[ImageFile]

    def num_frames(self, path: str) -> int:
        with self.kind.open(path) as image:
            return image.num_frames

    def size(self, path: str, *, whole: bool = False) -> tuple[int, int]:
        with self.kind.open(path) as image:
            if whole:
                image.check_pixels()
            return image.size

    def rgb(self, path: str, frame: int = 0) -> np.ndarray:
        with self.kind.open(path) as image:
            return image.rgb(frame)

    def values(self, path: str, frame: int = 0) -> tuple[np.ndarray, bool]:
        with self.kind.open(path) as image:
            return image.values(frame)
