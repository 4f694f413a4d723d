"""The numbers of the documents are those of the files that the commands wrote."""

import csv
import importlib.util
import json
import re
import shutil
from decimal import Decimal
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.cost import tables as cost_tables
from benchmarks.document import between_marks
from benchmarks.reliability import table as reliability_table
from benchmarks.study import folds, tables
from benchmarks.suggest import table as suggest_table
from icmoe_monai.training.decoders import FINE
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


def lines_of(name: str) -> list[dict[str, str]]:
    with (DOCS / "results" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def words_of(page: str) -> str:
    """Return a page in one line, as its sentences may be broken anywhere."""
    return " ".join((DOCS / page).read_text().split())


def test_the_trials_of_decoders_are_those_of_the_file():
    text = (DOCS / "method.md").read_text()
    trials = lines_of("decoder_trials")
    sets = ("busi", "isic2017", "glas", "retina", "cxr_lung", "monuseg")
    assert f"| network | decoder | {' | '.join(sets)} |" in text
    dice = {(line["network"], line["decoder"], line["dataset"]): line for line in trials}
    assert len(dice) == len(trials) > 30
    assert {line["dataset"] for line in trials} == set(sets)
    for network, decoder in dict.fromkeys(key[:2] for key in dice):
        found = [dice.get((network, decoder, name)) for name in sets]
        cells = [f"{float(of['validation']):.3f}, {float(of['voted']):.3f}" if of else "" for of in found]
        assert f"| {network} | {decoder} | {' | '.join(cells)} |" in text


def test_what_full_decoders_bring_the_mixture_is_that_of_the_file():
    text = (DOCS / "method.md").read_text()
    found = [line for line in lines_of("decoder_differences") if "full minus light" in line["difference"]]
    assert len(found) == 7
    for line in found:
        mean, low, high = (float(line[key]) for key in ("mean", "low", "high"))
        seeds = "".join(filter(str.isdigit, line["difference"]))
        assert f"| {line['dataset']} | {mean:+.4f} ({low:+.4f} to {high:+.4f}) | {seeds} |" in text


def test_what_is_said_of_decoders_differences_is_in_the_files():
    text = words_of("method.md")
    ends = {
        line["difference"].removeprefix("Lite2 U-Net: "): [Decimal(line[key]) for key in ("mean", "low", "high")]
        for line in lines_of("decoder_differences")
    }

    def told(name: str, form: str = "+.4f") -> str:
        mean, low, high = (f"{value:{form}}" for value in ends[name])
        return f"{mean} ({low} to {high})"

    transposed = "full minus stride 1 with a transposed convolution to 8 channels"
    kept = told("batch normalisations kept minus folded, stride 1, two convolutions").replace(" (", ", ", 1)
    ends["smp minus full"] = [
        -ends["full minus the U-Net of segmentation_models_pytorch"][place] for place in (0, 2, 1)
    ]
    for sentence in (
        f"two convolutions at each stride {told('two convolutions at each stride minus one, stride 1')}",
        f"twice the width {told('twice the width minus once, stride 1')}",
        f"both {told(transposed)}",
        f"{told('full minus stride 2')} over light",
        f"{told('smp minus full', '.4f')} below smp's decoder",
        f"bring nothing there** ({kept}",
        f"brings {told('mixture: basic over a frozen Lite2 minus Lite0, stride 1', '.4f')}",
    ):
        assert sentence in text, sentence
    test = {
        (line["network"], line["decoder"], line["dataset"]): float(line["voted"]) for line in lines_of("decoder_trials")
    }
    larger = "stride 1: transposed convolution to 8 channels, a convolution"
    for network, dataset, sentence in (
        ("mixture", "retina", "{} for the mixture on test images"),
        ("Lite2 U-Net", "retina", "{} for the single network"),
        ("mixture", "glas", "The glands do not change ({},"),
        ("mixture", "busi", "with a transposed convolution than without ({},"),
    ):
        difference = test[network, larger, dataset] - test[network, "stride 2", dataset]
        assert sentence.format(f"{difference:+.4f}") in text, (network, dataset)


def test_the_votes_cast_again_are_those_of_the_file():
    text = (DOCS / "method.md").read_text()
    trials = lines_of("revote_trials")
    sets = sorted({line["dataset"] for line in trials})
    assert f"| vote | {' | '.join(sets)} | all four |" in text
    for vote in dict.fromkeys(line["vote"] for line in trials):
        of_sets = [
            [float(line["dice"]) for line in trials if (line["vote"], line["dataset"]) == (vote, name)] for name in sets
        ]
        assert [len(seeds) for seeds in of_sets] == [2] * 4
        means = [mean(seeds) for seeds in of_sets]
        assert f"| {vote} | {' | '.join(f'{value:.3f}' for value in means)} | {mean(means):.4f} |" in text


def test_how_thick_targets_are_is_that_of_the_file():
    text = words_of("method.md")
    found = {line["dataset"]: line for line in lines_of("thickness")}
    assert found["retina"]["longest_side"] == found["monuseg"]["longest_side"] == "512"
    assert found["busi"]["longest_side"] == "128"
    vessels, nuclei, lesions = (round(float(found[name]["pixels"])) for name in ("retina", "monuseg", "busi"))
    assert f"At 512 pixels vessels are {vessels} and nuclei {nuclei}; " in text
    assert f"at the study's 128, breast lesions are {lesions}" in text
    for line in found.values():
        assert (float(line["pixels"]) < FINE) == (line["dataset"] in ("retina", "monuseg"))


def test_the_trials_of_no_lesion_are_those_of_the_file():
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in (DOCS / "reliability.md").read_text().splitlines()
    ]
    trials = lines_of("no_lesion_trials")
    assert len(trials) == 5
    for line in trials:
        rounded = [f"{float(line[f'auroc_{split}']):.3f}" for split in ("training", "validation", "test")]
        cells = [*rounded, f"{float(line['specificity_at_95_sensitivity_test']):.2f}"]
        (row,) = (row for row in rows if row[0].removesuffix(" (until 0.8.0)") == line["score"] and row[2:] == cells)
        assert line["fitted_to"].startswith(row[1])


def test_how_no_lesion_is_learnt_is_said_as_in_the_file():
    text = (DOCS / "reliability.md").read_text()
    scores = ("peak", "appearance", "both, weights fitted to validation", "both, counted alike")
    assert "| lesion-free training images | " + " | ".join(scores) + " |" in text.replace("**", "")
    trials = {(line["lesion_free_training_images"], line["score"]): line for line in lines_of("no_lesion_appearance")}
    numbers = list(dict.fromkeys(number for number, _ in trials))
    assert numbers == ["72", "36", "18", "9"]
    for number in numbers:
        found = [trials[number, score] for score in scores]
        cells = [
            ", ".join(f"{float(of[f'auroc_{split}']):.3f}" for split in ("left_out_training", "validation"))
            for of in found
        ]
        assert f"| {number} | {' | '.join(cells)} |" in text


def test_what_is_said_of_no_lesion_on_ultrasound_is_in_the_file():
    text = words_of("reliability.md").replace("**", "")
    content = json.loads((DOCS / "results" / "no_lesion_busi_all.json").read_text())
    normal, without = content["with normal images"], content["without"]
    folds = content["ensemble of three folds with normal images, calibrated out of fold"]
    columns = [normal["no_lesion_by_peak_alone"], normal["no_lesion"], folds["no_lesion"]]

    def rate(of: dict, name: str) -> str:
        low, high = of[f"{name}_interval"]
        return f"{of[name]:.2f} ({low:.2f} to {high:.2f})"

    (peak,) = (line for line in lines_of("no_lesion_trials") if line["score"] == "peak")
    own = [float(peak["specificity_at_95_sensitivity_test"]), *(of["specificity_at_sensitivity"] for of in columns[1:])]
    calibration, loss = folds["calibration"], content["dice_of_lesions_with_minus_without"]
    trial = content["trial: threshold of training lesions, their appearance by cross-validation"]
    for sentence in (
        "| AUROC (at least 0.90 was wanted) | " + " | ".join(f"{of['auroc']:.3f}" for of in columns),
        "(at least 0.60) | " + " | ".join(f"{value:.2f}" for value in own),
        "found, for 0.95 | " + " | ".join(rate(of, "sensitivity") for of in columns),
        "| specificity there | " + " | ".join(rate(of, "specificity") for of in columns),
        f"calibration has {calibration['num_with_lesion']} lesions and {calibration['num_lesion_free']} lesion-free",
        f"sensitivity is {rate(calibration, 'sensitivity')} and specificity {rate(calibration, 'specificity')}",
        f"on test images {columns[2]['sensitivity']:.2f} and {columns[2]['specificity']:.2f}, "
        f"{0.6 - columns[2]['specificity']:.2f} below what was wanted",
        f"{trial['num_training_lesions']} training lesions",
        f"keeps {trial['sensitivity_of_validation']:.2f} of the validation's lesions",
        f"made {normal['empty_masks_of_normal_images']:.2f} of the normal test images' masks empty, where "
        f"{without['empty_masks_of_normal_images']:.2f} were without them",
        f"was {normal['dice_of_lesions']:.3f} and {without['dice_of_lesions']:.3f} ({loss['mean']:.3f}, "
        f"{loss['interval'][0]:.3f} to {loss['interval'][1]:.3f};",
    ):
        assert sentence in text, sentence


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


def test_what_is_said_of_plan_and_folds_is_in_the_file():
    found = json.loads((DOCS / "results" / "folds" / "folds.json").read_text())
    text = (DOCS / "results.md").read_text()
    assert between_marks(text, "folds", f"{folds.table_of(found)}\n") == text
    gains = {name: of_set["folds_minus_plan"] for name, of_set in found["sets"].items()}
    pooled = found["pooled"]["folds_minus_plan"]
    told = " ".join((DOCS / "folds.md").read_text().split())
    by_set = {name: f"{gain['mean']:.4f}" for name, gain in gains.items()}
    assert "was {glas} above it on GlaS, {retina} on vessels, {busi} on BUSI".format(**by_set) in told
    assert "and {:.4f} ({:.4f} to {:.4f}) over all three".format(pooled["mean"], *pooled["interval"]) in told
    assert gains["busi"]["interval"][0] < 0 < min(gains["glas"]["interval"][0], gains["retina"]["interval"][0])
    views = {(of_seed["seed"], of_seed["out_of_fold"]["tta"]["chosen"]) for of_seed in seeds_of(found)}
    assert views == {(0, "flips"), (1, "none")}
    images = [of_set["seeds"][0]["out_of_fold"]["dice"]["images"] for of_set in found["sets"].values()]
    assert "have not seen, {} and {}. That of the vessels, of {},".format(*images) in " ".join(text.split())


def seeds_of(found: dict) -> list[dict]:
    return [of_seed for of_set in found["sets"].values() for of_seed in of_set["seeds"]]


def test_what_is_said_of_the_parts_is_in_the_table():
    page = (DOCS / "results.md").read_text()
    block = page.partition("<!-- study parts: begin -->")[2].partition("<!-- study parts: end -->")[0]
    beside = re.findall(r"\| (\w+) \| ([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\) \| 3 \| 1 \|", block)
    found = {name: tuple(map(float, numbers)) for name, *numbers in beside}
    mean, low, high = found.pop("basic_adaptive")
    told = " ".join(page.split())
    assert f"({mean:.3f} over them; {-low:.3f} below to {high:.3f} above)" in told
    assert set(found) == {"no_contrast", "no_vote_loss", "no_mutual", "no_deference", "deaf"}
    assert all(-0.0035 < mean <= 0 and low < 0 < high for mean, low, high in found.values())
    assert "(by up to 0.003)" in told


def test_what_is_said_of_a_plan_s_time_is_in_the_files():
    told = " ".join((DOCS / "plan.md").read_text().split())
    for name, found in (("BUSI", "busi"), ("GlaS", "glas")):
        content = json.loads((DOCS / "results" / f"plan_time_{found}.json").read_text())
        assert content["ratio"] == pytest.approx(content["seconds"] / content["said_seconds"])
        assert (
            f"{content['ratio']:.2f} times of what was said for {name} ([file](results/plan_time_{found}.json))" in told
        )


def test_what_is_said_of_8_bits_is_in_the_files():
    text = " ".join((DOCS / "cost.md").read_text().split())
    found = json.loads((DOCS / "results" / "int8_isic2017.json").read_text())
    masks = json.loads((DOCS / "results" / "runtimes_cost.json").read_text())["masks"]
    assert f"which change {100 * masks['differing']['int8'] / masks['pixels']:.1f} %;" in text
    interval = "({:+.4f} to {:+.4f})".format(*found["interval"])
    assert f"the Dice of the {found['images']} validation images by {found['difference']:+.4f} {interval}" in text
    assert f"that of one image by {found['largest_change']:.2f}" in text


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


def test_breast_experts_that_saw_normal_images_are_those_of_the_file():
    text = (DOCS / "reliability.md").read_text()
    for line in lines_of("breast_with_normals"):
        empty = f"{line['empty_masks']} of {line['lesion_free']}" if line["lesion_free"] != "0" else ""
        cells = [line["weights"], line["test_images"], f"{float(line['dice_of_lesions']):.3f}"]
        assert f"| {' | '.join(cells)} | {line['lesions_missed']} of {line['lesions']} | {empty} |" in text
