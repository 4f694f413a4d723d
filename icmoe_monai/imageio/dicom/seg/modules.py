"""What depends on each other in a DICOM Segmentation's patient, trial, study and specimen.

By the tables of the modules, PS3.3 C.7.1.1 (Patient), C.7.1.3 and C.7.2.3 (Clinical Trial), C.7.2.2 (Patient Study)
and C.7.6.22 (Specimen): an attribute without a valid value is left out, or left empty where it has to be there (Type
2), and with it goes what may not stand without it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom import Dataset

from icmoe_monai.imageio.dicom.seg.takeover import MAY_BE_EMPTY

_TRIAL = (
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
    *("IssuerOfClinicalTrialProtocolID", "OtherClinicalTrialProtocolIDsSequence", "IssuerOfClinicalTrialSiteID"),
    *("IssuerOfClinicalTrialSubjectID", "IssuerOfClinicalTrialSubjectReadingID"),
    *("ClinicalTrialProtocolEthicsCommitteeName", "ClinicalTrialProtocolEthicsCommitteeApprovalNumber"),
)
_TIME_POINT = (
    *(
        "ClinicalTrialTimePointDescription",
        "ClinicalTrialTimePointTypeCodeSequence",
        "IssuerOfClinicalTrialTimePointID",
    ),
    *("LongitudinalTemporalOffsetFromEvent", "LongitudinalTemporalEventType", "ConsentForClinicalTrialUseSequence"),
)
_CALENDAR = ("PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar")
_SPECIMEN = (
    *("ContainerIdentifier", "SpecimenDescriptionSequence", "AlternateContainerIdentifierSequence"),
    *("ContainerDescription", "ContainerComponentSequence"),
    *("IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence"),
)
# Attributes, and what each of them needs beside it: at least one of each tuple, with a value.
_ONLY_WITH: tuple[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], ...] = (
    (("ClinicalTrialProtocolEthicsCommitteeApprovalNumber",), (("ClinicalTrialProtocolEthicsCommitteeName",),)),
    (
        _TRIAL,
        (
            *(("ClinicalTrialSponsorName",), ("ClinicalTrialProtocolID",)),
            ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
        ),
    ),
    (("LongitudinalTemporalOffsetFromEvent",), (("LongitudinalTemporalEventType",),)),
    (("LongitudinalTemporalEventType",), (("LongitudinalTemporalOffsetFromEvent",),)),
    (_CALENDAR, (("PatientAlternativeCalendar",),)),
    (("PatientAlternativeCalendar",), (_CALENDAR,)),
    (("ResponsiblePersonRole",), (("ResponsiblePerson",),)),
    (_SPECIMEN, (("ContainerIdentifier",), ("SpecimenDescriptionSequence",))),
)
# Where one of the first has a value, the others have to be there, if only empty (Types 2 and 2C).
_ASKS_FOR: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("PatientSpeciesDescription", "PatientSpeciesCodeSequence"),
        (
            *("PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence"),
            *("ResponsiblePerson", "ResponsibleOrganization", "PatientSexNeutered"),
        ),
    ),
    (_TRIAL, ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")),
    (_TIME_POINT, ("ClinicalTrialTimePointID",)),
    (_SPECIMEN, ("IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence")),
)
_METHODS_OF_REMOVAL = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")


def settle(segmentation: Dataset, taken: Dataset, emptied: frozenset[str]) -> list[str]:
    """Bring what was taken over into the form that the standard asks for.

    Args:
        segmentation: The object that took attributes over; changed in place.
        taken: What it took from.
        emptied: The keywords of what `take_over` emptied.

    Returns:
        The keywords of attributes that were left out or left empty, sorted.
    """
    left_out = {keyword for keyword in emptied if keyword in segmentation and segmentation[keyword].is_empty}
    empty = [element.keyword for element in taken if element.is_empty and element.keyword not in MAY_BE_EMPTY]
    _drop(segmentation, [keyword for keyword in empty if not _has_any(segmentation, [keyword])])
    for keywords, needs in _ONLY_WITH:
        if not all(_has_any(segmentation, alternatives) for alternatives in needs):
            left_out.update(_drop(segmentation, keywords))
    for keywords, others in _ASKS_FOR:
        if _has_any(segmentation, keywords):
            _add_empty(segmentation, others)
    if segmentation.get("PatientIdentityRemoved") == "YES" and not _has_any(segmentation, _METHODS_OF_REMOVAL):
        segmentation.DeidentificationMethod = "Not told in the source"
    return sorted(left_out)


def _has_any(dataset: Dataset, keywords: Iterable[str]) -> bool:
    return any(keyword in dataset and not dataset[keyword].is_empty for keyword in keywords)


def _drop(dataset: Dataset, keywords: Iterable[str]) -> list[str]:
    """Remove attributes, and return those that were there."""
    there = [keyword for keyword in keywords if keyword in dataset]
    for keyword in there:
        del dataset[keyword]
    return there


def _add_empty(dataset: Dataset, keywords: Iterable[str]) -> None:
    for keyword in keywords:
        if keyword not in dataset:
            setattr(dataset, keyword, [] if keyword.endswith("Sequence") else None)
