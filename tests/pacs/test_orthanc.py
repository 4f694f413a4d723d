"""The archive of the tests: it runs, and is gone after."""

from __future__ import annotations

from pathlib import Path

from dicom_sources import cine, save
from orthanc import needs_orthanc, running_orthanc


@needs_orthanc
def test_an_archive_runs_and_is_gone_after(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as archive:
        archive.add(save(tmp_path / "a.dcm", cine()))
        assert len(archive.ask("/instances")) == 1
    assert archive.process.returncode == 0
