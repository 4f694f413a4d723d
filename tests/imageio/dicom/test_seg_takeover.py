"""What a DICOM Segmentation takes over: the malformed is mended or left out and named, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import pydicom
import pytest
from dicom_seg import errors_of, needs_dciodvfy, write_all
from dicom_sources import RETIRED_US, SC, ct, item, save, source
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

MAY_NOT_BE = {  # values that PS3.5 6.2, or an enumeration of PS3.3, forbids
    "birth date of zeros": ("PatientBirthDate", b"00000000"),
    "hashed birth date": ("PatientBirthDate", b"a3f9c2e1"),
    "cut birth date": ("PatientBirthDate", b"1990/01/"),
    "day that never was": ("StudyDate", b"20230229"),
    "time in words": ("StudyTime", b"noon"),
    "hour 25": ("StudyTime", b"250000"),
    "Chinese sex": ("PatientSex", b"\xc4\xd0"),
    "sex in words": ("PatientSex", b"N/A "),
    "two sexes": ("PatientSex", b"M\\F "),
    "age without a unit": ("PatientAge", b"34"),
    "weight with a comma": ("PatientWeight", b"72,5"),
    "weight that is no number": ("PatientWeight", b"nan "),
    "unknown code for a pregnancy": ("PregnancyStatus", b"\x09\x00"),
    "unknown word for smoking": ("SmokingStatus", b"MAYBE "),
    "unknown word for neutered": ("PatientSexNeutered", b"NO"),
    "unknown kind of control": ("QualityControlSubject", b"MAYBE "),
    "name that is no UTF-8": ("PatientName", b"\xff\xfeDoe"),
    "name of a line and more": ("PatientName", b"Doe\nJane"),
    "number that is too long": ("AccessionNumber", b"1" * 20),
    "description that is too long": ("StudyDescription", b"d" * 70),
    "study that is too long": ("StudyID", b"s" * 18),
}


def with_raw(image: Dataset, keyword: str, value: bytes) -> Dataset:
    """The image with an attribute of these bytes, as a scanner may have written them."""
    tag = Tag(tag_for_keyword(keyword))
    if keyword != "SpecificCharacterSet":
        image.SpecificCharacterSet = "ISO_IR 192"
    image._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    return image


def written(tmp_path: Path, image: Dataset) -> tuple[Dataset, list[str]]:
    """The object of an image, and what it was told to lack; it is read back by highdicom and by pydicom alone."""
    ((segmentation, left_out),) = write_all(tmp_path, [(save(tmp_path / "a.dcm", image), 0)])
    assert segmentation.NumberOfFrames == 2
    return pydicom.dcmread(tmp_path / "seg0.dcm"), left_out


def code(value: str, meaning: str) -> list[Dataset]:
    return [item(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)]


@pytest.mark.parametrize("kind", MAY_NOT_BE)
def test_a_malformed_attribute_is_left_out_and_named(tmp_path: Path, kind: str) -> None:
    keyword, value = MAY_NOT_BE[kind]
    segmentation, left_out = written(tmp_path, with_raw(ct(1, 0), keyword, value))
    assert left_out == [keyword]
    assert not segmentation.get(keyword)
    assert segmentation.PatientID == "ID-4711"


@needs_dciodvfy
def test_dciodvfy_finds_no_error_where_attributes_were_malformed(tmp_path: Path) -> None:
    image = ct(1, 0)
    for keyword, value in MAY_NOT_BE.values():
        with_raw(image, keyword, value)
    _, left_out = written(tmp_path, image)
    assert left_out == sorted({keyword for keyword, _ in MAY_NOT_BE.values()})
    assert errors_of(tmp_path / "seg0.dcm") == []


@pytest.mark.parametrize(
    ("keyword", "value", "meant"),
    [
        ("StudyDate", b"1994.11.05", "19941105"),
        ("StudyDate", b"1994-11-05", "19941105"),
        ("StudyTime", b"11:20:00", "112000"),
        ("StudyTime", b"11:11:11.111", "111111.111"),
        ("StudyTime", b"11:20 ", "1120"),
        ("PatientSex", b"f ", "F"),
        ("PatientWeight", b"72.5", 72.5),
    ],
)
def test_another_form_of_a_value_is_mended(tmp_path: Path, keyword: str, value: bytes, meant: Any) -> None:
    segmentation, left_out = written(tmp_path, with_raw(ct(1, 0), keyword, value))
    assert (segmentation[keyword].value, left_out) == (meant, [])


def test_what_is_not_taken_over_is_not_told(tmp_path: Path) -> None:
    assert written(tmp_path, with_raw(ct(1, 0), "SeriesNumber", b"1.5x"))[1] == []
    assert written(tmp_path, with_raw(ct(1, 0), "ContentDate", b"00000000"))[1] == []


def test_a_sequence_goes_with_what_is_malformed_in_it(tmp_path: Path) -> None:
    sound = item(PatientID="7", TypeOfPatientID="TEXT")
    image = ct(1, 0, OtherPatientIDsSequence=[sound, item(PatientID="8", TypeOfPatientID="NUMBER")])
    segmentation, left_out = written(tmp_path, image)
    assert ("OtherPatientIDsSequence" in segmentation, left_out) == (False, ["OtherPatientIDsSequence"])
    segmentation, left_out = written(tmp_path, ct(1, 0, OtherPatientIDsSequence=[sound]))
    assert (segmentation.OtherPatientIDsSequence[0].PatientID, left_out) == ("7", [])


@pytest.mark.parametrize(
    ("charset", "name", "read"),
    [
        ("ISO 2022 IR 100", "Müller^Zoë".encode("latin-1"), "Müller^Zoë"),  # code extensions, but of one set
        ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
        ("ISO_IR 100", "Müller^Zoë".encode("latin-1"), "Müller^Zoë"),
        ("ISO-IR 100", "Müller^Zoë".encode("latin-1"), "Müller^Zoë"),  # misspelt
    ],
)
def test_texts_of_every_character_set_are_written_in_utf8(tmp_path: Path, charset: str, name: bytes, read: str) -> None:
    image = with_raw(ct(1, 0), "PatientName", name)
    with_charset = with_raw(image, "SpecificCharacterSet", charset.encode())
    segmentation, left_out = written(tmp_path, with_charset)
    assert (str(segmentation.PatientName), segmentation.SpecificCharacterSet) == (read, "ISO_IR 192")
    assert left_out == []


@needs_dciodvfy
@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientSpeciesDescription": "Canine"},
        {"PatientSpeciesCodeSequence": code("448771007", "Domestic dog"), "PatientSexNeutered": "maybe"},
        {"PatientSpeciesDescription": "Canine", "ResponsiblePerson": "Doe^Jane", "ResponsiblePersonRole": "OWNER"},
        {"ResponsiblePersonRole": "OWNER"},
        {"PatientIdentityRemoved": "YES"},
        {"PatientIdentityRemoved": "YES", "DeidentificationMethod": ""},
        {"PatientBirthDateInAlternativeCalendar": "x"},
        {"PatientAlternativeCalendar": "HEBREW"},
        {"ClinicalTrialProtocolID": "x"},
        {"ClinicalTrialSponsorName": "x", "ClinicalTrialProtocolID": "y", "ClinicalTrialSubjectID": "1"},
        {"ClinicalTrialSponsorName": "x", "ClinicalTrialProtocolID": "y", "ClinicalTrialSubjectID": "s" * 70},
        {"ClinicalTrialTimePointDescription": "later"},
        {"LongitudinalTemporalOffsetFromEvent": 1.5},
        {"ContainerIdentifier": "x"},
        {"PatientSexNeutered": "", "PatientWeight": "", "SmokingStatus": ""},
    ],
    ids=lambda attributes: "+".join(attributes),
)
def test_what_depends_on_each_other_is_made_whole_or_left_out(tmp_path: Path, attributes: dict[str, Any]) -> None:
    segmentation, _ = written(tmp_path, item(ct(1, 0), **attributes))
    assert errors_of(tmp_path / "seg0.dcm") == []
    assert not any(element.is_empty for element in segmentation if element.keyword.endswith(("Role", "Weight")))


def test_a_trial_with_all_that_it_needs_is_kept(tmp_path: Path) -> None:
    trial = {"ClinicalTrialSponsorName": "x", "ClinicalTrialProtocolID": "y", "ClinicalTrialSubjectID": "1"}
    segmentation, left_out = written(tmp_path, ct(1, 0, **trial))
    assert {keyword: segmentation[keyword].value for keyword in trial} == trial
    assert left_out == []


@pytest.mark.parametrize("kind", [RETIRED_US, "1.2.826.0.1.3680043.8.498.77"], ids=["retired", "private"])
def test_a_class_that_the_library_does_not_know_is_referred_to(tmp_path: Path, kind: str) -> None:
    image = source(kind, Modality="US")
    segmentation, left_out = written(tmp_path, image)
    reference = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (kind, image.SOPInstanceUID)
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        (of,) = group.DerivationImageSequence[0].SourceImageSequence
        assert (of.ReferencedSOPClassUID, of.ReferencedSOPInstanceUID) == (kind, image.SOPInstanceUID)
        assert "ReferencedFrameNumber" not in of
    assert left_out == []


def test_identifiers_that_only_the_file_s_own_header_has_are_taken_from_there(tmp_path: Path) -> None:
    image = source(SC)
    uid = image.SOPInstanceUID
    path = save(tmp_path / "a.dcm", image)
    stored = pydicom.dcmread(path)
    assert stored.file_meta.MediaStorageSOPInstanceUID == uid
    del stored.SOPInstanceUID
    stored.save_as(path)
    ((segmentation, _),) = write_all(tmp_path, [(path, 0)])
    assert isinstance(segmentation, highdicom.seg.Segmentation)
    assert segmentation.get_source_image_uids() == [(image.StudyInstanceUID, image.SeriesInstanceUID, uid)]
