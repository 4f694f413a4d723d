"""The statistics of the studies' tables against NumPy and by hand, and the tables' place in the document."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmarks.study import tables
from benchmarks.study.collect import METHODS
from icmoe_monai.errors import InputError
from icmoe_monai.networks.icmoe import EXPERTS
from icmoe_monai.utils.files import read_csv, write_csv

NUM_CASES = 40


def put_study(folder: Path, name: str = "tiny", seeds: tuple[int, ...] = (0, 1), unet_seeds: tuple[int, ...] = (0, 1)):
    """Write the files of a study in which unet is worse than icmoe by about 0.05; return the Dice columns."""
    generator = np.random.default_rng(3)
    base = generator.uniform(0.5, 0.9, NUM_CASES)
    columns: dict[str, np.ndarray] = {}
    offsets = dict(zip(METHODS, (0.05, 0.03, 0.0, 0.02, 0.01, 0.09), strict=True))
    for seed in seeds:
        for method in METHODS:
            noise = generator.normal(0, 0.01, NUM_CASES)
            columns[f"icmoe/seed_{seed}/{method}"] = np.round(base + offsets[method] + noise + 0.01 * seed, 4)
    for seed in unet_seeds:
        columns[f"unet/seed_{seed}/voted"] = np.round(base + generator.normal(0, 0.01, NUM_CASES), 4)
    lines = [{"case": f"c{i}"} | {key: f"{column[i]:.4f}" for key, column in columns.items()} for i in range(NUM_CASES)]
    write_csv(folder / name / "set_dice.csv", lines)
    runs = [
        {
            "dataset": "set", "row": row, "seed": seed, "commit": "abc", "trunk": "t 12", "learning_rate": rate,
            "trainable_parameters": 2_500_000, "step_seconds": 0.25 + 0.1 * seed, "peak_mb": 700.4, "peak_gpu_mb": "",
            "inference_seconds": 0.0312, "cpu": "A CPU", "gpu": "", "jobs": 2, "threads": 1, "version_torch": "2",
            "version_monai": "1", **{f"load_{expert}": (0.2, 0.3, 0.5)[i] for i, expert in enumerate(EXPERTS)},
        }
        for row, rate, ran in (("icmoe", 0.003, seeds), ("unet", 0.001, unet_seeds))
        for seed in ran
    ]  # fmt: skip
    write_csv(folder / name / "runs.csv", runs)
    study = {
        "name": name, "seeds": [0, 1, 2], "datasets": {"set": {"longest_side": 96}, "later": {}},
        "settings": {"image_size": 64}, "rows": {"icmoe": None, "unet": "u.yaml", "depth_1": "d.yaml"}, "tuning": None,
    }  # fmt: skip
    (folder / name / "study.json").write_text(json.dumps(study))
    return columns


def line_of(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", cell)]


def test_the_interval_is_that_of_scipy():
    first, second = np.random.default_rng(0).uniform(size=(2, 200))
    found = tables.interval(lambda a, b: a - b, first, second)
    expected = bootstrap(
        (first - second,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.003)
    assert tables.interval(lambda a, b: a - b, first, second) == found


def test_cases_are_drawn_together():
    first = np.random.default_rng(0).uniform(size=50)
    assert tables.interval(lambda a, b: a - b, first, first - 0.25) == pytest.approx((0.25, 0.25))


def test_whole_groups_are_drawn_where_they_are_known():
    groups = [f"patient {i % 4}" for i in range(200)]
    between = np.array([0.0, 0.1, 0.2, 0.3] * 50)  # images of one patient are the same
    alone = tables.interval(lambda a: a, between)
    together = tables.interval(lambda a: a, between, groups=groups)
    by_scipy = bootstrap(
        (between[:4],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval  # the mean of as many patients as there are
    assert together == pytest.approx((by_scipy.low, by_scipy.high), abs=0.013)
    assert together[1] - together[0] > 5 * (alone[1] - alone[0])
    assert tables.pooled_interval([between], [groups]) == pytest.approx(together, abs=0.013)
    assert tables.pooled_interval([between]) == pytest.approx(alone, abs=0.003)


def test_groups_of_unequal_size_count_by_their_images():
    values, groups = np.array([1.0, 1.0, 1.0, 0.0]), ["many", "many", "many", "one"]
    low, high = tables.pooled_interval([values], [groups])
    assert (low, high) == (0.0, 1.0)
    drawn = {0.0, 0.75, 1.0}  # one twice, each once, many twice
    means = tables._drawn_means(values, groups, np.random.default_rng(0))
    assert set(means) == drawn


def test_a_studys_groups_are_read_and_told(tmp_path):
    put_study(tmp_path)
    path = tmp_path / "tiny" / "set_dice.csv"
    alone = numbers(line_of(tables.tables_of(tables.read_results(path.parent)), "unet")[3])
    lines = [{"case": line["case"], "group": f"p{i // 10}", **line} for i, line in enumerate(read_csv(path))]
    write_csv(path, lines)
    text = tables.tables_of(tables.read_results(path.parent))
    assert "### set, 40 test images of 4 groups" in text
    told = numbers(line_of(text, "unet")[3])
    assert told[0] == alone[0]
    assert told[1:] != alone[1:]
    write_csv(path, [line | {"group": ""} if i == 3 else line for i, line in enumerate(lines)])
    assert tables.read_results(path.parent).groups["set"] is None  # of one image it is not known


def test_images_of_one_group_have_no_interval_and_the_caption_says_why(tmp_path):
    put_study(tmp_path)
    folder = tmp_path / "tiny"
    assert "(-)" not in tables.tables_of(tables.read_results(folder))
    lines = [{"case": line["case"], "group": "p", **line} for line in read_csv(folder / "set_dice.csv")]
    write_csv(folder / "set_dice.csv", lines)
    write_csv(folder / "later_dice.csv", [line | {"group": f"p{i}"} for i, line in enumerate(lines)])
    text = tables.tables_of(tables.read_results(folder)._replace(runs=several_sets(folder)))
    alone, _, rest = text.partition("### later")
    assert re.fullmatch(r"-0\.0\d\d \(-\)", line_of(alone, "unet")[3])
    assert len(numbers(line_of(rest.partition("###")[0], "unet")[3])) == 3
    assert [cell[-3:] for cell in line_of(text, "set")[8:10]] == ["(-)", "(-)"]
    assert line_of(text.partition("### All data sets")[2], "unet")[1].endswith(" (-)")  # set would seem certain
    assert "(-): no interval can be given where all test images of a set are of one group (set)." in text


def several_sets(folder: Path) -> list[dict[str, str]]:
    runs = read_csv(folder / "runs.csv")
    return runs + [run | {"dataset": "later"} for run in runs]


def test_a_rows_numbers_are_those_of_its_columns(tmp_path):
    columns = put_study(tmp_path)
    text = tables.tables_of(tables.read_results(tmp_path / "tiny"))
    assert "### set, 40 test images" in text
    assert "later" not in text.replace("later: ", "")
    ours = line_of(text, "icmoe")
    means = [columns[f"icmoe/seed_{seed}/voted"].mean() for seed in (0, 1)]
    assert ours[:5] == ["icmoe", f"{np.mean(means):.3f}", f"{np.std(means, ddof=1):.3f}", "-", "2"]
    assert ours[5:] == ["0.003", "2.50", "300", "700", "31"]
    unet = line_of(text, "unet")
    difference = np.mean([columns[f"unet/seed_{s}/voted"] - columns[f"icmoe/seed_{s}/voted"] for s in (0, 1)], axis=0)
    value, low, high = numbers(unet[3])
    assert value == pytest.approx(difference.mean(), abs=6e-4)
    margin = 1.96 * difference.std() / np.sqrt(NUM_CASES)
    assert (low, high) == pytest.approx((difference.mean() - margin, difference.mean() + margin), abs=2e-3)
    assert not [line for line in text.splitlines() if line.startswith("| depth_1 |")]


def test_a_row_is_compared_over_the_seeds_that_both_have(tmp_path):
    columns = put_study(tmp_path, seeds=(0, 1), unet_seeds=(1, 2))
    unet = line_of(tables.tables_of(tables.read_results(tmp_path / "tiny")), "unet")
    assert unet[4] == "2"
    expected = (columns["unet/seed_1/voted"] - columns["icmoe/seed_1/voted"]).mean()
    assert numbers(unet[3])[0] == pytest.approx(expected, abs=6e-4)


def test_a_row_made_of_all_seeds_is_compared_with_all_seeds(tmp_path):
    columns = put_study(tmp_path, seeds=(0, 1, 2), unet_seeds=(0,))
    path = tmp_path / "tiny" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"once": ["unet"]}))
    text = tables.tables_of(tables.read_results(tmp_path / "tiny"))
    ours = np.mean([columns[f"icmoe/seed_{seed}/voted"] for seed in (0, 1, 2)], axis=0)
    expected = (columns["unet/seed_0/voted"] - ours).mean()
    assert numbers(line_of(text, "unet")[3])[0] == pytest.approx(expected, abs=6e-4)
    assert "of 14 runs finished" in text  # of three rows, two in three seeds and one once, over two sets


@pytest.mark.parametrize(("seeds", "unet_seeds"), [((0,), (1,)), ((), (0,))], ids=["no-shared", "no-icmoe"])
def test_without_a_shared_seed_nothing_is_compared(tmp_path, seeds, unet_seeds):
    put_study(tmp_path, seeds=seeds, unet_seeds=unet_seeds)
    text = tables.tables_of(tables.read_results(tmp_path / "tiny"))
    unet = line_of(text, "unet")
    assert unet[2:5] == ["-", "-", "1"]
    assert ("The experts of" in text) == bool(seeds)


def test_all_sets_count_alike_however_many_images_they_have(tmp_path):
    put_study(tmp_path)
    folder = tmp_path / "tiny"
    assert "All data sets" not in tables.tables_of(tables.read_results(folder))  # there is one
    few = [
        {"case": f"l{i}", "icmoe/seed_0/voted": 0.9, "icmoe/seed_0/mean_vote": 0.8, "unet/seed_0/voted": 0.4 + 0.1 * i}
        for i in range(4)
    ]
    lines = [{f"{key}": f"{value:.4f}" if key != "case" else value for key, value in line.items()} for line in few]
    more = {f"icmoe/seed_0/{method}": "0.5000" for method in METHODS if method not in ("voted", "mean_vote")}
    write_csv(folder / "later_dice.csv", [line | more for line in lines])
    results = tables.read_results(folder)
    runs = results.runs + [run | {"dataset": "later"} for run in results.runs if run["seed"] == "0"]
    text = tables.tables_of(results._replace(runs=runs)).partition("### All data sets")[2]
    large = [results.dice["set"]["icmoe", 0, "voted"] - results.dice["set"]["unet", 0, "voted"]]
    large += [results.dice["set"]["icmoe", 1, "voted"] - results.dice["set"]["unet", 1, "voted"]]
    expected = (np.mean(large) + np.mean([0.5, 0.4, 0.3, 0.2])) / 2
    cells = line_of(text, "unet")
    value, low, high = numbers(cells[1])
    assert value == pytest.approx(expected, abs=6e-5)
    deviation = np.hypot(np.mean(large, axis=0).std() / np.sqrt(NUM_CASES), np.std([0.5, 0.4, 0.3, 0.2]) / 2) / 2
    assert (value - low, high - value) == pytest.approx((1.96 * deviation,) * 2, rel=0.15)
    assert cells[2:] == ["2", "2"]
    assert numbers(line_of(text, "its mean vote")[1])[0] > 0


def test_the_gain_is_over_the_expert_that_is_best_in_each_sample(tmp_path):
    columns = put_study(tmp_path)
    line = line_of(tables.tables_of(tables.read_results(tmp_path / "tiny")), "set")
    dice = {m: np.mean([columns[f"icmoe/seed_{seed}/{m}"] for seed in (0, 1)], axis=0) for m in METHODS}
    assert [float(cell) for cell in line[1:7]] == pytest.approx([dice[m].mean() for m in METHODS], abs=6e-4)
    assert line[7] == "0.20 / 0.30 / 0.50"
    gain = dice["voted"].mean() - max(dice[expert].mean() for expert in EXPERTS)
    assert numbers(line[8])[0] == pytest.approx(gain, abs=6e-4)
    over_mean = numbers(line[9])
    assert over_mean[0] == pytest.approx((dice["voted"] - dice["mean_vote"]).mean(), abs=6e-4)
    assert over_mean[1] < over_mean[0] < over_mean[2]
    assert line[10] == "2"
    equal = np.random.default_rng(0).uniform(size=NUM_CASES)
    others = np.random.default_rng(1).permutation(equal)
    low, high = tables.interval(lambda voted, *experts: voted - np.max(experts, axis=0), equal, equal, others)
    assert high == 0  # the expert that equals the vote is always there to be chosen
    assert low < 0


def test_the_caption_says_where_the_numbers_come_from(tmp_path):
    put_study(tmp_path)
    text = tables.tables_of(tables.read_results(tmp_path / "tiny"))
    assert "`configs/studies/tiny.yaml`, 4 of 18 runs finished. Settings: image_size 64; set: longest_side 96." in text
    assert "Trunk: t 12. Commit: abc. Made on A CPU, 2 at a time, 1 threads each; PyTorch 2, MONAI 1." in text


def test_the_peak_of_a_gpu_counts_where_there_was_one(tmp_path):
    put_study(tmp_path)
    path = tmp_path / "tiny" / "runs.csv"
    path.write_text(path.read_text().replace("700.4,,", "3000.0,123.4,").replace("A CPU,,", "A CPU,A GPU,"))
    text = tables.tables_of(tables.read_results(tmp_path / "tiny"))
    assert line_of(text, "icmoe")[8] == "123"
    assert "Made on A GPU, 2 at a time" in text


def test_tables_stand_between_their_marks_and_nothing_else_changes(tmp_path):
    put_study(tmp_path / "results")
    put_study(tmp_path / "results", name="other")
    marks = "<!-- study tiny: begin -->\nold\n<!-- study tiny: end -->"
    (tmp_path / "results.md").write_text(f"# Results\n\nbefore\n\n{marks}\n\nafter\n")
    docs = ["--docs", str(tmp_path)]
    assert tables.main(["--check", *docs]) == 1
    assert tables.main(docs) == 0
    text = (tmp_path / "results.md").read_text()
    assert tables.main(["--check", *docs]) == 0
    assert text.startswith("# Results\n\nbefore\n\n<!-- study tiny: begin -->\n\n`configs/studies/tiny.yaml`")
    assert "\n\n<!-- study tiny: end -->\n\nafter\n\n## Study other\n\n<!-- study other: begin -->\n\n" in text
    assert "old" not in text
    (tmp_path / "results.md").write_text(text.replace("0.003", "0.004"))
    assert tables.main(["--check", *docs]) == 1


def test_a_document_without_studies_stays_as_it_is(tmp_path):
    (tmp_path / "results.md").write_text("# Results\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "begun").mkdir()
    (tmp_path / "results" / "begun" / "study.json").write_text('{"datasets": {}, "name": "begun", "rows": {}}')
    for arguments in (["--check"], []):
        assert tables.main([*arguments, "--docs", str(tmp_path)]) == 0
    assert (tmp_path / "results.md").read_text() == "# Results\n"


def test_seeds_of_other_test_images_are_told_and_not_averaged(tmp_path):
    put_study(tmp_path)
    path = tmp_path / "tiny" / "set_dice.csv"
    lines = read_csv(path)
    write_csv(path, [lines[0] | {"unet/seed_1/voted": ""}, *lines[1:]])
    with pytest.raises(InputError, match=r"set_dice\.csv lacks values of unet/seed_1/voted: its seeds have other test"):
        tables.read_results(tmp_path / "tiny")
