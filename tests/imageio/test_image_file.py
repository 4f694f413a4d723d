"""What holds for every kind of image file, however it is decoded."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import save as save_dicom
from PIL import Image

from icmoe_monai.errors import InputError
from icmoe_monai.imageio import image_file, read
from icmoe_monai.imageio.bmp import BmpFile
from icmoe_monai.imageio.dicom.pixels import DicomFile
from icmoe_monai.imageio.image_file import BoundedFile, ImageFile
from icmoe_monai.imageio.nifti import pixels as nifti
from icmoe_monai.imageio.nifti.pixels import NiftiFile
from icmoe_monai.imageio.pictures import PictureFile
from icmoe_monai.imageio.read import count_frames, open_image, read_image, read_label, read_size, split_suffix
from icmoe_monai.imageio.tiff.pixels import TiffFile
from icmoe_monai.inference.inputs import find_inputs
from icmoe_monai.transforms.load import LoadImage2Dd

HEIGHT, WIDTH = 24, 36


def frame_of(number: int) -> np.ndarray:
    """uint8 (H, W) of 0 and 255, 255 in other places for every number."""
    plane = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    plane[number : number + 5, 2 : 20 + number] = 255
    return plane


def stack(num_frames: int) -> np.ndarray:
    return np.stack([frame_of(number) for number in range(num_frames)])


def save_pages(path: Path, num_frames: int, **options: object) -> None:
    first, *others = (Image.fromarray(plane) for plane in stack(num_frames))
    first.save(path, save_all=num_frames > 1, append_images=others, **options)


def save_turned(path: Path, num_frames: int) -> None:
    """As a camera held upright does it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(frame_of(0)))).save(path, exif=exif)


def save_nifti(path: Path, num_frames: int) -> None:
    nibabel.save(nibabel.Nifti1Image(stack(num_frames).transpose(2, 1, 0), None), path)


def save_dicom_frames(path: Path, num_frames: int) -> None:
    frames = stack(num_frames)
    save_dicom(path, frames if num_frames > 1 else frames[0], WindowCenter=128, WindowWidth=256)


Save = Callable[[Path, int], None]
KINDS: dict[str, tuple[type[ImageFile], str, Save]] = {
    "png": (PictureFile, "a.png", save_pages),
    "turned png": (PictureFile, "a.png", save_turned),
    "jpeg": (PictureFile, "a.jpg", lambda path, num_frames: save_pages(path, num_frames, quality=100)),
    "bmp": (BmpFile, "a.bmp", save_pages),
    "tiff": (TiffFile, "a.tif", save_pages),
    "packed tiff": (
        TiffFile,
        "a.tif",
        lambda path, num_frames: save_pages(path, num_frames, compression="tiff_lzw"),
    ),
    "turned tiff": (TiffFile, "a.tif", lambda path, num_frames: save_turned(path, num_frames)),
    "nifti": (NiftiFile, "a.nii", save_nifti),
    "packed nifti": (NiftiFile, "a.NII.gz", save_nifti),
    "dicom": (DicomFile, "a.dcm", save_dicom_frames),
    "dicom without a suffix": (DicomFile, "1.2.840.1", save_dicom_frames),
    "dicom by another name": (DicomFile, "a.png", save_dicom_frames),
    "tiff by another name": (TiffFile, "a.jpg", lambda path, num_frames: save_pages(path, num_frames, format="TIFF")),
    "png by another name": (PictureFile, "a.tif", lambda path, num_frames: save_pages(path, 1, format="PNG")),
}
OF_SEVERAL_FRAMES = [name for name in KINDS if "turned" not in name and KINDS[name][0] not in (PictureFile, BmpFile)]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_stack = pytest.mark.parametrize("kind", OF_SEVERAL_FRAMES)


def make(folder: Path, kind: str, num_frames: int = 1) -> str:
    path = folder / KINDS[kind][1]
    KINDS[kind][2](path, num_frames)
    return str(path)


_watched: dict[str, int] = {}


def _count_open(event: str, args: tuple) -> None:
    if event == "open" and str(args[0]) in _watched:
        _watched[str(args[0])] += 1


sys.addaudithook(_count_open)  # it stays for the process, and costs a comparison where nothing is watched


@pytest.fixture
def opens_of() -> Iterator[Callable[..., int]]:
    """How often a call opens a file."""

    def count(path: str, call: Callable[[], object]) -> int:
        _watched[path] = 0
        try:
            call()
        finally:
            found = _watched.pop(path)
        return found

    yield count
    _watched.clear()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[BoundedFile]:
    """All files that are opened."""
    opened: list[BoundedFile] = []

    class Recorded(BoundedFile):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr(image_file, "BoundedFile", Recorded)
    return opened


@every_kind
def test_kind_frames_size_and_pixels_come_from_what_was_opened(tmp_path: Path, kind: str) -> None:
    with open_image(make(tmp_path, kind)) as image:
        assert type(image) is KINDS[kind][0]
        assert image.num_frames == 1
        assert image.size == (HEIGHT, WIDTH)
        found = image.rgb()
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.repeat(frame_of(0)[..., None], 3, axis=2), atol=12 * (kind == "jpeg"))


@every_kind
def test_values_are_those_stored_or_a_sentence(tmp_path: Path, kind: str) -> None:
    with open_image(make(tmp_path, kind)) as image:
        if KINDS[kind][0] is DicomFile:
            with pytest.raises(InputError, match="is a DICOM file, and masks are not read from those"):
                image.values()
            return
        values, lossless = image.values()
        assert lossless == (kind != "jpeg")  # by its content, not its name
        assert values.shape == (HEIGHT, WIDTH)
        assert ((values > 128) == (frame_of(0) > 0)).all()


@every_kind
def test_every_call_opens_the_file_once(tmp_path: Path, kind: str, opens_of: Callable[..., int]) -> None:
    path = make(tmp_path, kind)
    calls: list[Callable[[], object]] = [
        lambda: read_image(path),
        lambda: read_image(path, frame=0),
        lambda: read_size(path),
        lambda: read_size(path, whole=True),
        lambda: count_frames(path),
    ]
    if KINDS[kind][0] is not DicomFile:
        calls.append(lambda: read_label(path))
    assert [opens_of(path, call) for call in calls] == [1] * len(calls)


@every_kind
def test_a_run_opens_a_file_once_more_only_where_its_name_tells_nothing(
    tmp_path: Path, kind: str, opens_of: Callable[..., int]
) -> None:
    path = make(tmp_path, kind)
    times = opens_of(path, lambda: find_inputs(str(tmp_path), output_dir=str(tmp_path / "output")))
    assert times == (2 if kind == "dicom without a suffix" else 1)


@every_stack
def test_frames_may_be_asked_for_in_any_order_and_again(tmp_path: Path, kind: str) -> None:
    with open_image(make(tmp_path, kind, 4)) as image:
        for frame in (2, 0, 0, 3, 1, 2):
            np.testing.assert_allclose(image.rgb(frame)[..., 1], frame_of(frame), atol=1e-3)
            assert image.num_frames == 4
            assert image.size == (HEIGHT, WIDTH)


@every_kind
def test_pixels_may_be_asked_for_before_the_size_and_twice(tmp_path: Path, kind: str) -> None:
    with open_image(make(tmp_path, kind)) as image:
        first = image.rgb()
        assert image.size == first.shape[:2] == (HEIGHT, WIDTH)
        image.check_pixels()
        np.testing.assert_array_equal(image.rgb(), first)
        assert image.num_frames == 1


@every_stack
def test_several_frames_need_a_number(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, kind, 3)
    for call in (read_image, read_label, lambda path: read_size(path, whole=True)):
        with pytest.raises(InputError, match="holds 3 frames, slices or pages: save each as a file of its own"):
            call(path)
    with pytest.raises(InputError, match=r"cannot be decoded|none has the number 3|has no frame 3"):
        read_image(path, frame=3)


@every_kind
def test_the_file_is_closed_whatever_happens(tmp_path: Path, kind: str, files: list[BoundedFile]) -> None:
    path = make(tmp_path, kind)
    with open_image(path) as image:
        image.rgb()
        assert not files[-1].closed
    with pytest.raises(KeyError), open_image(path):
        raise KeyError
    Path(path).write_bytes(Path(path).read_bytes()[:40])
    with pytest.raises(InputError):
        read_image(path)
    assert len(files) == 3
    assert all(file.closed for file in files)


@every_kind
@pytest.mark.parametrize("fault", ["missing", "empty", "refused"])
def test_what_cannot_be_opened_is_named_alike(
    tmp_path: Path, kind: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / KINDS[kind][1]
    if fault != "missing":
        path.write_bytes(b"" if fault == "empty" else b"something")

    def refuse(path: str) -> BoundedFile:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_file, "BoundedFile", refuse)
    sentence = {
        "missing": "is not a file: correct the path",
        "empty": r"is empty \(0 bytes\): copy it again or remove it",
        "refused": r"cannot be opened \(Permission denied\): make it readable or remove it",
    }[fault]
    for call in (read_image, read_label, read_size, count_frames):
        with pytest.raises(InputError, match=f"^{path} {sentence}"):
            call(str(path))


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tif", "nii.gz"])
def test_damage_is_told_every_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "nii.gz":
        save_nifti(path, 1)
    else:
        save_pages(path, 1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    for _ in range(2):
        with pytest.raises(InputError):
            read_image(str(path))
    try:
        image = open_image(str(path))
    except InputError:
        return
    with image:
        for ask in (image.rgb, image.rgb, lambda: image.size if suffix == "png" else image.rgb(), image.values):
            with pytest.raises(InputError, match=r"a\..* cannot be (decoded|read)"):
                ask()


@pytest.mark.parametrize("suffix", ["jpg", "tif", "nii.gz"])
def test_size_and_frames_are_told_without_the_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (150, 200), dtype=np.uint8)
    if suffix == "nii.gz":
        nibabel.save(nibabel.Nifti1Image(noise.T, None), path)
    else:
        Image.fromarray(noise).save(path, **({"compression": "tiff_deflate"} if suffix == "tif" else {}))
    data = path.read_bytes()
    # a TIFF's directory may follow its pixels
    path.write_bytes(data[:2000] + bytes(3000) + data[5000:] if suffix == "tif" else data[:-5000])
    with open_image(str(path)) as image:
        assert image.num_frames == 1
        assert image.size == (150, 200)
        for ask in (image.rgb, image.values, image.check_pixels):
            with pytest.raises(InputError, match=r"a\..* cannot be (decoded|read)"):
                ask()


def test_a_volume_read_slice_by_slice_is_decompressed_once(tmp_path: Path) -> None:
    path = make(tmp_path, "packed nifti", 5)
    nifti._read_voxels.cache_clear()
    for frame in range(5):
        np.testing.assert_array_equal(read_image(path, frame=frame)[..., 0], frame_of(frame))
    assert nifti._read_voxels.cache_info().misses == 1
    assert nifti._read_voxels.cache_info().maxsize == 1


def test_several_threads_read_files_of_every_kind(tmp_path: Path) -> None:
    paths = {}
    for number, kind in enumerate(OF_SEVERAL_FRAMES):
        (tmp_path / str(number)).mkdir()
        paths[kind] = make(tmp_path / str(number), kind, 4)
    asked = [(path, frame) for frame in (0, 3, 1, 2) for path in paths.values()] * 3
    with ThreadPoolExecutor(8) as pool:
        read_at_once = list(pool.map(lambda pair: read_image(pair[0], frame=pair[1]), asked))
    for (_, frame), found in zip(asked, read_at_once, strict=True):
        np.testing.assert_allclose(found[..., 2], frame_of(frame), atol=1e-3)


def test_a_file_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(range(200)))
    tracemalloc.start()
    with BoundedFile(str(path)) as file:
        assert file.head() == bytes(range(132))
        assert file.read(2**40) == bytes(range(200))
        assert file.read(7) == b""
        file.seek(190)
        assert file.read() == bytes(range(190, 200))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


class TextFile(ImageFile):
    """A format of its own: words "H W", then H W numbers of 0..9."""

    suffixes = (".numbers",)

    def __init__(self, path: str, file: BoundedFile) -> None:
        super().__init__(path, file)
        height, width, *numbers = (int(word) for word in file.read().split())
        self._values = np.array(numbers).reshape(height, width)

    @property
    def num_frames(self) -> int:
        return 1

    @property
    def size(self) -> tuple[int, int]:
        return self._values.shape[0], self._values.shape[1]

    def rgb(self, frame: int = 0) -> np.ndarray:
        return np.repeat(self._values[..., None] * np.float32(28), 3, axis=2)

    def values(self, frame: int = 0) -> tuple[np.ndarray, bool]:
        return self._values, True


def test_a_new_format_is_one_class_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.Numbers"
    numbers = np.arange(20 * 30).reshape(20, 30) % 10
    path.write_text(" ".join(str(number) for number in (*numbers.shape, *numbers.ravel())))
    with pytest.raises(InputError, match="is no PNG, JPEG, TIFF, BMP or WebP image"):
        read_image(str(path))
    monkeypatch.setattr(read, "FORMATS", (TextFile, *read.FORMATS))
    np.testing.assert_array_equal(read_image(str(path)), np.repeat(numbers[..., None] * 28, 3, axis=2))
    np.testing.assert_array_equal(read_label(str(path), out_channels=10), numbers)
    assert read_size(str(path)) == read_size(str(path), whole=True) == (20, 30)
    assert LoadImage2Dd("image")({"image": str(path)})["image"].shape == (3, 20, 30)
    assert split_suffix("b/a.numbers") == ("b/a", ".numbers")
    (case,) = find_inputs(str(tmp_path), output_dir=str(tmp_path / "output")).cases
    assert (case["name"], case["failure"]) == ("a.Numbers", "")


def test_every_format_is_listed_once_and_its_suffixes_are_its_own() -> None:
    assert len(set(read.FORMATS)) == len(read.FORMATS)
    suffixes = [suffix for kind in read.FORMATS for suffix in kind.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert (*read.PICTURE_SUFFIXES, *NiftiFile.suffixes) == read.SUFFIXES  # in this order a message lists them
    for kind in read.FORMATS:
        for suffix in kind.suffixes:
            assert [one for one in read.FORMATS if one.recognises(f"a{suffix.upper()}", b"")] == [kind]


def test_a_run_and_a_reader_agree_on_a_file_of_two_kinds(tmp_path: Path) -> None:
    """A DICOM file that is named as a NIfTI volume: the name decides for both."""
    path = tmp_path / "a.nii"
    save_dicom_frames(path, 1)
    with pytest.raises(InputError, match=r"a.nii is no NIfTI volume"):
        read_image(str(path))
    (case,) = find_inputs(str(tmp_path), output_dir=str(tmp_path / "output")).cases
    assert case["failure"] == "a.nii is no NIfTI volume: convert it to .nii or .nii.gz or remove it."
