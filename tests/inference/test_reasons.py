"""Every failure tells a program why, by a code that is documented."""

from __future__ import annotations

import ast
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from dicom_files import save
from PIL import Image
from report_schema import VALIDATOR

from icmoe_monai import errors
from icmoe_monai.errors import REASONS, InputError, in_our_words
from icmoe_monai.imageio.read import open_image
from icmoe_monai.inference import InferenceReport, find_inputs
from icmoe_monai.inference.report import failed_record
from icmoe_monai.transforms import LoadImage2Dd

ROOT = Path(__file__).parents[2]
# What no image of a run raises: labels, images in memory, a DICOMDIR that ends the run, codes of a setting.
NO_CASES = ("masks.py", "memory.py", "dicomdir.py", "segments.py")
OF_MASKS = (
    "a mask is not",
    "masks are not read",
    "does not number objects",
    "one size",
    "white as zero",
    "slices or pa",
    "which is the mask",
)


def raised_in_imageio() -> list[tuple[str, ast.Call]]:
    files = [path for path in sorted((ROOT / "icmoe_monai" / "imageio").rglob("*.py")) if path.name not in NO_CASES]
    calls = [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text()))]
    return [
        (f"{path.name}:{node.lineno}", node)
        for path, node in calls
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError"
        and not any(words in ast.unparse(node) for words in OF_MASKS)
    ]  # fmt: skip


def test_every_error_of_an_image_has_a_code_that_a_user_can_act_on() -> None:
    calls = raised_in_imageio()
    assert len(calls) > 40
    codes = {place: [word.value for word in call.keywords if word.arg == "code"] for place, call in calls}
    assert not [place for place, code in codes.items() if not code]
    told = {code.value for (code,) in codes.values() if isinstance(code, ast.Constant)}
    assert told <= REASONS.keys() - {"other"}


def classes_of(kind: type[InputError]) -> list[type[InputError]]:
    return [one for child in kind.__subclasses__() for one in (child, *classes_of(child))]


def test_every_class_of_errors_has_a_known_code() -> None:
    codes = {kind.__name__: kind.code for kind in classes_of(InputError) if "imageio" in kind.__module__}
    assert set(codes.values()) <= REASONS.keys()
    assert codes["UnsupportedError"] == "unsupported"
    assert codes["NoSegmentationError"] == "no_object"


def test_a_code_goes_with_its_error_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("a.png is empty: replace it.", code="empty")))
    assert (str(error), error.code) == ("a.png is empty: replace it.", "empty")
    assert InputError("a").code == "other"
    with pytest.raises(KeyError):
        InputError("a", code="my own")
    with pytest.raises(InputError) as raised, in_our_words("a.png is damaged", "copy it again"):
        raise ValueError("Anna Miller")
    assert raised.value.code == "damaged"


def test_the_page_and_the_schema_tell_all_codes() -> None:
    page = (ROOT / "docs" / "inference.md").read_text()
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)).items() >= REASONS.items()
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    assert schema["properties"]["cases"]["items"]["properties"]["reason_code"]["enum"] == [None, *REASONS]


def put_files(folder: Path) -> dict[str, str]:
    """Write files that fail, each for a reason of its own, and return the codes by name."""
    pixels = np.random.default_rng(0).integers(0, 255, (48, 40), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:200])
    picture.resize((9, 9)).save(folder / "small.png")
    picture.save(folder / "twice.png")
    picture.save(folder / "twice.jpg")
    (folder / "nothing.jpg").touch()
    (folder / "words.png").write_text("no picture at all")
    (folder / "link.png").symlink_to(Path(__file__))
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(folder / "nan.tif")
    save(folder / "bare.dcm", None, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    save(folder / "half.dcm", pixels)
    (folder / "half.dcm").write_bytes((folder / "half.dcm").read_bytes()[:-400])
    return {
        **{"cut.png": "damaged", "small.png": "too_small", "twice.png": "same_name", "nothing.jpg": "empty"},
        **{"words.png": "unsupported", "link.png": "leads_out", "nan.tif": "no_values", "bare.dcm": "no_pixels"},
        "half.dcm": "damaged",
    }


def test_each_kind_of_failure_has_its_own_code(tmp_path: Path) -> None:
    meant = put_files(tmp_path)
    found = find_inputs(str(tmp_path), output_dir=str(tmp_path / "out"))
    load = LoadImage2Dd("image", keep_going=True)
    items = {case["name"]: load(case) for case in found.cases}
    assert {name: item["failure_code"] for name, item in items.items() if item["failure"]} == meant
    assert all(bool(item["failure"]) == bool(item["failure_code"]) for item in items.values())


def test_what_has_changed_since_it_was_found_has_a_code(tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    with open_image(str(tmp_path / "a.png")) as image, pytest.raises(InputError) as raised:
        image.rgb(3)
    assert raised.value.code == "no_such_frame"
    item = LoadImage2Dd("image", keep_going=True)({"image": str(tmp_path / "gone.png"), "name": "gone.png"})
    assert item["failure_code"] == "unreadable"


def test_no_reason_is_told_twice() -> None:
    assert len(set(errors.REASONS.values())) == len(REASONS)


def test_uids_are_told_with_trace_only_also_of_files_that_fail(tmp_path: Path) -> None:
    uids = {"StudyInstanceUID": "1.2.30", "SeriesInstanceUID": "1.2.31", "SOPInstanceUID": "1.2.32"}
    ct = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", **uids}
    save(tmp_path / "bare.dcm", None, **ct)
    save(tmp_path / "sound.dcm", np.arange(1600, dtype=np.uint16).reshape(40, 40), **ct)
    save(tmp_path / "odd.dcm", None, **{**ct, "StudyInstanceUID": "1.2.3456"})
    (tmp_path / "odd.dcm").write_bytes((tmp_path / "odd.dcm").read_bytes().replace(b"1.2.3456", b"Doe^Jane"))
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    told = ("study_uid", "series_uid", "sop_uid")
    found = find_inputs(str(tmp_path), output_dir=str(tmp_path / "out"), trace=True).cases
    assert {case["name"]: tuple(case[key] for key in told) for case in found} == {
        **dict.fromkeys(("bare.dcm", "sound.dcm"), ("1.2.30", "1.2.31", "1.2.32")),
        **{"odd.dcm": ("", "1.2.31", "1.2.32"), "a.png": ("", "", "")},
    }
    report = InferenceReport(output_dir=tmp_path / "out")
    records = [report.record(case) for case in found]
    records[0] = failed_record(records[0], "The name is too long.", "not_written")
    content = report.content(records)
    VALIDATOR.validate(content)
    assert [case["sop_uid"] for case in content["cases"]] == [None, "1.2.32", "1.2.32", "1.2.32"]
    untraced = find_inputs(str(tmp_path), output_dir=str(tmp_path / "out")).cases
    assert not any(told[0] in {**case, **report.record(case)} for case in untraced)


def test_an_anonymous_run_tells_no_uids(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trace writes DICOM UIDs, .* and this run is anonymous: leave out"):
        find_inputs(str(tmp_path), output_dir=str(tmp_path / "out"), trace=True, anonymous=True)
