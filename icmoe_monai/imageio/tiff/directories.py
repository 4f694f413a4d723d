"""Where the directories of a TIFF's pages lie, and which of them are images of their own.

A directory that says of itself that it is a smaller copy (tag NewSubfileType, TIFF 6.0, section 8) is none: those are
the thumbnails and the levels of a pyramid that scanners and GDAL append to an image.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import tifffile

from icmoe_monai.errors import DamagedError
from icmoe_monai.imageio.tiff.page import UnsupportedError

_KIND, _WIDTH, _HEIGHT, _SUB_DIRECTORIES = 254, 256, 257, 330  # tags
_IS_REDUCED = 1  # a bit of the kind
_FORMS = {3: "H", 4: "I", 16: "Q"}  # types of a tag's value


@dataclass(frozen=True)
class Source:
    """An open TIFF, equal to another if its path is the same and the file has not changed between."""

    path: str
    modified_ns: int
    num_bytes: int
    tiff: tifffile.TiffFile = field(compare=False)


class Directory(NamedTuple):
    """A directory of a page: its number in the chain, from 0, where it begins, and what it says of itself."""

    number: int
    offset: int
    size: tuple[int, int]
    is_reduced: bool
    has_sub_directories: bool

    def is_smaller_than(self, other: Directory) -> bool:
        """Tell whether no side is longer than another page's, and one is shorter.

        Args:
            other: The other page.
        """
        return self.size != other.size and all(own <= its for own, its in zip(self.size, other.size, strict=True))


@lru_cache(maxsize=8)
def find_pages(source: Source) -> tuple[Directory, ...]:
    """Return the directories of the pages that are images of their own; a chain that leads to itself ends there.

    Args:
        source: The file.

    Raises:
        DamagedError: It ends too early.
        UnsupportedError: Its pages are smaller copies alone, and the image lies elsewhere.
    """
    found = _read_chain(source)
    whole = [directory for directory in found if not directory.is_reduced]
    if not whole:
        if any(directory.has_sub_directories for directory in found):
            raise UnsupportedError(
                f"{source.path} has a small copy for its page, and the image itself in a sub-directory, which is not "
                "read here: save it as a TIFF of one page."
            )
        return found
    largest = max(whole, key=lambda directory: directory.size[0] * directory.size[1])
    return tuple(directory for directory in found if not (directory.is_reduced and directory.is_smaller_than(largest)))


def _read_chain(source: Source) -> tuple[Directory, ...]:
    form, file = source.tiff.tiff, source.tiff.filehandle
    number, count = struct.Struct(form.offsetformat), struct.Struct(form.tagnoformat)
    place = 8 if number.size == 8 else 4  # of the offset that leads to the next directory
    found: dict[int, Directory] = {}  # in order
    while True:
        file.seek(place)
        (offset,) = number.unpack(file.read(number.size))
        if offset == 0 or offset in found:
            return tuple(found.values())
        if offset + count.size > source.num_bytes:
            raise DamagedError(f"it ends before its page {len(found) + 1}")
        file.seek(offset)
        (num_tags,) = count.unpack(file.read(count.size))
        place = offset + count.size + num_tags * form.tagsize
        if place + number.size > source.num_bytes:
            raise DamagedError(f"it ends within its page {len(found) + 1}")
        tags = _read_tags(file.read(num_tags * form.tagsize), form)
        found[offset] = Directory(
            len(found),
            offset,
            (tags.get(_HEIGHT, 0), tags.get(_WIDTH, 0)),
            bool(tags.get(_KIND, 0) & _IS_REDUCED),
            _SUB_DIRECTORIES in tags,
        )


def _read_tags(entries: bytes, form: tifffile.TiffFormat) -> dict[int, int]:
    """Return the first values of a directory's tags that are whole numbers and lie in the directory itself."""
    head = struct.Struct(f"{form.byteorder}HH")
    tags: dict[int, int] = {}
    for start in range(0, len(entries), form.tagsize):
        code, kind = head.unpack_from(entries, start)
        value = struct.Struct(f"{form.byteorder}{_FORMS.get(kind, 'I')}")
        if value.size <= form.tagoffsetthreshold:
            tags[code] = value.unpack_from(entries, start + form.tagsize - form.tagoffsetthreshold)[0]
    return tags
