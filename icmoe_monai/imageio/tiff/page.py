"""One page of a TIFF: what its directory says, which tifffile reads, checked.

A file that is sound but of a kind that is not read is refused by an `UnsupportedError`, which never asks to copy it
again.

Letters: H W size of the page or of a strip or tile; S samples of a pixel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from icmoe_monai.errors import DamagedError, InputError
from icmoe_monai.imageio.image_file import max_pixels
from icmoe_monai.imageio.tiff import libtiff
from icmoe_monai.imageio.tiff.samples import FLOAT, FLOAT_BITS, SIGNED, UNSIGNED
from icmoe_monai.imageio.tiff.samples import num_bytes as bytes_of

_PHOTOMETRIC = 262
_OLD_JPEG = 6
_APERIO_YCBCR = 33003  # JPEG 2000 with YCbCr colours, whatever the photometric tag is
_KINDS = {1: UNSIGNED, 2: SIGNED, 3: FLOAT, 4: UNSIGNED}  # of the tag SampleFormat; 4 says nothing of the kind
_PREDICTORS = (1, 2, 3)
_MOST_SAMPLES = 16
_IMAGEJ_STACK = re.compile(r"ImageJ=.{,400}?\bimages=(\d{1,9})\b", re.DOTALL)
_CUT_STACK = re.compile(r'\{(?=.{,400}"shape": ).{,400}"truncated": true', re.DOTALL)
_LARGEST_PADDING = 4096  # pixels a side; a tile may reach so far beyond a small page
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR)


class UnsupportedError(InputError):
    """A sound file of a kind that is not read here; the sentence says what to make of it."""

    code = "unsupported"


@dataclass(frozen=True)
class Page:
    """What a page's directory says.

    Attributes:
        path: The file, for messages.
        shape: (H, W) as stored.
        samples: S.
        bits: Of a sample.
        kind: Of a sample: "u" unsigned, "i" signed, "f" float.
        is_planar: Whether the samples of a pixel lie in planes of their own.
        chunk: (H, W) of a strip or tile.
        is_tiled: Whether it is in tiles, whose bytes go on beyond the page's edge.
        photometric: The tag, 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr.
        source: tifffile's page.
    """

    path: str
    shape: tuple[int, int]
    samples: int
    bits: int
    kind: str
    is_planar: bool
    chunk: tuple[int, int]
    is_tiled: bool
    photometric: int
    source: Any

    @property
    def grid(self) -> tuple[int, int]:
        """How many rows and columns of strips or tiles there are."""
        return -(-self.shape[0] // self.chunk[0]), -(-self.shape[1] // self.chunk[1])

    @property
    def is_lossy(self) -> bool:
        """Whether it is compressed by JPEG."""
        return int(self.source.compression) in (_OLD_JPEG, libtiff.JPEG, 33007, 34892)

    @property
    def is_old_jpeg(self) -> bool:
        """Whether it is compressed by JPEG in the way of TIFF 6.0, which only libtiff reads, and only whole pages."""
        return int(self.source.compression) == _OLD_JPEG

    @property
    def byteorder(self) -> str:
        """The file's, "<" or ">"."""
        return str(self.source.parent.byteorder)

    @property
    def orientation(self) -> int:
        """The tag Orientation, 1 to 8; 1, which is upright, where there is none."""
        found = self.tag(274, 1)
        return found if found in range(1, 9) else 1

    @property
    def extras(self) -> tuple[int, ...]:
        """What the samples beyond the colours are: 1 opacity that the colours are multiplied by, 2 not yet, 0 else."""
        return tuple(int(value) for value in self.source.extrasamples)

    def tag(self, code: int, default: Any = None) -> Any:
        """Return the value of a tag.

        Args:
            code: Its number.
            default: What to return where there is none.
        """
        return self.source.tags.valueof(code, default)


def check_page(path: str, source: Any) -> Page:
    """Return what a page's directory says, if such a page is read.

    Args:
        path: The file, for messages.
        source: tifffile's page.

    Raises:
        DamagedError: The directory contradicts itself.
        UnsupportedError: The page is of a kind that is not read.
    """
    height, width = int(source.imagelength), int(source.imagewidth)
    is_tiled = 322 in source.tags
    chunk = (source.tilelength, source.tilewidth) if is_tiled else (source.rowsperstrip, width)
    if min(height, width, *chunk) < 1:
        raise DamagedError(f"it claims {width} x {height} pixels in parts of {chunk[1]} x {chunk[0]}")
    kind = _KINDS.get(_plain(source.sampleformat), "")
    bits = source.bitspersample
    fault = _find_fault(source, bits, kind)
    if fault:
        raise UnsupportedError(f"{path} {fault}.")
    if is_tiled and (chunk[0] > max(height, _LARGEST_PADDING) or chunk[1] > max(width, _LARGEST_PADDING)):
        raise DamagedError(f"it claims {width} x {height} pixels in tiles of {chunk[1]} x {chunk[0]}")
    return Page(
        path=path,
        shape=(height, width),
        samples=int(source.samplesperpixel),
        bits=int(bits),
        kind=kind,
        is_planar=int(source.planarconfig) == 2 and source.samplesperpixel > 1,
        chunk=(int(chunk[0]), int(chunk[1])) if is_tiled else (min(int(chunk[0]), height), width),
        is_tiled=is_tiled,
        photometric=int(source.photometric),
        source=source,
    )


def check_size(page: Page) -> None:
    """Refuse a page that is too large to be read whole.

    Args:
        page: The page.

    Raises:
        UnsupportedError: It is too large.
    """
    height, width = page.shape
    if height * width > max_pixels():
        raise UnsupportedError(
            f"{page.path} has too many pixels for one picture ({width} x {height}): cut it into tiles.",
            code="too_large",
        )


def check_stack(page: Page, num_bytes: int) -> None:
    """Refuse the only page of a file in which further images follow the first without directories of their own.

    ImageJ writes stacks of more than 4 GiB so, and tifffile where it is asked to; both tell it in the page's text.

    Args:
        page: The page.
        num_bytes: How many the file has; a single page that was taken out of a stack keeps the text.

    Raises:
        UnsupportedError: It is such a page.
    """
    text, offsets = str(page.source.description), page.source.dataoffsets
    told = _IMAGEJ_STACK.match(text)
    count = int(told[1]) if told else 2 if _CUT_STACK.match(text) else 1
    size = bytes_of((*page.shape, page.samples), page.bits)
    if count > 1 and int(page.source.compression) == 1 and offsets and offsets[0] + count * size <= num_bytes:
        raise UnsupportedError(
            f"{page.path} holds a stack of which only the first image is a page: save its images as pages or files of "
            "their own."
        )


def name_of(value: Any) -> Any:
    """Return the name of a tag's value, or the number itself if tifffile does not know it.

    Args:
        value: A member of one of tifffile's enumerations, or a number.
    """
    return getattr(value, "name", value)


def _find_fault(source: Any, bits: Any, kind: str) -> str:
    """Return what about a page is not read here, and what to do; "" of a page that is read."""
    if _PHOTOMETRIC not in source.tags:  # programs disagree: libtiff takes 0 for black, and others for white
        return "does not say whether 0 is black or white (no PhotometricInterpretation): save it as RGB or greyscale"
    if not isinstance(bits, int) or not kind:
        return "stores its samples in different or complex formats: save it with 8 or 16 bits a sample"
    if not (bits in FLOAT_BITS if kind == FLOAT else 1 <= bits <= 32 or bits == 64):
        return f"stores samples of {bits} bits: save it with 8 or 16 bits a sample"
    if int(source.compression) == _APERIO_YCBCR:
        return "stores YCbCr colours in JPEG 2000, of which RGB is not made here: save it as RGB"
    if int(source.photometric) not in _COLOURS:
        return f"stores its colours as {name_of(source.photometric)}: convert it to RGB or greyscale"
    if source.imagedepth > 1 or not 1 <= source.samplesperpixel <= _MOST_SAMPLES:
        return f"has {source.samplesperpixel} channels, {source.imagedepth} deep: save it as RGB or greyscale"
    if int(source.predictor) not in _PREDICTORS or (int(source.predictor) == 3 and bits not in FLOAT_BITS):
        return f"is compressed with the predictor {name_of(source.predictor)}: save it without one"
    return ""


def _plain(value: Any) -> Any:
    return value if isinstance(value, tuple) else int(value)
