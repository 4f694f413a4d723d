from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from by_path import ByPath
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio.nifti import header as nifti_header
from icmoe_monai.imageio.nifti.labels import write_like
from icmoe_monai.imageio.nifti.pixels import NiftiFile
from icmoe_monai.imageio.nifti.scale import areas_mm2, pixel_spacing
from icmoe_monai.imageio.read import count_frames, read_image, read_label

nifti = ByPath(NiftiFile)

# In the patient: R L, A P, I S are coordinates of a (4 right-left, 5 anterior-posterior, 3 feet-head) body, whose voxel
# (r, a, s), counted towards right, anterior and superior, has the value below; no two are equal.
RIGHT, ANTERIOR, SUPERIOR = 4, 5, 3


def body() -> np.ndarray:
    return np.arange(RIGHT * ANTERIOR * SUPERIOR, dtype=np.int16).reshape(RIGHT, ANTERIOR, SUPERIOR) - 7


def reoriented(codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The body stored along axes such as "LPS", and its affine, with 2, 3 and 4 mm along R, A and S."""
    image = nibabel.Nifti1Image(body(), np.diag([2.0, 3.0, 4.0, 1.0]))
    transform = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(transform)
    return np.asarray(turned.dataobj), turned.affine


def save(
    path: Path, voxels: np.ndarray, affine: np.ndarray | None, *, units: str = "mm", kind: type = nibabel.Nifti1Image
) -> str:
    image = kind(voxels, affine)
    image.header.set_xyzt_units(units)
    nibabel.save(image, path)
    return str(path)


def turned_by(degrees: float) -> np.ndarray:
    """A rotation about an axis between the coordinate axes."""
    axis = np.array([0.2, -0.5, 0.84])
    axis /= np.linalg.norm(axis)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def upright(plane: str, index: int) -> np.ndarray:
    """A slice of the body as a radiologist sees it; `index` counts towards right, anterior or superior."""
    if plane == "axial":
        return body()[::-1, ::-1, index].T  # rows to posterior, columns to the left
    if plane == "coronal":
        return body()[::-1, index, ::-1].T  # rows to the feet, columns to the left
    return body()[index, ::-1, ::-1].T  # rows to the feet, columns to posterior


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("degrees", [0, 20], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    ("codes", "plane", "towards"),
    [
        ("RAS", "axial", 1),
        ("LPS", "axial", 1),
        ("LAI", "axial", -1),
        ("PLS", "axial", 1),
        ("ARI", "axial", -1),
        ("RSA", "coronal", 1),
        ("ILP", "coronal", -1),
        ("ASR", "sagittal", 1),
        ("PIR", "sagittal", 1),
        ("SPL", "sagittal", -1),
    ],
)
def test_slices_are_upright_and_come_back(
    tmp_path: Path, codes: str, plane: str, towards: int, degrees: float, suffix: str
) -> None:
    voxels, affine = reoriented(codes)
    affine[:3, :3] = turned_by(degrees) @ affine[:3, :3]
    path = save(tmp_path / f"a.{suffix}", voxels, affine)
    depth = voxels.shape[2]
    assert nifti.num_frames(path) == depth
    found = []
    for frame in range(depth):
        expected = upright(plane, frame if towards > 0 else depth - 1 - frame)
        values, lossless = nifti.values(path, frame)
        np.testing.assert_array_equal(values, expected)
        assert lossless
        assert values.dtype == np.int16
        assert nifti.size(path) == nifti.size(path, whole=True) == expected.shape
        assert nifti.rgb(path, frame).shape == (*expected.shape, 3)
        found.append((values > 20).astype(np.uint8) + (values > 40))
    target = tmp_path / f"mask.{suffix}"
    write_like(target, source=path, slices=found)
    mask = nibabel.load(target)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj), (voxels > 20).astype(int) + (voxels > 40))
    np.testing.assert_array_equal(mask.affine, nibabel.load(path).affine)


@pytest.mark.parametrize(
    ("codes", "spacing"),
    [("RAS", (3, 2)), ("PLS", (3, 2)), ("ILP", (4, 2)), ("ASR", (4, 3)), ("SPL", (4, 3))],
)
@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("meter", 1000), ("micron", 0.001)])
def test_spacing_and_areas_follow_the_unit(
    tmp_path: Path, codes: str, spacing: tuple[float, float], units: str, factor: float
) -> None:
    path = save(tmp_path / "a.nii", *reoriented(codes), units=units)
    assert pixel_spacing(path) == pytest.approx((spacing[0] * factor, spacing[1] * factor))
    classes = np.zeros(nifti.size(path), dtype=np.uint8)
    classes[0, :2] = 1
    classes[1, 0] = 3
    pixel = spacing[0] * spacing[1] * factor**2
    assert areas_mm2(path, classes, 4) == pytest.approx([2 * pixel, 0, pixel])


@pytest.mark.parametrize("case", ["unknown unit", "no size", "another affine"])
def test_scale_is_never_a_guess(tmp_path: Path, case: str) -> None:
    path = Path(save(tmp_path / "a.nii", *reoriented("RAS"), units="unknown" if case == "unknown unit" else "mm"))
    data = bytearray(path.read_bytes())
    if case == "no size":
        data[80:84] = struct.pack("<f", np.nan)
    if case == "another affine":
        data[80:84] = struct.pack("<f", 1.0)
    path.write_bytes(data)
    assert pixel_spacing(str(path)) is None
    assert areas_mm2(str(path), np.zeros((5, 4), dtype=np.uint8), 2) is None


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 1, 1), (4, 5, 3, 1, 1)])
def test_a_2d_file_and_trailing_axes_of_one_are_stacks(tmp_path: Path, shape: tuple[int, ...]) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = save(tmp_path / "a.nii.gz", voxels, None)
    depth = (*shape, 1)[2]
    assert nifti.num_frames(path) == depth
    planes = [voxels.reshape(4, 5, depth)[:, :, z].T for z in range(depth)]  # no affine: x along the columns
    for z, plane in enumerate(planes):
        np.testing.assert_array_equal(nifti.values(path, z)[0], plane)
    write_like(tmp_path / "mask.nii", source=path, slices=planes)
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "mask.nii").dataobj), voxels)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_write_like_keeps_geometry_and_version_and_drops_texts(tmp_path: Path, kind: type, byteorder: str) -> None:
    voxels, affine = reoriented("PLS")
    header = kind.header_class(endianness=byteorder)
    image = kind(voxels, affine, header)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=3)
    image.header.set_xyzt_units("micron", "sec")
    image.header["descrip"] = b"DOE^JANE"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nibabel.save(image, tmp_path / "a.nii")
    size = nifti.size(str(tmp_path / "a.nii"))
    slices = [np.full(size, z, dtype=np.uint8) for z in range(3)]
    for name in ("mask.nii", "mask.nii.gz", "again.nii.gz"):
        write_like(tmp_path / name, source=str(tmp_path / "a.nii"), slices=slices)
    for name in ("mask.nii", "mask.nii.gz"):
        mask = nibabel.load(tmp_path / name)
        assert type(mask) is kind
        assert mask.shape == voxels.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        for form in ("qform", "sform"):
            expected, code = getattr(image, f"get_{form}")(coded=True)
            found, found_code = getattr(mask, f"get_{form}")(coded=True)
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert found_code == code
        assert mask.header.get_xyzt_units()[0] == "micron"
        assert mask.header.get_intent()[0] == "label"
        assert mask.dataobj.slope == 1
        assert mask.dataobj.inter == 0
    assert b"DOE" not in (tmp_path / "mask.nii").read_bytes()
    assert (tmp_path / "mask.nii.gz").read_bytes() == (tmp_path / "again.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "mask.nii.gz").read_bytes()) == (tmp_path / "mask.nii").read_bytes()


def test_write_like_refuses_what_is_not_the_volume(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", *reoriented("RAS"))
    right = np.zeros((5, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="one class map per slice, 3, got 2"):
        write_like(tmp_path / "m.nii", source=path, slices=[right] * 2)
    with pytest.raises(ValueError, match=r"must be \(5, 4\) with 0..255, got \(4, 5\)"):
        write_like(tmp_path / "m.nii", source=path, slices=[right.T] * 3)
    with pytest.raises(ValueError, match=r"must end in .nii or .nii.gz, got m.png"):
        write_like(tmp_path / "m.png", source=path, slices=[right] * 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.nii"]


def test_all_slices_share_the_volumes_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.normal(size=(30, 20, 4)).astype(np.float32)
    voxels[..., 1] += 50
    voxels[3, 4, 2], voxels[4, 4, 2] = np.nan, np.inf
    path = save(tmp_path / "a.nii.gz", voxels, np.diag([-1.0, -1.0, 1.0, 1.0]))
    low, high = np.percentile(voxels[np.isfinite(voxels)], [0.5, 99.5])
    for z in range(4):
        values = np.where(np.isfinite(voxels), voxels, np.nan)
        expected = ((values - low) / (high - low) * 255).clip(0, 255)[..., z].T
        found = nifti.rgb(path, z)
        assert found.dtype == np.float32
        for channel in range(3):
            np.testing.assert_allclose(found[..., channel], expected, atol=1e-3)


@pytest.mark.parametrize("slope", [0.5, -2.0])
def test_the_scale_of_the_header_is_applied(tmp_path: Path, slope: float) -> None:
    image = nibabel.Nifti1Image(body(), None)
    image.header.set_slope_inter(slope, 3)
    # nibabel scales what it saves; the stored integers are written here
    data = bytearray(image.header.binaryblock + bytes(4) + body().tobytes(order="F"))
    data[112:120] = struct.pack("<ff", slope, 3)
    data[344:348] = b"n+1\0"
    data[108:112] = struct.pack("<f", 352)
    (tmp_path / "a.nii").write_bytes(data)
    path = str(tmp_path / "a.nii")
    true = body() * slope + 3
    np.testing.assert_allclose(nifti.values(path, 1)[0], true[..., 1].T)
    low, high = np.percentile(true, [0.5, 99.5])
    expected = ((true - low) / (high - low) * 255).clip(0, 255)[..., 1].T
    np.testing.assert_allclose(nifti.rgb(path, 1)[..., 0], expected, atol=1e-3)


def test_a_mask_saved_through_a_scale_holds_whole_numbers(tmp_path: Path) -> None:
    labels = np.zeros((6, 5, 2))
    labels[1, 2, 0], labels[4, 3, 0] = 1, 3
    image = nibabel.Nifti1Image(labels, None)
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(nifti.values(str(tmp_path / "a.nii"), 0)[0], labels[..., 0].T)


@pytest.mark.parametrize("value", [0, 7])
def test_constant_is_black(tmp_path: Path, value: int) -> None:
    path = save(tmp_path / "a.nii", np.full((4, 5, 2), value, dtype=np.int16), np.eye(4))
    assert not nifti.rgb(path, 1).any()


def test_mostly_empty_goes_from_minimum_to_maximum(tmp_path: Path) -> None:
    voxels = np.zeros((40, 40, 2), dtype=np.int16)
    voxels[3, 30, 1] = 80
    path = save(tmp_path / "a.nii", voxels, None)
    np.testing.assert_array_equal(nifti.rgb(path, 1)[..., 0], (voxels[..., 1].T > 0) * 255.0)


def test_colour(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 2, 3), dtype=np.uint8)
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgba = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    alpha = np.full((4, 5, 2, 1), 255, dtype=np.uint8)
    alpha[1, 2] = 0
    flat = save(tmp_path / "rgb.nii.gz", colours.view(rgb)[..., 0], None)
    clear = save(tmp_path / "rgba.nii", np.concatenate([colours, alpha], axis=-1).view(rgba)[..., 0], None)
    expected = colours[:, :, 1].swapaxes(0, 1)
    np.testing.assert_array_equal(nifti.rgb(flat, 1), expected)
    np.testing.assert_array_equal(nifti.rgb(clear, 1), np.where(alpha[:, :, 1].swapaxes(0, 1) > 0, expected, 0))
    with pytest.raises(InputError, match=r"rgb.nii.gz is in colour, and a mask is not"):
        nifti.values(flat, 1)
    grey = save(tmp_path / "grey.nii", np.repeat(colours[..., :1], 3, axis=-1).view(rgb)[..., 0], None)
    np.testing.assert_array_equal(nifti.values(grey, 1)[0], expected[..., 0])


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((4, 5, 2), dtype=np.uint8), None)
    assert not nifti.values(path, 0)[0].any()
    save(tmp_path / "a.nii", np.ones((4, 5, 3), dtype=np.uint8), None)
    assert nifti.values(path, 0)[0].all()


def test_content_not_name_tells_compression(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", *reoriented("LPS"))
    (tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    np.testing.assert_array_equal(nifti.values(str(tmp_path / "a.nii"), 0)[0], upright("axial", 0))


def header_of(*dims: int, datatype: int = 4, magic: bytes = b"n+1\0") -> bytes:
    """A NIfTI-1 header written by hand, for what nibabel would not write."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(dims), *dims, *[1] * (7 - len(dims)))
    struct.pack_into("<2h", header, 70, datatype, {2: 8, 4: 16, 32: 64, 128: 24}.get(datatype, 8))
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = magic
    return bytes(header)


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


HOSTILE = {
    "empty": (b"", "is empty"),
    "text": (b"not a volume, a letter to DOE^JANE" * 20, "is no NIfTI volume"),
    "half a header": (header_of(4, 5, 2)[:200], "is no NIfTI volume"),
    "analyze": (header_of(4, 5, 2, magic=bytes(4)) + bytes(80), "no NIfTI volume in one file"),
    "pair": (header_of(4, 5, 2, magic=b"ni1\0") + bytes(80), "no NIfTI volume in one file"),
    "header only": (header_of(4, 5, 2), "is cut short"),
    "one byte short": (header_of(4, 5, 2) + bytes(79), "is cut short"),
    "huge": (header_of(15000, 10000, 1) + bytes(80), "is cut short"),
    "huge gz": (compressed(header_of(15000, 10000, 1)), "is cut short"),
    "short gz": (compressed(header_of(40, 50, 20) + bytes(800)), "is cut short"),
    "many pixels": (header_of(30000, 30000, 1), r"too many pixels for one picture \(30000 x 30000\)"),
    "many slices": (header_of(10000, 10000, 30000), "holds more than 4 GiB"),
    "negative": (header_of(4, -5, 2) + bytes(80), "names no size of its slices"),
    "zero": (header_of(4, 0, 2) + bytes(80), "names no size of its slices"),
    "one axis": (header_of(4) + bytes(80), "names no size of its slices"),
    "no axis": (header_of() + bytes(80), "is no NIfTI volume|damaged header"),
    "4-D": (header_of(4, 5, 2, 3) + bytes(240), "has 4 dimensions, not 3"),
    "5-D": (header_of(4, 5, 2, 1, 3) + bytes(240), "has 5 dimensions, not 3"),
    "complex": (header_of(4, 5, 2, datatype=32) + bytes(320), "stores no real numbers"),
    "bits": (header_of(4, 5, 2, datatype=1) + bytes(80), "damaged header|unknown way"),
    "unknown type": (header_of(4, 5, 2, datatype=77) + bytes(80), "damaged header|unknown way"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data, match = HOSTILE[case]
    path = tmp_path / ("a.nii.gz" if data[:2] == b"\x1f\x8b" else "a.nii")
    path.write_bytes(data)
    for read in (nifti.rgb, nifti.values):
        with pytest.raises(InputError, match=match) as caught:
            read(str(path))
        assert "DOE" not in str(caught.value)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError, match=match):
        nifti.size(str(path), whole=True)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [0.3, 0.9], ids=["in the voxels", "near the end"])
def test_truncated_gz_is_refused(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (30, 30, 4), dtype=np.int16)
    path = Path(save(tmp_path / "a.nii.gz", noise, np.eye(4)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert nifti.size(str(path)) == (30, 30)
    with pytest.raises(InputError, match=r"a.nii.gz cannot be read or decompressed"):
        nifti.size(str(path), whole=True)


@pytest.mark.parametrize("place", [-8, -4, 400], ids=["checksum", "length", "voxels"])
def test_a_changed_bit_of_a_gz_is_damage(tmp_path: Path, place: int) -> None:
    """RFC 1952: the last eight bytes are the CRC-32 and the length of what was compressed."""
    noise = np.random.default_rng(0).integers(0, 9, (30, 30, 4), dtype=np.int16)
    path = Path(save(tmp_path / "a.nii.gz", noise, None))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(512))  # filled up, as tapes are
    np.testing.assert_array_equal(nifti.values(str(path), 0)[0], noise[..., 0].T)
    data = bytearray(whole)
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a.nii.gz cannot be read or decompressed: copy it again"):
        nifti.values(str(path), 0)


def test_voxels_followed_by_more_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(compressed(header_of(4, 5, 2) + bytes(range(80)) + bytes(10**5)))
    assert nifti.values(str(path), 1)[0].ravel()[-1] == int.from_bytes(bytes((78, 79)), "little")


def test_a_bomb_is_refused_before_its_voxels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti_header, "_MAX_VOLUME_BYTES", 10**5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    (tmp_path / "a.nii.gz").write_bytes(compressed(header_of(100, 100, 10) + bytes(2 * 10**5)))
    with pytest.raises(InputError, match="holds more than"):
        nifti.rgb(str(tmp_path / "a.nii.gz"))
    (tmp_path / "b.nii").write_bytes(header_of(101, 100, 1) + bytes(20200))
    with pytest.raises(InputError, match="too many pixels"):
        nifti.size(str(tmp_path / "b.nii"))


def test_a_missing_file_and_a_missing_slice_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.nii is not a file"):
        nifti.num_frames(str(tmp_path / "gone.nii"))
    path = save(tmp_path / "a.nii", *reoriented("RAS"))
    with pytest.raises(InputError, match="has 3 slices, and none has the number 3 from 0"):
        nifti.rgb(path, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_an_affine_that_is_none_leaves_the_stored_order(tmp_path: Path, bad: float) -> None:
    path = Path(save(tmp_path / "a.nii", *reoriented("RAS")))
    data = bytearray(path.read_bytes())
    data[280:328] = struct.pack("<12f", *[bad] * 12)
    path.write_bytes(data)
    np.testing.assert_array_equal(nifti.values(str(path), 0)[0], body()[..., 0].T)


def test_numbers_that_overflow_do_not_warn(tmp_path: Path) -> None:
    voxels = np.array([-1.7e308, 0, 1.7e308] * 20).reshape(3, 5, 4)
    path = save(tmp_path / "a.nii", voxels, np.diag([1e30, 1e30, 1e30, 1]))
    assert np.isfinite(nifti.rgb(path, 1)).all()
    with np.errstate(over="ignore"):  # nibabel's own
        nibabel.save(nibabel.Nifti2Image(voxels, np.diag([1e200, 1e200, 1e200, 1])), tmp_path / "b.nii")
    assert nifti.size(str(tmp_path / "b.nii")) in ((3, 5), (5, 3))


def test_colours_along_the_fifth_axis_as_itk_stores_them(tmp_path: Path) -> None:
    """ITK writes a colour picture as a vector image: dim = 5, x, y, 1, 1, 3 (itkNiftiImageIO)."""
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = rgb.astype(np.float32)
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        volume = nibabel.Nifti1Image((rgb.swapaxes(0, 1)[:, :, None, None] * dtype(factor)), np.diag([-1, -1, 1, 1.0]))
        volume.header.set_intent("vector")
        nibabel.save(volume, tmp_path / "a.nii.gz")
        np.testing.assert_allclose(read_image(str(tmp_path / "a.nii.gz")), expected, atol=1e-3)
    with pytest.raises(InputError, match=r"a.nii.gz is in colour, and a mask is not"):
        read_label(str(tmp_path / "a.nii.gz"))
    rgba = np.concatenate([rgb, (np.arange(600).reshape(20, 30, 1) % 2 * 255).astype(np.uint8)], axis=2)
    stack = np.stack([rgba, rgba[::-1]], axis=2).swapaxes(0, 1)[:, :, :, None]  # x, y, z, 1, 4
    nibabel.save(nibabel.Nifti1Image(stack, np.diag([-1, -1, 1, 1.0])), tmp_path / "b.nii")
    assert count_frames(str(tmp_path / "b.nii")) == 2
    shown = expected * (rgba[..., 3:] > 0)
    np.testing.assert_allclose(read_image(str(tmp_path / "b.nii"), frame=1), shown[::-1], atol=1e-3)
    write_like(tmp_path / "c.nii", source=str(tmp_path / "b.nii"), slices=[rgba[..., 3] > 0, rgba[::-1, :, 3] > 0])
    assert nibabel.load(tmp_path / "c.nii").shape[:3] == (30, 20, 2)
    np.testing.assert_array_equal(
        nibabel.load(tmp_path / "c.nii").get_fdata().reshape(30, 20, 2)[..., 0].T, rgba[..., 3] > 0
    )


@pytest.mark.parametrize("kind", ["displacements", "floats", "two", "times"])
def test_a_fifth_axis_that_holds_no_colours_is_refused(tmp_path: Path, kind: str) -> None:
    shape = (20, 30, 1, 2 if kind == "times" else 1, 2 if kind == "two" else 3)
    volume = nibabel.Nifti1Image(np.zeros(shape, np.float32 if kind == "floats" else np.uint8), np.eye(4))
    if kind == "displacements":
        volume.header.set_intent("displacement vector")
    nibabel.save(volume, tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a.nii has 5 dimensions, not 3"):
        read_image(str(tmp_path / "a.nii"))
