"""The numbers of the documents are those of the files that the commands wrote."""

import csv
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.cost import tables as cost_tables
from benchmarks.reliability import table as reliability_table
from benchmarks.study import tables
from benchmarks.suggest import table as suggest_table
from icmoe_monai.utils.files import digest_of

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["trials", "dial"])
def test_the_trials_are_those_of_the_file(name):
    text = (DOCS / "method.md").read_text()
    with (DOCS / "results" / f"{name}.csv").open(newline="") as file:
        rows = ["| " + " | ".join(row.values()) + " |" for row in csv.DictReader(file)]
    assert len(rows) > 2
    for row in rows:
        assert row in text, row


def test_the_trials_of_the_vote_are_those_of_the_file():
    text = (DOCS / "method.md").read_text()
    with (DOCS / "results" / "deference_trials.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["alpha"] == "5"]
    assert len(rows) == 10
    for row in rows:
        differences = [
            f"{float(row[key]):+.4f} ({float(row[f'{key}_low']):+.4f} to {float(row[f'{key}_high']):+.4f})"
            for key in ("minus_mean_vote", "minus_adaptive")
        ]
        loads = ", ".join(f"{float(row[f'load_{name}']):.2f}" for name in ("basic", "semantic", "adaptive"))
        cells = (row["split"], row["gamma"], f"{float(row['voted']):.4f}", *differences, loads)
        assert f"| {' | '.join(cells)} |" in text


@pytest.mark.parametrize("name", ["mixture_trials", "encoder_trials"])
def test_the_trials_of_mixtures_are_those_of_the_file(name):
    text = (DOCS / "method.md").read_text()
    with (DOCS / "results" / f"{name}.csv").open(newline="") as file:
        dice = {(row["row"], row["set"], row["seed"], row["split"]): row for row in csv.DictReader(file)}
    runs = [key[:3] for key in dice if key[3] == "test"]
    assert len(runs) > 20
    for run in runs:
        test = dice[(*run, "test")]
        numbers = [dice[(*run, "val")]["voted"], *(test[key] for key in ("voted", "mean", "mirrored") if key in test)]
        row = f"| {' | '.join(run)} | {' | '.join(f'{float(number):.3f}' for number in numbers)} |"
        assert row in text, row


def rows_of_encoders(name: str) -> list[str]:
    rows = []
    for setting, encoders in json.loads((DOCS / "results" / f"{name}.json").read_text())["results"].items():
        peer = encoders["explicit bias"]
        for encoder, row in encoders.items():
            if "seconds" in row:
                ratios = [row[key] / peer[key] for key in ("seconds", "peak_mb")]
                rows.append(
                    f"| {setting} | {encoder} | {row['seconds']:.2f} | {row['peak_mb']:.0f} | {ratios[0]:.2f} | "
                    f"{ratios[1]:.2f} | {row['largest_difference']:.0e} |"
                )
    return rows


def rows_of_the_network() -> list[str]:
    content = json.loads((DOCS / "results" / "network.json").read_text())
    encoder, full = content["inference"]["its encoder"], content["training"]["full fine-tuning"]
    return [
        f"| {name} | {row['seconds']:.2f} | {row['seconds'] / encoder['seconds']:.2f} |"
        for name, row in content["inference"].items()
    ] + [
        f"| {name} | {row['trained_parameters'] / 1e6:.1f} | {row['seconds']:.1f} | {row['peak_mb']:.0f} | "
        f"{row['peak_mb'] / full['peak_mb']:.2f} |"
        for name, row in content["training"].items()
    ]


def test_the_tables_of_cost_are_those_of_the_files():
    text = (DOCS / "encoder.md").read_text()
    for row in rows_of_encoders("encoder") + rows_of_the_network():
        assert row in text, row


def test_the_tables_of_the_studies_are_those_that_the_command_would_write():
    """Mended by `python -m benchmarks.study.tables`."""
    assert tables.main(["--check", "--docs", str(DOCS)]) == 0


def test_the_table_of_reliability_is_that_of_the_files():
    """Mended by `python -m benchmarks.reliability.table`."""
    assert reliability_table.main(["--check", "--docs", str(DOCS)]) == 0
    assert "| calibration error, after |" in (DOCS / "reliability.md").read_text()


def test_a_table_of_reliability_without_intervals_says_why(tmp_path):
    found = json.loads((DOCS / "results" / "reliability_busi.json").read_text())
    for part, name in (("control", "interval"), ("area", "interval"), ("out_of_distribution", "interval"),
                       ("predicted_dice", "gain_interval"), ("predicted_dice", "spearman_interval")):  # fmt: skip
        found[part][name] = None
    (tmp_path / "reliability_one.json").write_text(json.dumps(found | {"num_groups": 1}))
    shutil.copy(DOCS / "results" / "risk_control_busi.json", tmp_path / "risk_control_one.json")
    text = reliability_table.table(tmp_path)
    assert text.count(" (-) |") == 5
    assert text.endswith("\n\n(-): no interval can be given where all test images of a set are of one group (one).\n")


def test_the_tables_of_suggestions_are_those_of_the_files():
    """Mended by `python -m benchmarks.suggest.table`."""
    assert suggest_table.main(["--check", "--docs", str(DOCS)]) == 0


def test_the_tables_of_cost_of_training_and_inference_are_those_of_the_files():
    """Mended by `python -m benchmarks.cost.tables`."""
    assert cost_tables.main(["--check", "--docs", str(DOCS)]) == 0
    assert "| part of a step |" in (DOCS / "cost.md").read_text()


def test_the_shipped_calibrations_are_those_that_were_measured():
    for name, stem in (("isic2017", "model"), ("busi", "experts_busi")):
        measured = json.loads((DOCS / "results" / f"reliability_{name}.json").read_text())["calibration"]
        assert measured["sha256"] == digest_of(DOCS.parent / "models" / f"{stem}.calibration.json"), name
        judged = json.loads((DOCS / "results" / f"risk_control_{name}.json").read_text())["model"]
        assert judged["sha256"] == digest_of(DOCS.parent / "models" / judged["checkpoint"]), name


@pytest.mark.parametrize(
    ("name", "model"), [("isic2017", "model.pt"), ("busi", "experts_busi.safetensors")], ids=["skin", "breast"]
)
@pytest.mark.parametrize("kind", ["analysis", "shifts"])
def test_what_was_looked_into_is_the_shipped_model(name, model, kind):
    content = json.loads((DOCS / "results" / "analysis" / f"{name}_{kind}.json").read_text())
    assert content["settings"]["model"]["sha256"] == digest_of(DOCS.parent / "models" / model)


def test_what_is_said_of_the_exported_files_is_in_the_exports_own():
    page = (DOCS / "deploy.md").read_text()
    for side in (256, 512):
        exported = json.loads((DOCS / "results" / f"export_{side}.json").read_text())
        assert exported["sha256"]["model.pt"] == digest_of(DOCS.parent / "models" / "model.pt")
        parity = exported["parity"]
        for name in ("model.ts", "model.onnx"):
            found, number = parity[name], parity["num_images"]
            assert found["least_share_of_equal_pixels"] == 1
            logits, probabilities = found["largest_logit_difference"], found["largest_probability_difference"]
            line = f"| `{name}` | {side} | {logits:.2g} | {probabilities:.1g} | {number} of {number} |"
            assert line in page


def test_what_is_said_of_large_images_is_in_the_files():
    text = " ".join((DOCS / "slides.md").read_text().split())
    slide, widths = (json.loads((DOCS / "results" / f"{name}.json").read_text()) for name in ("large", "large_widths"))
    minutes, crop = slide["process_seconds"] / 60, slide["crop"]
    for sentence in (
        f"took {minutes:.0f} minutes and at most {slide['peak_mb']:,.0f} MB",
        f"{slide['windows_run']:,} windows were run and {slide['windows_skipped']:,} skipped",
        f"mask takes {slide['masks_mb']:.1f} MB, the votes {slide['votes_mb']:,.0f} MB",
        f"{crop['pixels_that_differ']} of {crop['side'] ** 2:,} pixels differ",
        f"{crop['peak_mb_in_memory']:,.0f} MB in memory, and {crop['peak_mb_in_strips']:,.0f} MB in strips",
        *(f"| {int(width):,} | {peak:,.0f} |" for width, peak in widths["peak_mb"].items()),
    ):
        assert sentence in text, sentence
    assert slide["peak_mb"] < 3000
    assert slide["side"] == 20_000


@pytest.mark.parametrize(("command", "page"), [(reliability_table, "reliability"), (cost_tables, "cost")])
def test_a_page_that_differs_names_the_command_that_renews_it(command, page, tmp_path, capsys):
    shutil.copytree(DOCS, tmp_path / "docs")
    text = (tmp_path / "docs" / f"{page}.md").read_text()
    made = text.partition(": begin -->")[2] or text  # a table by hand may stand before
    table = next(line for line in made.splitlines() if line.startswith("|") and re.search(r"\d\.\d\d", line))
    (tmp_path / "docs" / f"{page}.md").write_text(text.replace(table, re.sub(r"\d\.\d\d", "7.77", table)))
    assert command.main(["--check", "--docs", str(tmp_path / "docs")]) == 1
    named = re.search(r"python -m (\S+)", capsys.readouterr().err)[1]
    assert importlib.util.find_spec(named) is not None
