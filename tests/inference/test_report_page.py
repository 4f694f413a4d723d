from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from records import FIELDS, done

from icmoe_monai.inference import report_page
from icmoe_monai.inference.report_page import render_report
from icmoe_monai.visualize.overlay import draw_overlay, thumbnail

HOSTILE = "<script>alert(1)</script> \"a' &amp; {{ 7 * 7 }} \udcfc\u202e.png"


def failed(name: str = "bad.png", error: str = "bad.png cannot be decoded: copy it again.") -> dict:
    return {**dict.fromkeys(FIELDS), "name": name, "status": "failed", "error": error, "reason_code": "damaged"}


def report_of(*cases: dict, **fields: object) -> dict:
    return {
        "complete": True,
        "stopped_by": None,
        "num_cases": len(cases),
        "num_failed": sum(case["status"] == "failed" for case in cases),
        "versions": {"icmoe_monai": "0.4.0", "monai": "1.6.1", "torch": "2.13.0"},
        "model": {"checkpoint": "model.pt", "sha256": "9f86d081884c", "trunk": "073a04c8098a"},
        "settings": {"voting": "adaptive", "image_size": 256, "flip": None, "crop": {"size": [1, 2]}},
        "labels": ["lesion"],
        "left_out": [{"name": "notes.txt", "reason": "no image of a kind that is read here"}],
        "notes": ["us.dcm: no DICOM Segmentation, because it has no Study."],
        "cases": list(cases),
        **fields,
    }


def write_overlay(folder: Path, case: dict, seed: int = 0) -> None:
    height, width = case["height"], case["width"]
    noise = np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)
    classes = np.zeros((height, width), dtype=np.uint8)
    classes[height // 4 : height // 2, width // 4 : width // 2] = 1
    path = folder / case["overlay"]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_overlay(noise, classes, labels=["lesion"]).save(path, format="PNG")


def test_unlike_pictures_come_first_and_are_told(tmp_path: Path) -> None:
    cases = [done("a.png"), done("b.png", ood_score=0.5, out_of_distribution=False), failed("c.png")]
    cases += [done(name, ood_score=1.5, out_of_distribution=True) for name in ("z.png", "y.png")]
    text = render_report(report_of(*cases), output_dir=tmp_path)
    rows = Page(text).rows
    assert [re.match(r"[a-z]\.png", " ".join(row).strip())[0] for row in rows if ".png" in " ".join(row)] == [
        "z.png", "y.png", "a.png", "b.png", "c.png"
    ]  # fmt: skip
    assert "2 of 5 pictures are unlike what the model was trained on." in text
    assert text.count("Unlike what the model was trained on: review it.") == 2
    assert "unlike" not in render_report(report_of(done("a.png")), output_dir=tmp_path).split("</style>")[1].lower()


def test_an_area_is_shown_with_its_interval(tmp_path: Path) -> None:
    ends = {"foreground_pixels_low": [1000], "foreground_pixels_high": [2000], "area_mm2": [12.34]}
    case = done("a.png", **ends, area_mm2_low=[10.0], area_mm2_high=[20.0])
    report = report_of(case, calibration={"file": "c.json", "area": {"level": 0.9}})
    text = render_report(report, output_dir=tmp_path)
    assert "1,234 (1,000 to 2,000)" in text
    assert "12.3 (10.0 to 20.0)" in text
    assert "what holds 90 % of lesions" in text
    assert "1,234 (" not in render_report(report_of(done("a.png")), output_dir=tmp_path)


class Page(HTMLParser):
    """The words of a page's table, and its links, pictures, scripts and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.attributes: dict[str, list[dict[str, str | None]]] = {}
        self.words, self.in_cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.setdefault(tag, []).append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def cells(self, name: str) -> dict[str, str]:
        header = next(row for row in self.rows if row and row[0] == "Picture")
        row = next(row for row in self.rows if len(row) == len(header) and row[1].startswith(name))
        return dict(zip(header, row, strict=True))

    def values(self, tag: str, attribute: str) -> list[str | None]:
        return [found[attribute] for found in self.attributes.get(tag, []) if attribute in found]


def test_page_tells_the_run(tmp_path: Path) -> None:
    case = done("patient 1/a b.png", area_mm2=[49.36], segmentation="segmentations/a.dcm")
    page = Page(render_report(report_of(case, done("c.png"), failed()), output_dir=tmp_path))
    for words in (
        *("Research use only; not a medical device", "1 of 3 cases failed", "model.pt", "9f86d081884c"),
        *("073a04c8098a", "icmoe_monai 0.4.0, monai 1.6.1, torch 2.13.0", "0.8 s", "notes.txt"),
        *("no image of a kind that is read here", "no DICOM Segmentation, because", "voting", "adaptive", "crop.size"),
    ):
        assert words in page.words, words
    cells = page.cells("patient 1/a b.png")
    del cells["Picture"], cells["Name"]
    assert cells == {
        "Status": "done",
        "Size (px)": "64 × 48",  # noqa: RUF001
        "Area (px)": "1,234",
        "Area (mm²)": "49.4",
        "Share (%)": "40.17",
        "Parts": "2",
        "Confidence": "0.93",
        "Disagreement": "0.04",
        "Vote entropy": "0.31",
        "Expert agreement": "0.95",
        "Time (s)": "0.41",
    }
    assert page.cells("c.png")["Area (mm²)"] == "uncalibrated"
    cells = page.cells("bad.png")
    assert cells["Name"] == "bad.pngbad.png cannot be decoded: copy it again. damaged"
    assert [text for text in cells.values() if text] == [cells["Name"], "failed"]
    assert set(page.values("a", "href")) >= {
        "./overlays/patient%201/a%20b.png",
        "./masks/patient%201/a%20b.png",
        "./segmentations/a.dcm",
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Complete."),
        ({"complete": False}, "the run was cut short, or still goes on"),
        ({"complete": False, "stopped_by": "KeyboardInterrupt"}, "the run was stopped by KeyboardInterrupt"),
    ],
    ids=["complete", "unfinished", "stopped"],
)
def test_page_tells_whether_the_run_is_complete(tmp_path: Path, fields: dict, words: str) -> None:
    assert words in Page(render_report(report_of(done(), **fields), output_dir=tmp_path)).words


def test_several_classes_share_a_cell(tmp_path: Path) -> None:
    cases = [done(f"{n}.png", (12 + n, 40), area_mm2=[0.5, 2000.0]) for n in range(3)]
    text = render_report(report_of(*cases, labels=["lesion", "ves$el$"]), output_dir=tmp_path)
    cells = Page(text).cells("0.png")
    assert cells["Area (px)"].split("\n") == ["lesion 12,", "ves$el$ 40"]
    assert cells["Area (mm²)"].split("\n") == ["lesion 0.50,", "ves$el$ 2,000"]
    assert 'data-number="52.0"' in text  # their sum is sorted by
    assert text.count("ves$el$</text>") == 1  # the legend of the histogram, not as mathematics


def test_frames_have_a_column_only_where_there_are_some(tmp_path: Path) -> None:
    frames = [done("a.dcm", frame=n) for n in range(2)]
    assert Page(render_report(report_of(*frames), output_dir=tmp_path)).cells("a.dcm")["Frame"] == "0"
    assert "Frame" not in Page(render_report(report_of(done()), output_dir=tmp_path)).cells("a.png")


@pytest.mark.parametrize("report", [{}, report_of()], ids=["nothing known", "no case"])
def test_page_without_a_case_says_so(tmp_path: Path, report: dict) -> None:
    assert "There is no case" in render_report(report, output_dir=tmp_path)
    text = render_report(report_of(done(), done("b.png"), failed()), output_dir=tmp_path)
    assert "There is no case" not in text
    assert text.count("<svg") == 3


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    cases = [
        done(HOSTILE, mask=f"masks/{HOSTILE}", overlay="javascript:alert(2)"),
        failed(HOSTILE, error=f"{HOSTILE} is broken."),
    ]
    report = report_of(
        *(*cases, done("b.png")),
        labels=[HOSTILE],
        left_out=[{"name": HOSTILE, "reason": HOSTILE}],
        notes=[HOSTILE],
        settings={HOSTILE: HOSTILE},
        model={"checkpoint": HOSTILE},
        versions={"torch": HOSTILE},
        stopped_by=HOSTILE,
        complete=False,
    )
    text = render_report(report, output_dir=tmp_path)
    page = Page(text)
    assert text.encode("utf-8")
    assert len(page.attributes["script"]) == 1
    assert page.cells("<script>")["Name"].startswith(HOSTILE.replace("\udcfc", "?"))
    assert "{{ 7 * 7 }}" in page.words
    hrefs = [href for href in page.values("a", "href") if not href.startswith("#")]
    assert all(href.startswith("./") and ":" not in href for href in hrefs)
    assert any("%FC" in href for href in hrefs)  # the byte of the file's name, not a replacement
    assert not any(name.startswith("on") for found in page.attributes.values() for each in found for name in each)


def test_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    cases = [done(f"{n}.png", (n, 2 * n)) for n in range(1, 4)]
    write_overlay(tmp_path, cases[0])
    text = render_report(report_of(*cases, labels=["a", "b"]), output_dir=tmp_path)
    addresses = re.findall(r'(\S+?)=["\'](?:\w+:)?//', text)
    assert set(addresses) == {"xmlns", "xmlns:xlink"}
    assert not re.search(r"https?://(?!www\.w3\.org/)|@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(Page(text).attributes)
    ids = [*re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))


def test_page_is_the_same_each_time(tmp_path: Path) -> None:
    cases = [done(f"{n}.png", (n,)) for n in range(5)]
    write_overlay(tmp_path, cases[0])
    report = report_of(*cases)
    assert render_report(report, output_dir=tmp_path) == render_report(report, output_dir=tmp_path)


def test_thumbnails_of_the_run_itself_spare_reading_overlays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [done(f"{n}.png") for n in range(2)]
    for seed, case in enumerate(cases):
        write_overlay(tmp_path, case, seed)
    report = report_of(*cases)
    made_anew = render_report(report, output_dir=tmp_path)
    made = {}
    for case in cases:
        with Image.open(tmp_path / case["overlay"]) as overlay:
            made[case["overlay"]] = thumbnail(overlay, size=(64, 48), num_labels=1)
    assert (
        render_report(report, output_dir=tmp_path, thumbnails={"overlays/1.png": made["overlays/1.png"]}) == made_anew
    )
    monkeypatch.setattr(report_page, "_thumbnail", lambda *_: pytest.fail("an overlay was read"))
    assert render_report(report, output_dir=tmp_path, thumbnails=made) == made_anew


@pytest.mark.parametrize(
    ("most", "num_pictures", "words"),
    [(0, 0, "No picture is shown here"), (2, 2, "Only the first 2 pictures"), (4, 4, None), (9, 4, None)],
    ids=["none", "some", "exactly all", "all"],
)
def test_pictures_are_limited(tmp_path: Path, most: int, num_pictures: int, words: str | None) -> None:
    cases = [done(f"{n}.png") for n in range(4)]
    for case in cases:
        write_overlay(tmp_path, case)
    page = Page(render_report(report_of(failed(), *cases), output_dir=tmp_path, max_thumbnails=most))
    sources = page.values("img", "src")
    assert len(sources) == num_pictures
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    assert (words or "to keep the page small") in page.words or words is None
    assert ("to keep the page small" in page.words) == (words is not None)
    # The legend, which would not be readable, is cut off.
    assert set(page.values("img", "height")) <= {"48"}


@pytest.mark.parametrize(
    "overlay",
    [
        "../secret.png",
        "link/secret.png",
        "{folder}/secret.png",
        "..\\secret.png",
        "C:\\secret.png",
        "a\0.png",
        "x" * 999,
    ],
    ids=["parent", "link", "absolute", "backslash", "drive", "null", "too long"],
)
def test_no_picture_from_outside_the_folder(tmp_path: Path, overlay: str) -> None:
    output = tmp_path / "out"
    output.mkdir()
    Image.new("RGB", (64, 80)).save(tmp_path / "secret.png")
    (output / "link").symlink_to(tmp_path)
    case = done(overlay=overlay.format(folder=tmp_path), mask=None)
    page = Page(render_report(report_of(case), output_dir=output))
    assert page.values("img", "src") == []
    if overlay not in ("link/secret.png", "a\0.png", "x" * 999):
        assert [href for href in page.values("a", "href") if "secret" in str(href)] == []


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\nnonsense", b"GIF89a"], ids=str)
def test_missing_or_damaged_overlay_is_passed_over(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "overlays").mkdir()
        (tmp_path / "overlays" / "a.png").write_bytes(content)
    page = Page(render_report(report_of(done()), output_dir=tmp_path))
    assert page.values("img", "src") == []
    assert page.cells("a.png")["Status"] == "done"


@pytest.mark.slow
def test_thousands_of_cases(tmp_path: Path) -> None:
    cases = [done(f"{n}.png", (n % 997,), area_mm2=[n % 997 * 0.04]) for n in range(5000)]
    text = render_report(report_of(*cases), output_dir=tmp_path)
    assert text.count("<tr") > 5000
    assert len(text) < 8e6


def browse(page: Path, *arguments: str) -> tuple[str, str]:
    """Return what a headless browser writes to the standard output, and what its console has."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    switches = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--enable-logging=stderr", "--virtual-time-budget=2000", "--window-size=1200,1600"),
    )
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [browser, *switches, profile, *arguments, page.as_uri()]
    ended = subprocess.run(command, capture_output=True, timeout=120, check=True)
    log = ended.stderr.decode("utf-8", errors="replace")
    return ended.stdout.decode("utf-8"), "\n".join(line for line in log.splitlines() if "CONSOLE" in line)


def browser_report(folder: Path) -> dict:
    names = ["b 10.png", "b 9.png", "a.png", HOSTILE, "c.png"]
    amounts = [200_000, 30_000, 1000, 0, 100_000]
    cases = [
        done(name, (pixels,), height=480, width=640, overlay=f"overlays/{n}.png", seconds=0.1 * (n + 1))
        for n, (name, pixels) in enumerate(zip(names, amounts, strict=True))
    ]
    for n, case in enumerate(cases):
        write_overlay(folder, case, seed=n)
    return report_of(cases[0], failed("bad.png"), *cases[1:])


@pytest.mark.slow
def test_page_is_seen_in_a_browser(tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(render_report(browser_report(tmp_path), output_dir=tmp_path), encoding="utf-8")
    _, console = browse(page, f"--screenshot={picture}")
    assert console == ""
    with Image.open(picture) as image:
        assert image.size == (1200, 1600)
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 2000


STEPS = """
<script>
const rows = () => [...document.querySelectorAll("#table tbody tr")];
const name = (row) => row.cells[1].firstChild.textContent.split(".")[0].slice(0, 4);
const names = () => rows().filter((row) => !row.hidden).map(name);
const button = (title) => [...document.querySelectorAll("thead button")].find((each) => each.textContent === title);
const told = [];
const click = (title) => {
  button(title).click();
  told.push(`${title} ${button(title).parentElement.ariaSort}: ${names().join("|")}`);
};
click("Area (px)"); click("Area (px)"); click("Name"); click("Status"); click("Area (mm²)");
told.push("sorted: " + document.querySelectorAll("th[aria-sort=ascending], th[aria-sort=descending]").length);
const filter = document.getElementById("filter");
filter.value = " B 1"; filter.dispatchEvent(new Event("input"));
told.push("filter: " + names().join("|") + "; " + document.getElementById("shown").textContent);
filter.value = ""; document.getElementById("only-failed").click();
told.push("failed: " + names().join("|"));
told.push("wide: " + document.documentElement.scrollWidth);
const pictures = [...document.images];
told.push("pictures: " + pictures.filter((image) => image.complete && image.naturalWidth === 160).length);
const result = document.createElement("pre");
result.id = "told"; result.textContent = "TOLD\\n" + told.join("\\n") + "\\nEND";
document.body.append(result);
</script>
"""


def test_table_sorts_and_filters_in_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    text = render_report(browser_report(tmp_path), output_dir=tmp_path)
    page.write_text(text.replace("</body>", STEPS + "</body>"), encoding="utf-8")
    document, console = browse(page, "--dump-dom")
    assert console == ""
    told = document.split("TOLD\n")[-1].split("\nEND")[0].replace("&lt;", "<").splitlines()
    assert told == [
        "Area (px) ascending: <scr|a|b 9|c|b 10|bad",
        "Area (px) descending: b 10|c|b 9|a|<scr|bad",
        "Name ascending: <scr|a|b 9|b 10|bad|c",
        "Status ascending: b 10|b 9|a|<scr|c|bad",
        "Area (mm²) ascending: b 10|bad|b 9|a|<scr|c",
        "sorted: 1",
        "filter: b 10; 1 of 6 cases shown",
        "failed: bad",
        "wide: 1200",
        "pictures: 5",
    ]


def test_browser_refuses_what_a_page_would_load(tmp_path: Path) -> None:
    # The empty consoles of the tests above mean something only if a violation would be written there.
    page = tmp_path / "report.html"
    text = render_report(report_of(done()), output_dir=tmp_path)
    page.write_text(text.replace("</body>", '<img src="overlays/a.png"></body>'), encoding="utf-8")
    _, console = browse(page, "--dump-dom")
    assert "Content Security Policy" in console
