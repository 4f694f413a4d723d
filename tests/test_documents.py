"""README, docs/, the changelog and the citation: what they point to is there, and versions are one value."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate

import pytest
import yaml

from icmoe_monai.version import __version__

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
OF_TODAY = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]  # which also tells of names that are gone
SOURCES = [path for folder in ("icmoe_monai", "bundle", "benchmarks", "configs") for path in (ROOT / folder).rglob("*")]
METADATA = json.loads((ROOT / "configs" / "metadata.json").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(document: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made of their text."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    for path, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^):\s]*)\)", document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), (path, anchor)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_of_the_repository_exist(document):
    for path in paths_in(document.read_text()):
        assert (ROOT / path).exists(), path


def test_paths_that_code_and_configs_tell_of_exist():
    for source in SOURCES:
        if source.suffix in (".py", ".yaml"):
            for path in paths_in(source.read_text()):
                assert (ROOT / path).exists(), (name_of(source), path)


def paths_in(text: str) -> set[str]:
    """Return the paths that begin with a folder of this repository; names in capitals stand for others."""
    folders = "icmoe_monai|tests|benchmarks|bundle|configs|models|docs"
    paths = re.findall(rf"(?<![\w./@-])(?:{folders})/[\w./-]*\w", text)
    return {path for path in paths if not re.search(r"[A-Z]{2}", path)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_file_of_code_is_named_by_its_path(document):
    """From the root, the package or the tests; `segment.py` is what an export writes."""
    for path in set(re.findall(r"`([\w/.]+\.py)`", document.read_text())) - {"segment.py", "__init__.py"}:
        assert any((ROOT / folder / path).is_file() for folder in ("", "icmoe_monai", "tests")), path


@pytest.mark.parametrize("document", OF_TODAY, ids=name_of)
def test_names_of_the_package_exist(document):
    for name in set(re.findall(r"(?<![\w/.])icmoe_monai(?:\.\w+)+", document.read_text())):
        assert locate(name) is not None, name


@pytest.mark.parametrize("document", OF_TODAY, ids=name_of)
def test_commands_of_the_repository_exist(document):
    for name in re.findall(r"python -m ((?:icmoe_monai|benchmarks|bundle)[\w.]*\w)", document.read_text()):
        assert find_spec(name) is not None, name


def test_readme_shows_a_stranger_the_first_prediction_at_once():
    lines = (ROOT / "README.md").read_text().splitlines()
    beginning = "\n".join(lines[:30])
    assert len(lines) <= 120
    for needed in ("![", "make env", "pip install", "icmoe predict"):
        assert needed in beginning, needed


def test_readme_maps_every_room():
    rooms = {path.parent.name for path in (ROOT / "icmoe_monai").glob("*/__init__.py")}
    mapped = re.findall(r"^\| `icmoe_monai/(\w+)/` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(mapped) == sorted(rooms)


@pytest.mark.parametrize("config", ["train", "evaluate", "inference"])
def test_the_page_of_settings_has_every_plain_one_with_its_default(config):
    page = (ROOT / "docs" / "settings.md").read_text().partition("<!-- allowed: begin -->")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", page, flags=re.MULTILINE)
    defaults = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    content = json.loads((ROOT / "configs" / f"{config}.json").read_text())
    for name, value in content.items():
        if name == "is_first":  # not a user's: overlays of several processes change it
            continue
        if isinstance(value, bool | int | float):
            assert defaults[name] == str(value), name
        elif isinstance(value, str) and value[0] not in "$@%":
            assert defaults[name] == f"`{value}`", name
        elif value is None or (isinstance(value, list) and not isinstance(value[0], dict) and "$" not in str(value)):
            assert "#" in name or name in defaults, name


def sections() -> dict[str, str]:
    """Return the changelog's text by version."""
    parts = re.split(r"^## \[(.+?)\](?: - \d{4}-\d{2}-\d{2})?$", CHANGELOG, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_changelog_has_the_metadatas_versions_and_perhaps_what_is_to_come():
    assert [version for version in sections() if version != "Unreleased"] == list(METADATA["changelog"])
    assert "Unreleased" not in list(sections())[1:]
    assert __version__ in sections()


@pytest.mark.parametrize("version", METADATA["changelog"])
def test_a_versions_first_paragraph_is_its_entry_in_the_metadata(version):
    """As a sentence: with a capital at its beginning and a full stop."""
    entry = METADATA["changelog"][version]
    first = sections()[version].strip().split("\n\n")[0]
    assert " ".join(first.split()) == f"{entry[0].upper()}{entry[1:]}."


def test_the_changelog_uses_the_headings_of_keep_a_changelog():
    headings = set(re.findall(r"^### (.*)$", CHANGELOG, flags=re.MULTILINE))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_is_of_this_version_and_has_what_the_format_asks_for():
    """CFF 1.2.0; the file was also compared with its schema."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert (citation["license"], citation["type"]) == ("Apache-2.0", "software")
    assert citation["message"]
    assert citation["title"] == "IC-MoE for MONAI"
    assert citation["authors"] == [{"name": METADATA["authors"]}]
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
