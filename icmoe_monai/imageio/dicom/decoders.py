"""Decoders of compressed frames: pydicom's plug-ins, one for JPEG that follows libjpeg's rules, and imagecodecs.

pydicom tries its own plug-ins, those of the packages that are installed. Its plug-in for Pillow takes the wrong colours
where a JPEG's markers and the DICOM header disagree, and refuses RGB without an Adobe marker, so one of ours comes
before it. imagecodecs (BSD licence, not installed with this package) reads what no package that is installed with this
one does: lossless and 12-bit JPEG, and JPEG-LS that pyjpegls refuses; it is asked last.

This module is itself such a plug-in module: pydicom asks it for `is_available` and `DECODER_DEPENDENCIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder, DecodeRunner

from icmoe_monai.imageio.dicom.codestream import JPEG, RGB, Codestream, read_codestream

_BY_DCT = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
_OF_IMAGECODECS = (*_BY_DCT, *_LOSSLESS, *uid.JPEGLSTransferSyntaxes, *_JPEG_2000)
_IMAGECODECS, _GDCM, _LIBJPEG = "imagecodecs", "python-gdcm", "pylibjpeg-libjpeg (GPL: your own choice)"
# package and module of what reads a transfer syntax, the freest first
_PACKAGES: dict[Any, tuple[str, ...]] = {
    uid.JPEGBaseline8Bit: (_IMAGECODECS, _GDCM, _LIBJPEG),
    uid.JPEGExtended12Bit: (_IMAGECODECS, _LIBJPEG),
    **dict.fromkeys(_LOSSLESS, (_IMAGECODECS, _GDCM, _LIBJPEG)),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, ("pyjpegls", _IMAGECODECS, _GDCM, _LIBJPEG)),
    **dict.fromkeys(uid.JPEG2000TransferSyntaxes, ("pylibjpeg-openjpeg",)),
    **dict.fromkeys(_JPEG_2000, ("pylibjpeg-openjpeg", _IMAGECODECS, _GDCM)),
}
_MODULES = {
    _IMAGECODECS: "imagecodecs",
    _GDCM: "gdcm",
    _LIBJPEG: "libjpeg",
    "pyjpegls": "jpeg_ls",
    "pylibjpeg-openjpeg": "openjpeg",
}
_END_OF_IMAGE, _LONGEST_TAIL = b"\xff\xd9", 64  # fill bytes may follow the marker
DECODER_DEPENDENCIES: dict[Any, tuple[str, ...]] = dict.fromkeys(_OF_IMAGECODECS, (_IMAGECODECS,))


class UndecodedError(Exception):
    """All decoders of a frame failed; the message says what they and others are called.

    Args:
        advice: The message, which ends a sentence.
        code: One of `errors.REASONS`.
    """

    def __init__(self, advice: str, code: str) -> None:
        super().__init__(advice)
        self.code = code


def decode(
    syntax: uid.UID, stream: BinaryIO, *, frame: int, codestream: Codestream | None, options: dict[str, Any]
) -> np.ndarray:
    """Return a frame's samples as they were compressed or stored, whatever colour they are in.

    Args:
        syntax: The transfer syntax.
        stream: The file, where the value of its pixel data begins.
        frame: Which frame, from 0.
        codestream: The compressed frame's own header; None where it has none.
        options: pydicom's options of decoding, which hold what the header says.

    Returns:
        (H, W) or (H, W, channels), of the type that the header's bits and sign ask for.

    Raises:
        UndecodedError: No decoder is installed, or all fail.
        ValueError: Samples are not compressed, and fewer than the header says.
    """
    start = stream.tell()
    if not syntax.is_encapsulated:
        return get_decoder(syntax).as_array(stream, index=frame, raw=True, **options)[0]
    for decoder in _decoders(syntax, codestream):
        stream.seek(start)
        try:
            return decoder.as_array(stream, index=frame, raw=True, **options)[0]
        except Exception:  # decoders raise anything; the next one may know more
            continue
    raise UndecodedError(*_advice(syntax, codestream))


def _decoders(syntax: uid.UID, codestream: Codestream | None) -> Iterator[Decoder]:
    if _is_for_pillow(syntax, codestream):
        yield _own(syntax, "decode_jpeg")  # alone: of a frame that is cut short others make up the rest
        return
    if is_known(syntax) and get_decoder(syntax).is_available:
        yield get_decoder(syntax)
    if is_available(syntax) and _has_imagecodecs():
        yield _own(syntax, "decode_by_imagecodecs")


def _is_for_pillow(syntax: uid.UID, codestream: Codestream | None) -> bool:
    """Tell whether a frame is a JPEG as all programs know it, whichever of JPEG's transfer syntaxes is named."""
    if codestream is None or syntax not in (*_BY_DCT, *_LOSSLESS):
        return False
    return codestream.kind == JPEG and codestream.lossy and codestream.precision == 8


@cache
def _own(syntax: uid.UID, function: str) -> Decoder:
    """Return a decoder with one plug-in of this module; pydicom's own decoders belong to the whole process."""
    decoder = Decoder(syntax)
    decoder.add_plugin(function, (__name__, function))
    return decoder


def _advice(syntax: uid.UID, codestream: Codestream | None) -> tuple[str, str]:
    """Return the end of a sentence: what has been tried, and what might be installed; and the reason's code."""
    if not is_known(syntax):
        told = f"pydicom does not know its transfer syntax {syntax.name}"
        return f": {told}, so convert it to Explicit VR Little Endian", "unsupported"
    packages = () if _is_for_pillow(syntax, codestream) else _PACKAGES.get(syntax, ())
    tried = [package for package in packages if find_spec(_MODULES[package])]
    install = " or ".join(package for package in packages if package not in tried)
    if install and not tried:
        needs = f"its transfer syntax {syntax.name} needs a decoder that is not installed"
        return f": {needs}, so install {install}, or convert it", "no_decoder"
    tried = tried or ["Pillow" if codestream else "pydicom"]
    more = f"install {install}, which may read it, or " if install else ""
    of = f"{' or '.join(tried)}, here for its transfer syntax {syntax.name}"
    return f" by {of}: {more}copy it again or remove it", "damaged"


def is_available(syntax: str) -> bool:
    """Tell pydicom whether a function of this module decodes a transfer syntax.

    Args:
        syntax: The transfer syntax.
    """
    return syntax in _OF_IMAGECODECS


def _has_imagecodecs() -> bool:
    return find_spec("imagecodecs") is not None


def is_known(syntax: uid.UID) -> bool:
    """Tell whether pydicom knows how pixels are written in a transfer syntax; videos' it does not.

    Args:
        syntax: The transfer syntax.
    """
    try:
        get_decoder(syntax)
    except NotImplementedError:
        return False
    return True


def decode_jpeg(coded: bytes, runner: DecodeRunner) -> bytes:
    """Decode a JPEG of 8 bits by Pillow, and undo no transformation of its colours.

    Args:
        coded: The frame.
        runner: pydicom's state, whose bits become those of the frame.
    """
    with Image.open(BytesIO(coded), formats=["JPEG"]) as picture:
        if picture.mode == "RGB" and read_codestream(coded).colour != RGB:
            picture.draft(
                "YCbCr", picture.size
            )  # libjpeg takes the channels for this, and so hands them out as they are
        samples = picture.tobytes()
    runner.set_option("bits_allocated", 8)
    runner.set_option("planar_configuration", 0)
    return samples


def decode_by_imagecodecs(coded: bytes, runner: DecodeRunner) -> bytes:
    """Decode a frame by imagecodecs, and undo no transformation of its colours but that of JPEG 2000.

    Args:
        coded: The frame.
        runner: pydicom's state, whose bits become those of the frame.
    """
    import imagecodecs  # not installed with this package

    if runner.transfer_syntax in uid.JPEGLSTransferSyntaxes:
        samples = imagecodecs.jpegls_decode(coded)
    elif runner.transfer_syntax in _JPEG_2000:
        samples = imagecodecs.jpeg2k_decode(coded)
    else:
        if _END_OF_IMAGE not in coded[-_LONGEST_TAIL:]:
            raise ValueError("the frame is cut short, of which imagecodecs makes up the rest")
        same = None if runner.samples_per_pixel == 1 else "YCBCR"  # from and to: nothing is converted
        samples = imagecodecs.jpeg8_decode(coded, colorspace=same, outcolorspace=same)
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    runner.set_option("planar_configuration", 0)
    return bytes(np.ascontiguousarray(samples).tobytes())
