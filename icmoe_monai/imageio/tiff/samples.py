"""Bytes of a TIFF's strip or tile to the numbers that it stores.

Bits are unpacked and the predictor is undone here, and not by tifffile, whose decoders of samples that fill no whole
bytes are an extra. Bits are those of TIFF 6.0: packed from the highest, each row from a new byte; samples of whole
bytes are in the file's byte order, but for those of 24 bits, on which programs disagree. Predictors: TIFF 6.0, section
14, and Adobe's technical note 3 for floats.

Letters: H W size of the strip or tile; S samples of a pixel that lie beside each other.
"""

from __future__ import annotations

import numpy as np

_BATCH = 2**20  # samples whose bits are spread out at a time
_HORIZONTAL, _FLOATING_POINT = 2, 3
_WHOLE = {8: "u1", 16: "u2", 32: "u4", 64: "u8"}

UNSIGNED, SIGNED, FLOAT = "u", "i", "f"
FLOAT_BITS = (16, 24, 32, 64)


def num_bytes(shape: tuple[int, int, int], bits: int) -> int:
    """Return how many bytes a strip or tile takes, each row from a new byte.

    Args:
        shape: (H, W, S).
        bits: Of a sample.
    """
    return shape[0] * -(-shape[1] * shape[2] * bits // 8)


def unpack(
    data: bytes, shape: tuple[int, int, int], *, bits: int, kind: str, byteorder: str, predictor: int
) -> np.ndarray:
    r"""Turn decompressed bytes into the numbers that they store.

    Args:
        data: At least `num_bytes` of them.
        shape: (H, W, S).
        bits: Of a sample, 1 to 32 or 64; of floats one of `FLOAT_BITS`.
        kind: UNSIGNED, SIGNED or FLOAT.
        byteorder: Of the file, "<" or ">".
        predictor: The tag Predictor: 1 none, 2 horizontal differences, 3 those of floats.

    Returns:
        (H, W, S), of the smallest type that holds such numbers.

    Example:
        >>> unpack(b"\x1b", (1, 4, 1), bits=2, kind=UNSIGNED, byteorder="<", predictor=1).ravel().tolist()
        [0, 1, 2, 3]
    """
    raw = np.frombuffer(data, np.uint8, num_bytes(shape, bits)).reshape(shape[0], -1)
    if predictor == _FLOATING_POINT:
        words = _undo_float_differences(raw, shape, bits)
    else:
        words = _words(raw, shape[1] * shape[2], bits, byteorder).reshape(shape)
    if predictor == _HORIZONTAL:
        words = np.cumsum(words, axis=1, dtype=words.dtype)
        if bits not in _WHOLE:
            words &= words.dtype.type((1 << bits) - 1)
    return _as_kind(words, bits, kind)


def _words(raw: np.ndarray, per_row: int, bits: int, byteorder: str) -> np.ndarray:
    """Return the bit patterns of a strip's rows, (H, per_row), as unsigned numbers."""
    if bits in _WHOLE:
        return raw.view(byteorder + _WHOLE[bits]).astype(_WHOLE[bits], copy=False)
    if bits == 24:
        parts = raw.reshape(len(raw), per_row, 3)
        return _join(parts[..., ::-1] if byteorder == "<" and _is_lowest_first(parts) else parts)
    held = next(whole for whole in _WHOLE if whole >= bits)
    words = np.empty((len(raw), per_row), dtype=_WHOLE[held])
    step = max(_BATCH // max(per_row, 1), 1)
    for first in range(0, len(raw), step):
        rows = raw[first : first + step]
        spread = np.zeros((len(rows), per_row, held), dtype=np.uint8)
        spread[..., held - bits :] = np.unpackbits(rows, axis=1)[:, : per_row * bits].reshape(len(rows), per_row, bits)
        words[first : first + step] = np.packbits(spread, axis=-1).view(f">{_WHOLE[held]}")[..., 0]
    return words


def _is_lowest_first(parts: np.ndarray) -> bool:
    """Tell whether the first of three bytes is the lowest, in a file whose byte order says so.

    libtiff and GDAL write three bytes in the file's byte order, tifffile and others as a stream of bits. Neighbours
    differ less in their highest byte than in their lowest.
    """
    first, last = (np.count_nonzero(np.diff(parts[..., place], axis=1)) for place in (0, 2))
    return bool(first > last)


def _undo_float_differences(raw: np.ndarray, shape: tuple[int, int, int], bits: int) -> np.ndarray:
    """Return bit patterns, (H, W, S): a row's bytes are differences, the highest bytes of all its samples first."""
    height, width, samples = shape
    summed = np.cumsum(raw.reshape(height, -1, samples), axis=1, dtype=np.uint8)
    planes = summed.reshape(height, bits // 8, width * samples)
    return _join(planes.swapaxes(1, 2)).reshape(shape)


def _join(parts: np.ndarray) -> np.ndarray:
    """Join the bytes of each number, the highest first, which are the last axis."""
    held = next(whole for whole in _WHOLE if whole >= parts.shape[-1] * 8)
    padded = np.zeros((*parts.shape[:-1], held // 8), dtype=np.uint8)
    padded[..., held // 8 - parts.shape[-1] :] = parts
    return padded.view(f">{_WHOLE[held]}")[..., 0].astype(_WHOLE[held])


def _as_kind(words: np.ndarray, bits: int, kind: str) -> np.ndarray:
    if kind == FLOAT:
        return _float24(words) if bits == 24 else words.view(f"f{bits // 8}")
    if kind == SIGNED:
        signed = words.view(f"i{words.itemsize}")
        unused = words.itemsize * 8 - bits
        return (signed << unused) >> unused if unused else signed
    return words


def _float24(words: np.ndarray) -> np.ndarray:
    """Return floats of 1 bit of sign, 7 of exponent and 16 of fraction as float32."""
    exponent, fraction = (words >> 16) & 0x7F, (words & 0xFFFF).astype(np.float32) / 0x10000
    finite = np.where(exponent == 0, np.ldexp(fraction, -62), np.ldexp(1 + fraction, exponent.astype(np.int32) - 63))
    special = np.where(fraction == 0, np.float32(np.inf), np.float32(np.nan))
    return np.where(exponent == 0x7F, special, finite) * np.where(words >> 23, np.float32(-1), np.float32(1))
