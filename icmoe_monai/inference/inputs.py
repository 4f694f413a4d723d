"""The search for an inference run's images, which reads their headers only and ends before the network starts.

Nothing is left out silently. A file that is no image is named in `Inputs.left_out` with the reason; an image that
cannot be used is a case with a `failure`, which is reported and does not stop the others. Left out by rule are hidden
files, the output folder and, in a folder with the training layout (`images/` and `masks/`), all but `images/`; results
of other runs are named in `left_out`.

Each frame, slice or page of a file is a case, in the file's order; the slices of a DICOM series follow each
other by their position. A whole slide is one case, however many files it has.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from icmoe_monai.data.cases import MIN_SIDE
from icmoe_monai.data.demo import NO_IMAGES, is_demo, make_demo_set
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.dicom.dicomdir import read_dicomdir
from icmoe_monai.imageio.dicom.header import is_dicom
from icmoe_monai.imageio.dicom.identifiers import Identifiers, read_identifiers
from icmoe_monai.imageio.dicom.slides import read_slide_file
from icmoe_monai.imageio.image_file import NotAnImageError
from icmoe_monai.imageio.nifti.header import SUFFIXES as NIFTI_SUFFIXES
from icmoe_monai.imageio.read import LARGE_SUFFIXES, SUFFIXES, is_image_kind, open_image, split_suffix
from icmoe_monai.inference.anonymity import Renamer, read_anonymous
from icmoe_monai.inference.folders import FOLDERS
from icmoe_monai.inference.journal import JOURNAL
from icmoe_monai.utils.distributed import by_first
from icmoe_monai.utils.files import as_path

_NUM_NAMED = 5
_LISTS, _LONGEST_LIST = (".vms", ".vmu"), 1 << 20  # of Hamamatsu's pictures
_A_SLIDE = "{} is a whole slide, and those are segmented in strips: add --config inference_large.yaml (docs/slides.md)."
_NO_SLIDE = "{} is DICOM, but no whole slide: segment it without inference_large.yaml."
_MOST_FRAMES = 100_000  # of a file; a header of a few bytes can claim any number
_Rename = Callable[[str], str]
_logger = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """Images of an inference run, and the files left out of it.

    Attributes:
        cases: One item per image, of plain values, all with the same keys. `image` and `source`: the absolute path;
            `frame`: number of its frame, slice or page, from 0; `stamp`: size and time of the file, by which a changed
            file is recognised; `name`: POSIX path relative to the dataset, with "_frame0001" before the suffix where
            there are several frames, from which the results are named; `group`: key that the cases of one volume share
            (a DICOM series, a file of several frames), else ""; `failure`: why the image cannot be used, and
            `failure_code`: the same as one of `errors.REASONS`, else ""; with `trace` the fields of
            `imageio.dicom.identifiers.Identifiers`.
        left_out: `name` and `reason` of every file that is no image.
    """

    cases: list[dict[str, Any]]
    left_out: list[dict[str, str]]


class _File(NamedTuple):
    """A file found: its path, its name in reports, and, once its header was read, its frames and its series."""

    path: Path
    name: str
    num_frames: int = 1
    series: str = ""
    position: tuple[float, ...] = ()
    failure: str = ""
    failure_code: str = ""
    no_image: str = ""
    slide_pixels: int | None = None  # of a level of a DICOM whole slide, 0 of its label or the like; None: no slide
    further: tuple[Path, ...] = ()  # the other files of a slide


@by_first
def find_inputs(
    dataset_dir: str | None,
    *,
    output_dir: str,
    demo_dir: str | None = None,
    anonymous: bool | str = False,
    large: bool = False,
    trace: bool = False,
    failed: Sequence[Mapping[str, str]] | None = None,
) -> Inputs:
    """List the images of an inference run; of several processes the first searches, and all use its result.

    Args:
        dataset_dir: A folder, searched with all its subfolders, one image file, or a DICOMDIR; or demo: the test
            images of the demo set, which is made or mended if need be.
        output_dir: Folder of the results, which is not searched.
        demo_dir: Folder of the demo set; by default `<output_dir>/demo`.
        anonymous: Replace file names by salted hashes (HMAC-SHA256), as `read_anonymous` reads it. A text is the salt;
            True takes one from `<output_dir>/.salt`, which must not leave with the results.
        large: Take the kinds of files that `slides.images` reads, each as one case, and each DICOM whole slide as
            one. Only DICOM headers are read.
        trace: Read the UIDs of DICOM images, for the report.
        failed: Images that could not even be brought to the folder, each with its `name` in it, `failure`, a sentence,
            and `failure_code`. Where this is given, there may be no image at all.

    Returns:
        The cases, sorted by name and within a series by position, and the files left out.

    Raises:
        InputError: If there is no such folder or no image in it, the results would overwrite the input, `anonymous`
            is no safe setting, or an anonymous run is to tell UIDs.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a b.JPG"):
        ...         Image.new("RGB", (40, 30)).save(f"{folder}/{name}")
        ...     _ = Path(folder, "notes.txt").write_text("none")
        ...     found = find_inputs(folder, output_dir=f"{folder}/output")
        >>> [case["name"] for case in found.cases], [file["name"] for file in found.left_out]
        (['a b.JPG', 'b.png'], ['notes.txt'])
    """
    salt = read_anonymous(anonymous)
    if salt and trace:
        raise InputError("trace writes DICOM UIDs, by which a patient is found again, and this run is anonymous: leave "
                         "out --trace or --anonymous.")  # fmt: skip
    if dataset_dir is None or dataset_dir == "":
        raise InputError(NO_IMAGES)
    dataset_dir = as_path(dataset_dir, "dataset_dir")
    left_out: list[dict[str, str]] = []
    rename = Renamer(salt, Path(output_dir)) if salt else str
    if is_demo(dataset_dir):
        files = _demo_files(Path(demo_dir) if demo_dir is not None else Path(output_dir) / "demo")
    else:
        root = Path(os.path.abspath(dataset_dir))
        if not root.exists():
            raise InputError(f"dataset_dir {dataset_dir} does not exist: correct the path.")
        check_output_dir(root, Path(output_dir))
        files, left_out = _files_of(root, Path(output_dir), rename, large)
        files += [_not_there(root, one, rename) for one in failed or ()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(_look_at_slide if large else _look_at, _with_parts_told(files)))
    files = list(_one_for_each_slide(files))
    left_out += [{"name": file.name, "reason": file.no_image} for file in files if file.no_image]
    cases = _refuse_second_of_a_name([case for file in _in_order(files) for case in _cases_of(file, trace)])
    if not cases and failed is None:
        raise InputError(f"No images in {dataset_dir} or its subfolders: put files with {_kinds(large)} files there."
                         f"{_tell(left_out)}")  # fmt: skip
    if left_out:
        _logger.warning("%d files are left out, as they are no images.%s", len(left_out), _tell(left_out))
    return Inputs(cases, left_out)


def name_of_frame(name: str, frame: int) -> str:
    """Return the name of a frame, slice or page, from which its results are named.

    Args:
        name: Of the file, which has several.
        frame: Its number, from 0.

    Example:
        >>> name_of_frame("scan.nii.gz", 12)
        'scan_frame0013.nii.gz'
    """
    stem, suffix = split_suffix(name)
    return f"{stem}_frame{frame + 1:04d}{suffix}"


def _demo_files(folder: Path) -> list[_File]:
    folder = Path(os.path.abspath(folder))
    make_demo_set(str(folder))
    stems = set(json.loads((folder / "splits.json").read_text(encoding="utf-8"))["test"])
    _logger.info("These are computer-made phantoms, no patient data: the %d test images in %s.", len(stems), folder)
    paths = sorted((folder / "images").iterdir())
    return [_File(path, path.relative_to(folder).as_posix()) for path in paths if path.stem in stems]


def check_output_dir(root: Path, output_dir: Path) -> None:
    """Refuse folders where writing results would overwrite the input or a data set's labels.

    Args:
        root: Folder or file that is segmented.
        output_dir: Folder of the results.

    Raises:
        InputError: If `output_dir` is such a folder.
    """
    source, target = root.resolve(), output_dir.resolve()
    for name in FOLDERS:
        if source == target / name or target / name in source.parents:
            raise InputError(f"dataset_dir {root} lies in the results of output_dir: choose another output_dir.")
    if source == target:
        raise InputError(f"output_dir is dataset_dir itself ({root}): choose another, such as {root / 'output'}.")
    if (target / "images").is_dir() and (target / "masks").is_dir():
        raise InputError(f"output_dir {output_dir} holds a labelled data set, whose masks/ would be overwritten: "
                         "choose another output_dir.")  # fmt: skip


def _files_of(root: Path, output_dir: Path, rename: _Rename, large: bool) -> tuple[list[_File], list[dict[str, str]]]:
    if root.is_dir():
        return _search(root, output_dir, rename, large)
    if root.name.upper() == "DICOMDIR" and not large:
        paths = [Path(path) for path in read_dicomdir(str(root))]
        return [_found(path, root.parent, rename) for path in paths], []
    if not _may_be_image(root, large):
        raise InputError(f"{root} is no image of a kind that is read here ({_kinds(large)}): convert it.")
    return [_File(root, rename(root.name))], []


def _found(path: Path, root: Path, rename: _Rename) -> _File:
    name = rename(Path(os.path.relpath(path, root)).as_posix())
    if path.resolve().is_relative_to(root.resolve()):
        return _File(path, name)
    sentence = f"{name} is a link that leads out of dataset_dir: put the file itself there."
    return _File(path, name, failure=sentence, failure_code="leads_out")


def _not_there(root: Path, failed: Mapping[str, str], rename: _Rename) -> _File:
    name = rename(failed["name"])
    sentence = f"{name} could not be retrieved. {failed['failure']}"
    return _File(root / failed["name"], name, failure=sentence, failure_code=failed["failure_code"])


def _search(root: Path, output_dir: Path, rename: _Rename, large: bool) -> tuple[list[_File], list[dict[str, str]]]:
    searched = root
    if (root / "images").is_dir() and (root / "masks").is_dir():
        searched = root / "images"
        if _leads_out(searched, root):
            raise InputError(f"{searched} is a link that leads out of dataset_dir: put the folder itself there.")
        _logger.info("%s has the training layout: images/ is segmented, masks/ and the rest are not read.", root)
    files: list[_File] = []
    left_out: list[dict[str, str]] = []
    for path in _visible_files(searched, root, output_dir.resolve()):
        file = _found(path, root, rename)
        if path.is_dir() and not file.failure:
            left_out.append({"name": f"{file.name}/", "reason": "results of an inference run"})
        elif file.failure or _may_be_image(path, large):
            files.append(file)
        else:
            left_out.append({"name": file.name, "reason": "no image of a kind that is read here"})
    return files, left_out


def _may_be_image(path: Path, large: bool) -> bool:
    if large:
        return path.name.lower().endswith(LARGE_SUFFIXES) or is_dicom(str(path))
    return is_image_kind(str(path))


def _kinds(large: bool) -> str:
    return f"{', '.join(LARGE_SUFFIXES if large else SUFFIXES)} or DICOM"


def _visible_files(folder: Path, root: Path, output_dir: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise InputError(f"Cannot read the folder {error.filename}: {error.strerror}. Make it readable.") from error

    for parent, folders, files in os.walk(folder, onerror=fail):
        visible = [Path(parent, name) for name in sorted(folders) if not name.startswith(".")]
        # A link to a folder inside is not followed: its files are found at their own place.
        yield from (path for path in visible if _leads_out(path, root))
        visible = [path for path in visible if not _leads_out(path, root)]
        searched = [path for path in visible if path.resolve() != output_dir]
        yield from (path for path in searched if _holds_results(path))
        folders[:] = [path.name for path in searched if not _holds_results(path)]
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _holds_results(folder: Path) -> bool:
    return (folder / JOURNAL).is_file() and (folder / "report.json").is_file()


def _leads_out(path: Path, root: Path) -> bool:
    return path.is_symlink() and not path.resolve().is_relative_to(root.resolve())


def _look_at(file: _File) -> _File:
    """Add the frames, series and position that a file's header gives, or why the file cannot be used."""
    if file.failure or file.no_image:
        return file
    path = str(file.path)
    try:
        with open_image(path) as image:
            if image.is_whole_slide:
                return _as_slide(file)._replace(failure=_A_SLIDE.format(file.name), failure_code="whole_slide")
            file = file._replace(num_frames=image.num_frames, series=image.series, position=image.position)
            height, width = image.size
    except NotAnImageError as error:
        return file._replace(no_image=str(error).replace(path, file.name))
    except InputError as error:
        return file._replace(failure=str(error).replace(path, file.name), failure_code=error.code)
    if file.num_frames > _MOST_FRAMES:
        sentence = f"{file.name} claims {file.num_frames} frames, more than {_MOST_FRAMES}: split it."
        return file._replace(num_frames=1, failure=sentence, failure_code="too_many_frames")
    if min(height, width) >= MIN_SIDE:
        return file
    sentence = f"{file.name} has {width} x {height} pixels, fewer than a patch of {MIN_SIDE} x {MIN_SIDE}"
    sentence += ": take it out or give a larger version of it."
    return file._replace(num_frames=1, failure=sentence, failure_code="too_small")


def _look_at_slide(file: _File) -> _File:
    """Add what a DICOM header tells of the whole slide that a file is of, or why it cannot be used."""
    if file.failure or file.no_image or not is_dicom(str(file.path)):
        return file
    try:
        return _as_slide(file)
    except InputError as error:
        return file._replace(failure=str(error).replace(str(file.path), file.name), failure_code=error.code)


def _as_slide(file: _File) -> _File:
    slide = read_slide_file(str(file.path))
    if slide is None:
        return file._replace(no_image=_NO_SLIDE.format(file.name))
    return file._replace(series=slide.series, slide_pixels=slide.num_pixels)


def _one_for_each_slide(files: Sequence[_File]) -> Iterator[_File]:
    """Yield the files, but of each DICOM whole slide only that of its largest level; the others are its `further`."""
    slides: dict[tuple[str, str], list[_File]] = {}
    for file in files:
        if file.slide_pixels is None:
            yield file
        else:
            slides.setdefault(_stack_of(file), []).append(file)
    for levels in slides.values():
        first, *others = sorted(levels, key=lambda file: (-(file.slide_pixels or 0), file.name))
        yield first._replace(series="", further=tuple(other.path for other in others))


def _with_parts_told(files: Sequence[_File]) -> list[_File]:
    """Take the pictures of a slide in Hamamatsu's VMS format for no images; the slide's file lists them."""
    parts = {part: file.name for file in files if file.path.suffix.lower() in _LISTS for part in _listed(file.path)}
    return [
        file._replace(no_image=f"{file.name} is a part of {parts[file.path]}.") if file.path in parts else file
        for file in files
    ]


def _listed(path: Path) -> Iterator[Path]:
    with suppress(OSError), path.open("rb") as file:
        for line in file.read(_LONGEST_LIST).decode("utf-8", errors="replace").splitlines():
            if value := line.partition("=")[2].strip():
                yield path.parent / value


def _in_order(files: Sequence[_File]) -> list[_File]:
    """Sort files by name, but the slices of a series by position, at the place of the first of their names."""
    files = sorted((file for file in files if not file.no_image), key=lambda file: file.name)
    first: dict[tuple[str, str], str] = {}
    for file in files:
        first.setdefault(_stack_of(file), file.name)
    return sorted(files, key=lambda file: (first[_stack_of(file)], file.position if file.series else (), file.name))


def _stack_of(file: _File) -> tuple[str, str]:
    """Return the key that the slices of a stack share, folder and series; a file without a series is a stack alone."""
    return (str(file.path.parent), file.series) if file.series else (str(file.path), "")


def _cases_of(file: _File, trace: bool) -> Iterator[dict[str, Any]]:
    is_volume = file.path.name.lower().endswith(NIFTI_SUFFIXES)
    several = file.num_frames > 1
    stamp = _stamp((file.path, *file.further))
    leads_out = file.failure_code == "leads_out"  # such a file is not opened
    uids = (Identifiers() if leads_out else read_identifiers(str(file.path)))._asdict() if trace else {}
    for frame in range(file.num_frames):
        yield {
            "image": str(file.path),
            "source": str(file.path),
            "frame": frame,
            "stamp": stamp,
            "name": name_of_frame(file.name, frame) if several else file.name,
            "group": "\n".join(_stack_of(file)) if file.series or several or is_volume else "",
            "failure": file.failure,
            "failure_code": file.failure_code,
            **uids,
        }


def _stamp(paths: Sequence[Path]) -> str:
    """Return the size of files, all together, and the time of the latest."""
    try:
        found = [path.stat() for path in paths]
    except OSError:
        return ""
    return f"{sum(one.st_size for one in found)}-{max(one.st_mtime_ns for one in found)}"


def _refuse_second_of_a_name(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first_with: dict[str, str] = {}
    for case in cases:
        stem = split_suffix(case["name"])[0]
        if stem in first_with:
            first = first_with[stem]
            case["failure"] = f"{first} and {case['name']} would both write the mask {stem}: rename one of them."
            case["failure_code"] = "same_name"
        first_with.setdefault(stem, case["name"])
    return cases


def _tell(left_out: Sequence[dict[str, str]]) -> str:
    names = [file["name"] for file in left_out]
    rest = len(names) - _NUM_NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return f" Left out: {', '.join(names[:_NUM_NAMED])}{more}." if names else ""
