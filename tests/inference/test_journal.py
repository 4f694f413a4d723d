from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import volume

from icmoe_monai.errors import InputError
from icmoe_monai.inference.journal import CASE, VOLUME, Journal

CASES = [{"name": "a.jpg"}, {"name": "b.jpg"}, {"name": "c.jpg"}]


def done(folder: Path, name: str) -> dict:
    (folder / f"{name}.png").touch()
    return {"name": name, "status": "done", "mask": f"{name}.png"}


def missing(folder: Path, **arguments: object) -> list[str]:
    journal = Journal(output_dir=folder, **arguments)
    found = [case["name"] for case in journal.missing(CASES)]
    journal.begin()
    return found


def test_what_is_done_is_not_missing_but_failures_and_lost_masks_are(tmp_path: Path) -> None:
    journal = Journal(output_dir=tmp_path)
    assert len(journal.missing(CASES)) == 3
    journal.begin()
    journal.add(CASE, done(tmp_path, "a.jpg"))
    journal.add(CASE, done(tmp_path, "b.jpg"))
    journal.add(CASE, {"name": "c.jpg", "status": "failed", "mask": None})
    journal.add(VOLUME, {"name": "a.jpg", "of": ["a.jpg"], "files": [], "remarks": ["told"]})
    again = Journal(output_dir=tmp_path)
    assert [case["name"] for case in again.missing(CASES)] == ["c.jpg"]
    assert again.records(VOLUME)["a.jpg"]["remarks"] == ["told"]
    (tmp_path / "a.jpg.png").unlink()
    assert missing(tmp_path) == ["a.jpg", "c.jpg"]
    assert missing(tmp_path, overwrite=True) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_line_cut_short_is_passed_over_and_the_next_stands_by_itself(tmp_path: Path) -> None:
    journal = Journal(output_dir=tmp_path)
    journal.missing(CASES)
    journal.begin()
    journal.add(CASE, done(tmp_path, "a.jpg"))
    with journal.path.open("ab") as file:
        file.write(b'{"kind": "case", "record": {"na')
    again = Journal(output_dir=tmp_path)
    assert [case["name"] for case in again.missing(CASES)] == ["b.jpg", "c.jpg"]
    again.add(CASE, done(tmp_path, "b.jpg"))
    assert missing(tmp_path) == ["c.jpg"]


def test_results_of_another_model_or_other_settings_are_not_mixed(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"one")
    settings = {"voting": "mean", "pretrained": "/home/me/trunk.pt"}
    assert missing(tmp_path / "o", checkpoint=checkpoint, settings=settings) == ["a.jpg", "b.jpg", "c.jpg"]
    assert str(tmp_path) not in (tmp_path / "o" / "cases.jsonl").read_text()
    assert "/home/me" not in (tmp_path / "o" / "cases.jsonl").read_text()
    with pytest.raises(InputError, match=r"made otherwise \(voting differ\): choose another output_dir, or redo"):
        missing(tmp_path / "o", checkpoint=checkpoint, settings={**settings, "voting": "adaptive"})
    checkpoint.write_bytes(b"two")
    with pytest.raises(InputError, match=r"made otherwise \(sha256 differ\)"):
        missing(tmp_path / "o", checkpoint=checkpoint, settings=settings)
    assert len(missing(tmp_path / "o", checkpoint=checkpoint, settings=settings, overwrite=True)) == 3


def test_changed_file_is_missing_and_a_known_failure_is_not(tmp_path: Path) -> None:
    journal = Journal(output_dir=tmp_path)
    cases = [{"name": "a.jpg", "stamp": "1-1"}, {"name": "b.jpg", "stamp": "1-1", "failure": "b.jpg is empty."}]
    assert [case["name"] for case in journal.missing(cases)] == ["a.jpg"]
    journal.begin()
    journal.add(CASE, {**done(tmp_path, "a.jpg"), "stamp": "1-1"})
    assert Journal(output_dir=tmp_path).missing(cases) == []
    changed = [{"name": "a.jpg", "stamp": "2-1"}]
    assert Journal(output_dir=tmp_path).missing(changed) == changed


def test_overwriting_keeps_the_old_records_until_the_run_begins(tmp_path: Path) -> None:
    journal = Journal(output_dir=tmp_path)
    journal.missing(CASES)
    journal.begin()
    journal.add(CASE, done(tmp_path, "a.jpg"))
    Journal(output_dir=tmp_path, overwrite=True).missing(CASES)  # and then its checkpoint cannot be read
    assert missing(tmp_path) == ["b.jpg", "c.jpg"]


def test_a_record_replaces_the_one_before_and_what_is_forgotten_stays_so(tmp_path: Path) -> None:
    journal = Journal(output_dir=tmp_path)
    journal.missing(CASES)
    journal.begin()
    journal.add(VOLUME, volume("a"))
    journal.add(VOLUME, volume("a", "volumes/a.nii"))
    journal.add(VOLUME, volume("b", "volumes/b.nii"))
    journal.forget(VOLUME, "b")
    for one in (journal, Journal(output_dir=tmp_path)):
        one.missing(CASES)
        assert one.records(VOLUME) == {"a": volume("a", "volumes/a.nii")}


def of_process(index: int, folder: Path, monkeypatch: pytest.MonkeyPatch, **arguments: object) -> Journal:
    """Return the journal of one of two processes, ready to note; the missing cases come from the first."""
    with monkeypatch.context() as patch:
        patch.setattr("icmoe_monai.utils.distributed.process_index", lambda: index)
        patch.setattr("icmoe_monai.inference.journal.process_index", lambda: index)
        journal = Journal(output_dir=folder, **arguments)
        if index == 0:
            journal.missing(CASES)
        else:
            patch.setattr(Journal, "_find_missing", lambda self, cases, made_by: [])
            journal.missing(CASES)
        journal.begin()
    return journal


def test_the_part_of_another_process_is_taken_over_by_the_next_run(tmp_path: Path, monkeypatch) -> None:
    first, second = (of_process(index, tmp_path, monkeypatch) for index in range(2))
    first.add(CASE, done(tmp_path, "a.jpg"))
    second.add(CASE, done(tmp_path, "b.jpg"))
    with second.path.open("ab") as file:  # and then it was stopped
        file.write(b'{"kind": "case", "record": {"na')
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"cases.jsonl", "cases.1.jsonl"}
    assert missing(tmp_path) == ["c.jpg"]
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"cases.jsonl"}
    assert missing(tmp_path) == ["c.jpg"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_part_of_other_settings_is_not_taken_over(overwrite: bool, tmp_path: Path, monkeypatch) -> None:
    second = of_process(1, tmp_path, monkeypatch, settings={"voting": "mean"})
    second.add(CASE, done(tmp_path, "b.jpg"))
    of_process(0, tmp_path, monkeypatch, overwrite=overwrite)
    assert missing(tmp_path) == ["a.jpg", "b.jpg", "c.jpg"]
    assert not second.path.exists()


@pytest.mark.parametrize("name", ["cases.backup.jsonl", "cases.1.old.jsonl", "cases..jsonl"])
def test_a_users_copy_of_the_journal_is_no_part_of_it(name: str, tmp_path: Path, monkeypatch) -> None:
    first = of_process(0, tmp_path, monkeypatch)
    first.add(CASE, done(tmp_path, "a.jpg"))
    copy = tmp_path / name
    copy.write_bytes(first.path.read_bytes())
    first.add(CASE, {**done(tmp_path, "a.jpg"), "status": "failed"})
    first.drop_parts()
    assert missing(tmp_path) == ["a.jpg", "b.jpg", "c.jpg"]  # as the journal says by now
    missing(tmp_path, overwrite=True)
    assert copy.is_file()


def test_overwriting_keeps_the_parts_until_the_run_begins(tmp_path: Path, monkeypatch) -> None:
    first, second = (of_process(index, tmp_path, monkeypatch) for index in range(2))
    second.add(CASE, done(tmp_path, "b.jpg"))
    Journal(output_dir=tmp_path, overwrite=True).missing(CASES)  # and then its checkpoint cannot be read
    assert missing(tmp_path) == ["a.jpg", "c.jpg"]
    assert [path.name for path in tmp_path.glob("*.jsonl")] == [first.path.name]


def test_beginning_anew_drops_the_parts_of_processes_that_are_no_more(tmp_path: Path, monkeypatch) -> None:
    for index in range(4):
        of_process(index, tmp_path, monkeypatch)
    monkeypatch.setattr(
        "icmoe_monai.inference.journal.num_processes", lambda: 2
    )  # the second may have begun before the first
    of_process(0, tmp_path, monkeypatch, overwrite=True)
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"cases.jsonl", "cases.1.jsonl"}


def test_damaged_journal_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text("not JSON\n")
    with pytest.raises(
        InputError, match=r"cases\.jsonl is damaged \(line 1 is no record\): redo the results with --overwrite"
    ):
        missing(tmp_path)


OUTSIDE = {
    "absolute": "/etc/passwd",
    "up": "../private.png",
    "up from inside": "volumes/../../private.png",
    "up twice": "masks/../../../private.png",
    "windows drive": "C:\\private.png",
    "windows up": "..\\private.png",
    "windows share": "\\\\host\\share\\private.png",
    "a link": "link/private.png",
    "a linked file": "linked.png",
    "a loop of links": "loop/private.png",
    "the folder": ".",
    "nothing": "",
    "a nul": "a\0.png",
    "a number": 7,
    "a list": ["a.png"],
    "up from volumes": "volumes/../../private.png",
    "a link in volumes": "volumes/link/private.png",
    "none": None,
}


@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE.keys())
@pytest.mark.parametrize("kind", ["volume", "mask", "overlay", "controlled", "disagreement_map", "votes"])
def test_a_journal_that_names_a_file_outside_is_refused(kind: str, path: object, tmp_path: Path) -> None:
    output, private = tmp_path / "out", tmp_path / "private.png"
    output.mkdir()
    private.write_bytes(b"private")
    (output / "link").symlink_to(tmp_path)
    (output / "linked.png").symlink_to(private)
    (output / "loop").symlink_to(output / "loop")
    (output / "volumes").mkdir()
    (output / "volumes" / "link").symlink_to(tmp_path)
    journal = Journal(output_dir=output)
    journal.missing(CASES)
    journal.begin()
    record = volume("a.jpg", path) if kind == "volume" else {"name": "a.jpg", "status": "done", kind: path}
    journal.add(VOLUME if kind == "volume" else CASE, record)
    if kind != "volume" and not path:
        assert missing(output) == ["b.jpg", "c.jpg"]  # a case without such a file
        return
    fault = r"names a file that does not lie in .*out|does not tell of a volume in volumes/ or segmentations/ .*"
    with pytest.raises(InputError, match=rf"cases\.jsonl is damaged \(line 2 ({fault})\)"):
        Journal(output_dir=output).missing(CASES)
    assert private.read_bytes() == b"private"
    assert missing(output, overwrite=True) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_part_that_names_a_file_outside_is_refused(tmp_path: Path, monkeypatch) -> None:
    _, second = (of_process(index, tmp_path, monkeypatch) for index in range(2))
    second.add(CASE, {"name": "b.jpg", "status": "done", "mask": "../b.png"})
    with pytest.raises(InputError, match=rf"{second.path.name} is damaged \(line 2 names a file that does not lie in"):
        missing(tmp_path)


MALFORMED = {
    "text": '"text"', "number": "1", "list": "[]", "no kind": '{"record": {}}', "no record": '{"kind": "case"}',
    "record is a list": '{"kind": "case", "record": []}', "record is none": '{"kind": "note", "record": null}',
    "kind is a list": '{"kind": [], "record": {"name": "a"}}', "no name": '{"kind": "case", "record": {"mask": "a"}}',
    "name is a number": '{"kind": "case", "record": {"name": 1}}',
    "made by": '{"kind": "made_by", "record": {"model": 1}}',
    "forgotten": '{"kind": "forgotten", "record": {"name": "a"}}',
    "forgets a list": '{"kind": "forgotten", "record": {"name": "a", "kind": []}}',
    "volume elsewhere": json.dumps({"kind": "volume", "record": volume("a", "best.pt")}),
    "volume of nothing": '{"kind": "volume", "record": {"name": "a", "files": []}}',
    "volume of numbers": '{"kind": "volume", "record": {"name": "a", "files": [], "of": [1], "remarks": []}}',
    "volume of files": json.dumps({"kind": "volume", "record": {**volume("a"), "files": ["volumes/a.nii"]}}),
    "deep": "[" * 100_000, "no status": '{"kind": "case", "record": {"name": "a"}}',
    **{
        f"{key} {value}": json.dumps({"kind": "case", "record": {"name": "a", "status": "done", key: value}})
        for key, values in {
            "status": ("finished", None, []), "height": ("4", [4]), "reliability": ([1], "high", {"confidence": "1"}),
            "spacing_mm": ([1], [1, 2, 3], "1 2", {"a": 1}), "area_mm2": ("uncalibrated", [[1]], 3),
        }.items()
        for value in values
    },
}  # fmt: skip


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_line_that_no_run_wrote_is_told_by_its_number(line: str, tmp_path: Path) -> None:
    assert len(missing(tmp_path)) == 3
    with (tmp_path / "cases.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"cases\.jsonl is damaged \(line 2 .*\): redo the results with --overwrite"):
        missing(tmp_path)


def test_names_that_are_not_unicode_come_back(tmp_path: Path) -> None:
    name = b"a\xff.jpg".decode("utf-8", "surrogateescape")
    journal = Journal(output_dir=tmp_path)
    journal.missing([{"name": name}])
    journal.begin()
    journal.add(CASE, {"name": name, "status": "failed"})
    again = Journal(output_dir=tmp_path)
    again.missing([])
    assert list(again.records(CASE)) == [name]
    assert all(json.loads(line) for line in journal.path.read_bytes().splitlines())
