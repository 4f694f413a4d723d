"""Images with secrets in every place where a format keeps text, and a search for these in whatever was written.

A secret is a word that stands nowhere else. It is planted whole, so that it is found whatever is written before and
after it; what is packed (PNG chunks, gzip, pictures in a page) is unpacked before the search.
"""

from __future__ import annotations

import base64
import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from pydicom.data import get_testdata_file

_SECRET = re.compile(rb"planted[0-9]{3}word", re.IGNORECASE)
_TIFF_TEXTS = (
    269,
    270,
    271,
    272,
    285,
    305,
    306,
    315,
    316,
    337,
    33432,
    65000,
)  # names, description, software, artist...
_DICOM_TEXTS = (
    *("PatientName", "PatientID", "PatientComments", "PatientAddress", "OtherPatientNames", "ReferringPhysicianName"),
    *("InstitutionName", "OperatorsName", "StudyDescription", "SeriesDescription", "ImageComments", "ProtocolName"),
)
_SHORT_TEXTS = ("AccessionNumber", "StationName", "StudyID")  # of 16 characters at most


class Planter:
    """Give out secrets, and know how many."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> str:
        """Return the next secret, of 14 characters."""
        self.number += 1
        return f"planted{self.number:03d}word"


def plant_pictures(folder: Path, secret: Planter, size: tuple[int, int] = (60, 48)) -> None:
    """Write a PNG, JPEG, WebP, BMP and TIFF with secrets.

    Args:
        folder: Where; it is made.
        secret: Gives out secrets.
        size: Width and height.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    texts = PngInfo()
    texts.add_text("Description", secret())
    texts.add_text("Comment", secret(), zip=True)
    texts.add_itxt("Author", secret(), lang="en", tkey=secret(), zip=True)
    texts.add(b"prVt", secret().encode())
    picture.save(folder / "a.png", pnginfo=texts, exif=_exif(secret))
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{secret()}</x:xmpmeta>".encode()
    picture.save(folder / "b.jpg", exif=_exif(secret), comment=secret(), xmp=xmp)
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes() + secret().encode())
    picture.save(folder / "c.webp", exif=_exif(secret), xmp=secret().encode())
    picture.save(folder / "d.bmp")
    (folder / "d.bmp").write_bytes((folder / "d.bmp").read_bytes() + secret().encode())
    plant_tiff(folder / "e.tif", secret, np.asarray(picture))


def plant_set(folder: Path, secret: Planter) -> None:
    """Write every image and mask of a dataset folder anew, with secrets.

    Args:
        folder: The folder, with PNG files in images/ and masks/.
        secret: Gives out secrets.
    """
    for path in sorted(folder.glob("*/*.png")):
        with Image.open(path) as picture:
            picture.load()
        texts = PngInfo()
        texts.add_text("Description", secret())
        texts.add_itxt("Author", secret(), zip=True)
        picture.save(path, pnginfo=texts, exif=_exif(secret))


def plant_tiff(path: Path, secret: Planter, pixels: np.ndarray) -> None:
    """Write a TIFF with a secret in every tag of text.

    Args:
        path: The file.
        secret: Gives out secrets.
        pixels: uint8 (H, W, 3).
    """
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in _TIFF_TEXTS:
        tags[tag] = secret()
        tags.tagtype[tag] = 2
    tags[700] = secret().encode()
    tags.tagtype[700] = 1
    Image.fromarray(pixels).save(path, tiffinfo=tags)


def plant_volume(path: Path, secret: Planter) -> None:
    """Write a NIfTI volume of two slices with secrets in its header and in an extension.

    Args:
        path: The file.
        secret: Gives out secrets.
    """
    image = nibabel.Nifti1Image(np.arange(2400, dtype=np.int16).reshape(30, 40, 2), np.diag([-1, -1, 2, 1]))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = secret()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", secret().encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def plant_dicom(path: Path, secret: Planter, source: str = "CT_small.dcm", **values: Any) -> None:
    """Write a DICOM image with secrets in its attributes, private ones too.

    Args:
        path: The file.
        secret: Gives out secrets.
        source: Name of the file of pydicom's that is changed.
        values: Further attributes by keyword.
    """
    image = pydicom.dcmread(get_testdata_file(source, download=False))
    for keyword in (*_DICOM_TEXTS, *_SHORT_TEXTS):
        setattr(image, keyword, secret())
    image.private_block(0x0099, secret(), create=True).add_new(1, "LO", secret())
    image.file_meta.SourceApplicationEntityTitle = secret()
    for keyword, value in values.items():
        setattr(image, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path)


def plant_failures(folder: Path, secret: Planter) -> None:
    """Write files that cannot be read, each with secrets in what a library would complain of.

    Args:
        folder: Where; it is made.
        secret: Gives out secrets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plant_pictures(folder / "cut", secret)
    for path in (folder / "cut").iterdir():
        data = path.read_bytes()
        keep = len(data) - 2500 if path.suffix != ".tif" else len(data)
        path.write_bytes(data[: max(keep, len(data) // 2)])
    tiff = folder / "cut" / "e.tif"
    tiff.write_bytes(
        tiff.read_bytes().replace(struct.pack("<HHII", 256, 4, 1, 60), struct.pack("<HHII", 256, 2, 60, 8))
    )
    (folder / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", secret().encode()) + _chunk(b"tEXt", b"x"))
    (folder / "text.jpg").write_text(secret())
    (folder / "text.tif").write_text("II*\0" + secret() * 20)
    (folder / "text.dcm").write_text("\0" * 128 + "DICM" + secret() * 20)
    (folder / "text.nii").write_text(secret() * 40)
    (folder / "text.txt").write_text(secret())
    plant_dicom(folder / "shape.dcm", secret, NumberOfFrames=None)
    data = (folder / "shape.dcm").read_bytes()
    (folder / "shape.dcm").write_bytes(data.replace(b"MONOCHROME2 ", secret().encode()[:12]))
    plant_dicom(folder / "report.dcm", secret, "reportsi.dcm")


def found_in(folder: Path, *, but: tuple[str, ...] = ()) -> list[tuple[str, bytes]]:
    """Return every secret in the files of a folder, unpacked, and in their names, each with its file.

    Args:
        folder: The folder.
        but: Names of folders in it that are passed over.
    """
    found: list[tuple[str, bytes]] = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] in but:
            continue
        found += [(name, word) for word in _SECRET.findall(name.encode())]
        if path.is_file():
            found += [(name, word) for layer in unpacked(path.read_bytes()) for word in _words(layer)]
    return sorted(set(found))


def _words(data: bytes) -> list[bytes]:
    wide = [data.decode("utf-16-le", "ignore").encode(), data[1:].decode("utf-16-le", "ignore").encode()]
    return [word for text in (data, *wide) for word in _SECRET.findall(text)]


def unpacked(data: bytes) -> Iterator[bytes]:
    """Yield a file's content, and below it what is compressed or coded in it.

    Args:
        data: The content.
    """
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield from unpacked(gzip.decompress(data))
    if data.startswith(b"\x89PNG"):
        at = 8
        while at + 8 <= len(data):
            length, kind = struct.unpack(">I4s", data[at : at + 8])
            chunk = data[at + 8 : at + 8 + length]
            for start in range(len(chunk) if kind in (b"zTXt", b"iTXt", b"iCCP") else 0):
                try:
                    yield zlib.decompress(chunk[start:])
                except zlib.error:
                    continue
            at += length + 12
    for coded in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
        yield from unpacked(base64.b64decode(coded))


def kinds_of_chunks(data: bytes) -> set[bytes]:
    """Return the kinds of a PNG's chunks.

    Args:
        data: The file's content.
    """
    kinds, at = set(), 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        kinds.add(kind)
        at += length + 12
    return kinds


def ome_tiff(path: Path, secret: Planter, pixels: np.ndarray) -> None:
    """Write an OME-TIFF, tiled, whose XML names secrets.

    Args:
        path: The file.
        secret: Gives out secrets.
        pixels: uint8 (H, W, 3).
    """
    told = {"axes": "YXS", "Name": secret(), "Description": secret(), "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb", metadata=told, ome=True, software=secret())


def _exif(secret: Planter) -> Image.Exif:
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298):  # description, artist, copyright
        exif[tag] = secret()
    exif.get_ifd(0x8769)[0x9286] = secret()  # the user's comment
    return exif


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
