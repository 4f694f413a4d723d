"""The journal of an inference run: records of finished cases on disk, from which a stopped run resumes.

`<output_dir>/cases.jsonl` begins with the model and the settings that made the results; each further line is a record
with its kind. A line cut short by a crash is ignored; any other line that no run can have written, such as one that
names a file outside of the folder, makes the journal damaged. Of several processes each but the first writes a part of
its own, `cases.1.jsonl` and so on; the first copies the parts into its journal at the end, or, if the run was stopped,
when the next run starts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from icmoe_monai.errors import REASONS, InputError
from icmoe_monai.inference.anonymity import NamedResults, read_anonymous
from icmoe_monai.inference.folders import OBJECTS
from icmoe_monai.inference.measures import PER_CLASS
from icmoe_monai.utils.distributed import by_first, is_first, num_processes, process_index
from icmoe_monai.utils.files import dump_json, inside, without_folders, write_atomically
from icmoe_monai.version import __version__
from icmoe_monai.weights.frozen import describe_model

CASE, VOLUME, SENT = "case", "volume", "sent"
JOURNAL, _PART = "cases.jsonl", "cases.{}.jsonl"
_IS_PART = re.compile(r"cases\.([1-9][0-9]*)\.jsonl")
_MADE_BY, _FORGOTTEN = "made_by", "forgotten"
_FILES = ("mask", "overlay", "controlled", "disagreement_map", "votes", "outlines")
_NUMBERS = (
    *("frame", "height", "width", "seconds"),
    *("predicted_dice", "review", "no_lesion_probability", "no_lesion"),  # some of them are True or False
    *("ood_score", "ood_percentile", "out_of_distribution"),
)
_FOLDERS = tuple(f"{folder}/" for folder in OBJECTS)  # of volumes, which a run may remove again


class Journal:
    """Keep the records of all runs into one folder by one model with one set of settings.

    Args:
        output_dir: Folder of the results.
        checkpoint: File of the network's weights; its SHA-256 is noted.
        pretrained: File or name of the encoder's weights; a file's SHA-256 is noted.
        pyramid: File of the image pyramid's weights, likewise.
        settings: Plain values of the settings that determine the masks; of an absolute path only the last part is kept.
        overwrite: Begin an empty journal, whatever the folder holds.
        anonymous: Whether the results tell no names. A folder with results that do is refused; with `overwrite` those
            of the earlier run are removed as the new journal begins.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(output_dir=folder)
        ...     _ = Path(folder, "a.png").write_bytes(b"")
        ...     cases = [{"name": "a.jpg"}, {"name": "b.jpg"}]
        ...     todo = journal.missing(cases)
        ...     journal.begin()
        ...     journal.add(CASE, {"name": "a.jpg", "status": "done", "mask": "a.png"})
        ...     len(todo), [case["name"] for case in Journal(output_dir=folder).missing(cases)]
        (2, ['b.jpg'])
    """

    def __init__(
        self,
        *,
        output_dir: str | Path,
        checkpoint: str | Path | None = None,
        pretrained: str | Path | None = None,
        pyramid: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        anonymous: bool | str = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.path = self.output_dir / (JOURNAL if is_first() else _PART.format(process_index()))
        self.checkpoint = checkpoint
        self.pretrained = pretrained
        self.pyramid = pyramid
        self.settings = without_folders(dict(settings or {}))
        self.overwrite = overwrite
        self.anonymous = bool(read_anonymous(anonymous))
        self.model: dict[str, Any] = {}
        self._header: dict[str, Any] | None = None
        self._named: NamedResults | None = None
        self._records: dict[str, dict[str, dict[str, Any]]] = {CASE: {}, VOLUME: {}, SENT: {}}

    def missing(self, cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the cases that have no result yet and are not known to fail.

        Args:
            cases: All cases, each with its `name`, and perhaps `stamp` and `failure`.

        Raises:
            InputError: If the folder holds results of another model or other settings, or named ones in an anonymous
                run.
        """
        self.model = {**describe_model(self.checkpoint, self.pretrained, self.pyramid), "icmoe_monai": __version__}
        made_by = json.loads(dump_json({"model": self.model, "settings": self.settings}))
        if not is_first():
            self._header = made_by  # first line of this process's part
        return self._find_missing(cases, made_by)

    @by_first
    def _find_missing(self, cases: Sequence[Mapping[str, Any]], made_by: dict[str, Any]) -> list[Mapping[str, Any]]:
        if self.anonymous:
            self._find_named()
        found = {} if self.overwrite else self._read()
        if found:
            self._take_over(found)
        if not found:
            self._header = made_by
        elif found != made_by:
            differing = [key for part in made_by for key in _differences(found.get(part, {}), made_by[part])]
            raise InputError(
                f"{self.output_dir} holds results that were made otherwise ({', '.join(differing)} differ): choose "
                "another output_dir, or redo them with --overwrite True."
            )
        return [case for case in cases if not case.get("failure") and not self.is_done(case)]

    def begin(self) -> None:
        """Prepare the file for records; a new journal replaces an old one only now, when the run has all that it needs.

        Raises:
            InputError: If the folder cannot be written.
        """
        if self._header is not None:
            if self._named is not None:  # before the journal that lists them goes
                self._named.remove()
            header = _line(_MADE_BY, self._header)
            write_atomically(self.path, lambda path: path.write_bytes(header))
            self._header = None
            if is_first():  # each other process, which may have begun before, replaces its own part
                self._drop_parts_from(num_processes())

    def add(self, kind: str, record: Mapping[str, Any]) -> None:
        """Add a record to the file, in place of an earlier record of the same kind and `name`.

        Args:
            kind: CASE, VOLUME or SENT.
            record: Plain values with a `name`.
        """
        self._append(kind, record)
        self._remember(kind, dict(record))

    def _append(self, kind: str, record: Mapping[str, Any]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(_line(kind, record))
        except OSError as error:
            os.truncate(self.path, size)
            raise InputError(f"Cannot write {self.path.name}: {error.strerror}. Free some space.") from error

    def _remember(self, kind: str, record: dict[str, Any]) -> None:
        self._records[kind][record["name"]] = record

    def forget(self, kind: str, name: str) -> None:
        """Remove a record from memory and from the file.

        Args:
            kind: CASE or VOLUME.
            name: The record's `name`.
        """
        self._append(_FORGOTTEN, {"kind": kind, "name": name})
        self._records[kind].pop(name, None)

    def records(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the records of a kind by name."""
        return self._records[kind]

    def is_done(self, case: Mapping[str, Any]) -> bool:
        """Tell whether a case has all its result files, made from the image file as it is now.

        Args:
            case: The case, with its `name` and perhaps its `stamp`.
        """
        record = self._records[CASE].get(case["name"], {})
        if record.get("status") != "done" or record.get("stamp") != case.get("stamp"):
            return False
        return all(os.path.isfile(self.output_dir / path) for path in files_of(CASE, record))

    def drop_parts(self) -> None:
        """Delete the other processes' parts, once this journal holds all their records."""
        self._drop_parts_from(1)

    def _drop_parts_from(self, index: int) -> None:
        for process, path in self._parts().items():
            if process >= index:
                path.unlink()

    def _parts(self) -> dict[int, Path]:
        """Return the parts by the index of their process; files with similar names are the user's and left out."""
        matches = [_IS_PART.fullmatch(path.name) for path in self.output_dir.glob(_PART.format("*"))]
        return {int(match[1]): self.output_dir / match[0] for match in matches if match}

    def _find_named(self) -> None:
        names: set[str] = set()
        volumes: set[str] = set()
        for path in (self.path, *self._parts().values()):
            earlier = Journal(output_dir=self.output_dir)
            earlier.path = path
            with suppress(InputError):  # of a damaged journal the files are not known, and stay
                earlier._read()
            names |= earlier.records(CASE).keys()
            volumes |= {file for record in earlier.records(VOLUME).values() for file in files_of(VOLUME, record)}
        self._named = NamedResults(self.output_dir)
        self._named.check(names=names, volumes=volumes, overwrite=self.overwrite)

    def _take_over(self, made_by: dict[str, Any]) -> None:
        """Copy the records of a stopped run's parts with this model and these settings, and delete all parts."""
        for _, path in sorted(self._parts().items()):
            part = Journal(output_dir=self.output_dir)
            part.path = path
            if part._read() == made_by:
                for record in part.records(CASE).values():
                    self.add(CASE, record)
        self.drop_parts()

    def _read(self) -> dict[str, Any]:
        made_by: dict[str, Any] = {}
        for kind, record in self._lines():
            if kind == _MADE_BY:
                made_by = record
            elif kind == _FORGOTTEN:
                self._records[record["kind"]].pop(record["name"], None)
            elif kind in self._records:
                self._remember(kind, record)
        return made_by

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # the last run was stopped while it wrote
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                content = json.loads(line)
                kind, record = content["kind"], content["record"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise self._damaged(number, "is no record") from None
            self._check(number, kind, record)
            yield kind, record

    def _check(self, number: int, kind: Any, record: Any) -> None:
        """Refuse a record that no run wrote, before anything trusts it."""
        fault = _fault_of(kind, record)
        if not fault and not all(inside(self.output_dir, path) for path in files_of(kind, record)):
            fault = f"names a file that does not lie in {self.output_dir}"
        if fault:
            raise self._damaged(number, fault)

    def _damaged(self, number: int, fault: str) -> InputError:
        return InputError(
            f"{self.path} is damaged (line {number} {fault}): redo the results with --overwrite True, or choose "
            "another output_dir."
        )


def _line(kind: str, record: Mapping[str, Any]) -> bytes:
    return dump_json({"kind": kind, "record": record}) + b"\n"


def files_of(kind: str, record: Mapping[str, Any]) -> list[Any]:
    """Return the paths of a record's files, relative to the folder of the results.

    Args:
        kind: What kind of record it is; but for CASE and VOLUME there are none.
        record: The record.
    """
    if kind == VOLUME:
        return [file["file"] for file in record["files"]]
    return [record[key] for key in _FILES if record.get(key)] if kind == CASE else []


def _fault_of(kind: Any, record: Any) -> str:
    """Return why no run can have written a record; empty if one can."""
    if not isinstance(kind, str) or not isinstance(record, dict):
        return "is no record"
    if kind == _MADE_BY:
        return "" if all(isinstance(part, dict) for part in record.values()) else "does not tell what made the results"
    if not isinstance(record.get("name"), str):
        return "names no case"
    sound = {
        CASE: (_is_case, "holds values that no case has"),
        VOLUME: (_is_volume, f"does not tell of a volume in {' or '.join(_FOLDERS)} and its cases"),
        SENT: (_is_sent, "does not tell of a file that was sent"),
        _FORGOTTEN: (lambda one: one.get("kind") in [CASE, VOLUME], "forgets nothing"),
    }
    is_sound, fault = sound.get(kind, (bool, ""))
    return "" if is_sound(record) else fault


def _is_volume(record: Mapping[str, Any]) -> bool:
    files = record.get("files")
    return all(map(_are_texts, (record.get("of"), record.get("remarks")))) and (
        isinstance(files, list)
        and record.get("reason_code") in (None, *REASONS)
        and all(isinstance(file, dict) and _are_texts(file.get("cases")) for file in files)
        and all(isinstance(file.get("file"), str) and file["file"].startswith(_FOLDERS) for file in files)
    )


def _is_sent(record: Mapping[str, Any]) -> bool:
    return (
        record.get("status") in ("done", "failed")
        and record.get("reason_code") in (None, *REASONS)
        and all(isinstance(record.get(key), str) for key in ("file", "sha256"))
        and isinstance(record.get("error"), (str, type(None)))
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_case(case: Mapping[str, Any]) -> bool:
    """Tell whether the values of a case's record are of the kinds that a report is made from."""
    reliability = case.get("reliability")
    by_name = reliability if isinstance(reliability, dict) else {"": reliability}
    spacing = case.get("spacing_mm")
    return (
        case.get("status") in ("done", "failed")
        and case.get("reason_code") in (None, *REASONS)
        and all(_is_number(case.get(key)) for key in _NUMBERS)
        and all(_is_number(value) for value in by_name.values())
        and all(_are_numbers(case.get(key)) for key in (*PER_CLASS, "spacing_mm"))
        and (spacing is None or len(spacing) == 2)
    )


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _are_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(_is_number(one) for one in value))


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
