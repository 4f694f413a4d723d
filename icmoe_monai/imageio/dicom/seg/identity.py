"""What identifies a DICOM Segmentation: UIDs that are a function of its source and of what made it.

So the same command again writes the same objects, which a PACS knows already, and another model or setting others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from pydicom.uid import generate_uid

_FIRST_SERIES_NUMBER, _NUM_SERIES_NUMBERS = 1000, 9000  # behind those of the study


class Series(NamedTuple):
    """The series of one run's objects of one kind: one for each study and Frame of Reference.

    Attributes:
        made_by: What tells this run's objects from those of another model or settings, such as a digest of both.
        description: What people read.
    """

    made_by: str
    description: str

    def of_kind(self, kind: str, description: str, *, made_by: str = "") -> Series:
        """Return the series of objects of another kind that go with these.

        Args:
            kind: What they are.
            description: What people read.
            made_by: What else tells this run's from those of another.
        """
        return Series(f"{kind}\n{self.made_by}\n{made_by}", description)

    def uid(self, study: str, frame_of_reference: str) -> str:
        """Return the series' UID.

        A study has several where its images lie in several spaces, since a series has one Frame of Reference (PS3.3
        A.1.2.3).

        Args:
            study: The study's UID.
            frame_of_reference: The UID of the objects' Frame of Reference; "" of objects without one.
        """
        return uid_of("Series", study, frame_of_reference, self.made_by)

    def number(self, study: str, frame_of_reference: str) -> int:
        """Return the series' number, which another model's series in the study hardly shares.

        Args:
            study: The study's UID.
            frame_of_reference: The UID of the objects' Frame of Reference.
        """
        uid = self.uid(study, frame_of_reference)
        return _FIRST_SERIES_NUMBER + int(uid.rpartition(".")[2]) % _NUM_SERIES_NUMBERS

    def instance_uid(self, references: Sequence[tuple[str, str, int | None]], copy: int = 0) -> str:
        """Return an object's UID.

        Args:
            references: SOP class, SOP instance and frame of what it refers to.
            copy: Which of several files with the same identifiers it is of, from 0.
        """
        return uid_of("Instance", references, self.made_by, copy)


def uid_of(*parts: object) -> str:
    """Return a UID that is a function of its arguments.

    Args:
        parts: Plain values.

    Example:
        >>> uid_of("Series", "1.2.3") == uid_of("Series", "1.2.3") != uid_of("Series", "1.2.30")
        True
    """
    return str(generate_uid(entropy_srcs=[json.dumps(parts)]))
