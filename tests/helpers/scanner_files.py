"""Slides of scanners that no library writes, of a picture: NDPI, VMS, SCN, BIF, MRXS.

They have the parts by which readers tell these formats and find their pixels, as OpenSlide's pages on formats describe
them, in two levels; the second has every second pixel. Sides of pictures are multiples of two tiles.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

TILE = 64
SCN_PLACE = (TILE, 2 * TILE)  # row and column of the glass at which an SCN's image begins
_PLAIN = {"photometric": "rgb", "metadata": None, "software": False, "subfiletype": 0}


def save_ndpi(folder: Path, pixels: np.ndarray, mpp: float) -> Path:
    """Write Hamamatsu's NDPI: a TIFF of one JPEG for each level and private tags, and the macro image last."""
    path = folder / "slide.ndpi"
    images = [(level, 20.0, mpp * 2**number) for number, level in enumerate(_levels(pixels))]
    with tifffile.TiffWriter(path) as file:
        for image, lens, um in [*images, (pixels[::8, ::8], -1.0, mpp * 8)]:
            tags = [(65420, "I", 1, 1, True), (65421, "f", 1, lens, True), (65424, "i", 1, 0, True)]
            how = {"shape": image.shape, "dtype": np.uint8, "compression": "jpeg", "rowsperstrip": image.shape[0]}
            file.write(iter([_jpeg(image)]), extratags=tags, **how, **_scale(um), **_PLAIN)
    return path


def save_vms(folder: Path, pixels: np.ndarray, mpp: float) -> Path:
    """Write Hamamatsu's VMS: a text that names a JPEG of the slide, here in one piece, and one of its map."""
    full, half = _levels(pixels)
    (folder / "slide.jpg").write_bytes(_jpeg(full))
    (folder / "slide_map.jpg").write_bytes(_jpeg(half))
    size = {"PhysicalWidth": full.shape[1] * mpp * 1000, "PhysicalHeight": full.shape[0] * mpp * 1000}
    told = {"NoJpegColumns": 1, "NoJpegRows": 1, "ImageFile": "slide.jpg", "MapFile": "slide_map.jpg"}
    path = folder / "slide.vms"
    path.write_text(_ini({"Virtual Microscope Specimen": {**told, **{name: round(nm) for name, nm in size.items()}}}))
    return path


def save_scn(folder: Path, pixels: np.ndarray, mpp: float) -> Path:
    """Write Leica's SCN: a BigTIFF whose description tells where on the glass the image lies, and the macro image."""
    levels, macro = _levels(pixels), pixels[::4, ::4]
    nm = [tuple(round(side * mpp * 1000) for side in of) for of in (pixels.shape[:2], SCN_PLACE)]
    glass = tuple(2 * side for side in nm[0])
    told = _scn_image(levels, 0, *nm) + _scn_image([macro], len(levels), glass, (0, 0))
    description = (
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="{glass[1]}" sizeY="{glass[0]}">{told}</collection></scn>'
    )
    path = folder / "slide.scn"
    _write_tiled(path, [(image, description, []) for image in [*levels, macro]], **_scale(mpp))
    return path


def save_bif(folder: Path, pixels: np.ndarray, mpp: float) -> Path:
    """Write Ventana's BIF: a BigTIFF of a label and levels, with XML of the scan and of how its tiles are joined."""
    full, half = _levels(pixels)
    rows, columns = (side // TILE for side in full.shape[:2])
    joints = "".join(
        f'<TileJointInfo Tile1="{one}" Tile2="{other}" Direction="{direction}" OverlapX="0" OverlapY="0" '
        'Confidence="98"/>'
        for one, other, direction in _joints(rows, columns)
    )
    scan = f'<iScan Magnification="20" ScanRes="{mpp}"/>'.encode()
    stitched = (
        f'<EncodeInfo><SlideStitchInfo><ImageInfo AOIScanned="1" Width="{TILE}" Height="{TILE}" NumRows="{rows}" '
        f'NumCols="{columns}" Pos-X="0" Pos-Y="0">{joints}</ImageInfo></SlideStitchInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    ).encode()
    images = [
        (full[::8, ::8], "Label_Image", [(700, "B", len(scan), scan, True)]),
        (full, "level=0 mag=20 quality=95", [(700, "B", len(stitched), stitched, True)]),
        (half, "level=1 mag=10 quality=95", []),
    ]
    path = folder / "slide.bif"
    _write_tiled(path, images)
    return path


def save_mrxs(folder: Path, pixels: np.ndarray, mpp: float) -> Path:
    """Write 3DHISTECH's MRXS: a folder of settings, an index, and a file of JPEGs, one for each tile of each level."""
    path = folder / "slide.mrxs"
    path.write_bytes(_jpeg(pixels[::8, ::8]))  # a preview
    parts = path.with_suffix("")
    parts.mkdir()
    data, pages, slide = bytearray(), [], "0123456789ABCDEF"
    columns, rows = pixels.shape[1] // TILE, pixels.shape[0] // TILE
    for number, level in enumerate(_levels(pixels)):
        step, entries = 2**number, []
        for row in range(0, rows, step):
            for column in range(0, columns, step):
                top, left = row // step * TILE, column // step * TILE
                tile = _jpeg(level[top : top + TILE, left : left + TILE])
                entries.append((row * columns + column, len(data), len(tile), 0))
                data += tile
        pages.append(entries)
    (parts / "Data0000.dat").write_bytes(data)
    (parts / "Index.dat").write_bytes(_mrxs_index(f"01.02{slide}".encode(), pages))
    of_levels = {
        f"LEVEL_{number}": {
            **{"IMAGE_CONCAT_FACTOR": number, "OVERLAP_X": 0, "OVERLAP_Y": 0, "IMAGE_FILL_COLOR_BGR": 16777215},
            **{"MICROMETER_PER_PIXEL_X": mpp * 2**number, "MICROMETER_PER_PIXEL_Y": mpp * 2**number},
            **{"IMAGE_FORMAT": "JPEG", "DIGITIZER_WIDTH": TILE, "DIGITIZER_HEIGHT": TILE},
        }
        for number in (0, 1)
    }
    told = {
        "GENERAL": {"SLIDE_ID": slide, "IMAGENUMBER_X": columns, "IMAGENUMBER_Y": rows, "OBJECTIVE_MAGNIFICATION": 20},
        "HIERARCHICAL": {
            **{"HIER_COUNT": 1, "NONHIER_COUNT": 0, "INDEXFILE": "Index.dat", "HIER_0_NAME": "Slide zoom level"},
            **{"HIER_0_COUNT": 2, "HIER_0_VAL_0_SECTION": "LEVEL_0", "HIER_0_VAL_1_SECTION": "LEVEL_1"},
        },
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
        **of_levels,
    }
    (parts / "Slidedat.ini").write_text(_ini(told))
    return path


SAVERS: dict[str, Callable[[Path, np.ndarray, float], Path]] = {
    "ndpi": save_ndpi,
    "vms": save_vms,
    "scn": save_scn,
    "bif": save_bif,
    "mrxs": save_mrxs,
}


def _levels(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


def _scale(um: float) -> dict[str, object]:
    return {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": "centimeter"}


def _jpeg(pixels: np.ndarray) -> bytes:
    """Return a JPEG with a restart marker after each 8 blocks of 8 pixels, by which NDPI and VMS are read in parts."""
    stream = BytesIO()
    how = {"quality": 95, "subsampling": 0, "restart_marker_blocks": TILE // 8}
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", **how)
    return stream.getvalue()


def _ini(sections: dict[str, dict[str, object]]) -> str:
    lines = [[f"[{name}]", *(f"{key}={value}" for key, value in told.items())] for name, told in sections.items()]
    return "\n".join(line for section in lines for line in section) + "\n"


def _write_tiled(path: Path, images: list[tuple[np.ndarray, str, list]], **how: object) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for image, description, tags in images:
            of_tiles = {"tile": (TILE, TILE), "compression": "jpeg", "compressionargs": {"level": 95}}
            data = np.ascontiguousarray(image)
            file.write(data, description=description, extratags=tags, **of_tiles, **how, **_PLAIN)


def _scn_image(images: list[np.ndarray], first: int, size: tuple[int, ...], place: tuple[int, ...]) -> str:
    """Return what is told of an image: its levels, the first one's number in the file, its size and place in nm."""
    sizes = [(*image.shape[:2], first + index) for index, image in enumerate(images)]
    lines = [f'<dimension sizeX="{width}" sizeY="{height}" ifd="{ifd}"/>' for height, width, ifd in sizes]
    return (
        f'<image><view sizeX="{size[1]}" sizeY="{size[0]}" offsetX="{place[1]}" offsetY="{place[0]}"/><scanSettings>'
        "<objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>"
        f"<pixels>{''.join(lines)}</pixels></image>"
    )


def _joints(rows: int, columns: int) -> list[tuple[int, int, str]]:
    """Return which tiles touch: they are counted from below, to the right and to the left in turn, from 1."""

    def number(row: int, column: int) -> int:  # of a tile, counted from above
        from_below = rows - 1 - row
        return from_below * columns + (columns - 1 - column if from_below % 2 else column) + 1

    places = [(row, column) for row in range(rows) for column in range(columns)]
    right = [(number(row, column - 1), number(row, column), "RIGHT") for row, column in places if column]
    return right + [(number(row, column), number(row - 1, column), "UP") for row, column in places if row]


def _mrxs_index(head: bytes, pages: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Return the index: two pointers to lists, and of each level one to a page of (tile, place, length, file)."""
    start = len(head) + 8
    body, pointers = b"", []
    for entries in pages:
        place = start + 4 * len(pages) + len(body)
        pointers.append(place)
        body += struct.pack("<4i", 0, place + 8, len(entries), 0)
        body += b"".join(struct.pack("<4i", *entry) for entry in entries)
    return head + struct.pack("<2i", start, start) + struct.pack(f"<{len(pages)}i", *pointers) + body
