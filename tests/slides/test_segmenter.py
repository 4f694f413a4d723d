"""Large images as a user runs them: a folder of slides in, pyramidal masks and votes, overviews and one report out."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from shipped import NETWORK as SHIPPED
from shipped import write_restless
from stand_ins import COLOURS, Windowed, noise, whole

from icmoe_monai.calibration.file import OUTPUT_SETTINGS
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.errors import InputError, find_input_error
from icmoe_monai.imageio.read import LARGE_SUFFIXES
from icmoe_monai.inference.inputs import find_inputs
from icmoe_monai.inferers.voting import SlidingWindowVotingInferer
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.slides.pyramid_tiff import PyramidWriter
from icmoe_monai.slides.segmenter import LargeSegmenter
from icmoe_monai.slides.streaming import StreamingVotingInferer
from icmoe_monai.transforms.votes import decide
from icmoe_monai.utils.locks import LOCK
from icmoe_monai.visualize.overlay import class_colour

ROOT = Path(__file__).parents[2]
NETWORK = dict(SHIPPED)
INFERENCE, LARGE = (str(ROOT / "configs" / name) for name in ("inference.json", "inference_large.yaml"))
# MONAI warns of configs being code at every workflow
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let all runs take weights that find something in windows of 64 pixels, where the shipped model finds nothing."""
    NETWORK["checkpoint"] = str(write_restless(tmp_path_factory.mktemp("weights") / "restless.pt"))


def run(folder: Path, output: Path, **overrides: object) -> ConfigWorkflow:
    arguments = {
        "dataset_dir": str(folder),
        "output_dir": str(output),
        "image_size": 64,
        "recipe": "none",
        **NETWORK,
        "device": "cpu",
    }
    flow = ConfigWorkflow(
        config_file=[INFERENCE, LARGE], workflow_type="infer", logging_file=False, **arguments | overrides
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow


def refused(folder: Path, output: Path, **overrides: object) -> str:
    """Return the sentence that a run ends with."""
    with pytest.raises((InputError, RuntimeError)) as raised:
        run(folder, output, **overrides)
    return str(find_input_error(raised.value))


def cases_of(output: Path) -> dict[str, dict]:
    return {case["name"]: case for case in json.loads((output / "report.json").read_text())["cases"]}


@pytest.fixture(scope="module")
def slide() -> np.ndarray:
    """A phantom in the left part, and glass in the right one."""
    pixels = np.full((150, 330, 3), 240, dtype=np.uint8)
    pixels[:, :150] = draw_dermoscopy(np.random.default_rng(2), (150, 150))[0]
    return pixels


@pytest.fixture(scope="module")
def folder(slide: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slides")
    (root / "patient 1").mkdir()
    about = {"photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(
        root / "patient 1" / "ü.svs", slide, tile=(64, 64), resolution=(5000, 2500), resolutionunit=3, **about
    )
    Image.fromarray(slide[:50, :40]).save(root / "small.png")
    tifffile.imwrite(root / "short.tif", slide, tile=(64, 64), **about)
    (root / "short.tif").write_bytes((root / "short.tif").read_bytes()[:-20_000])
    (root / "notes.txt").write_text("none")
    return root


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out")
    assert refused(folder, output).startswith(
        "1 of 3 images could not be used, the others are done; report.json says why. The first: short.tif is damaged"
    )
    return output


def test_every_slide_gets_its_files_and_a_bad_one_leaves_none(results: Path) -> None:
    # the folder is held until the error is gone
    found = (path for path in results.rglob("*") if path.is_file() and path.name != LOCK)
    written = {path.relative_to(results).as_posix() for path in found}
    names = ("patient 1/ü", "small")
    assert written == {
        *(f"{kind}/{name}.tif" for kind in ("masks", "votes") for name in names),
        *(f"overlays/{name}.png" for name in names),
        *(f"outlines/{name}.geojson" for name in names),
        "report.json", "report.csv", "report.html", "cases.jsonl",
    }  # fmt: skip


def test_the_report_tells_of_scale_windows_and_memory(results: Path) -> None:
    case = cases_of(results)["patient 1/ü.svs"]
    assert (case["height"], case["width"], case["spacing_mm"]) == (150, 330, [0.004, 0.002])
    assert case["windows_run"] + case["windows_skipped"] == 3 * 7
    assert case["windows_skipped"] == 3 * 3  # those that begin after column 150
    assert case["peak_mb"] > 100
    mask = tifffile.imread(results / case["mask"])
    assert case["foreground_pixels"] == [int((mask == 255).sum())]
    assert case["foreground_pixels"][0] > 1000
    assert case["area_mm2"] == pytest.approx([case["foreground_pixels"][0] * 0.004 * 0.002])
    assert case["foreground_share"] == pytest.approx([(mask == 255).mean()])


def test_files_lie_on_the_slides_grid_and_keep_its_scale(results: Path) -> None:
    with tifffile.TiffFile(results / "masks" / "patient 1" / "ü.tif") as file:
        page = file.pages[0]
        assert (page.shape, page.is_tiled) == ((150, 330), True)
        assert page.resolution == (5000, 2500)
        assert set(np.unique(page.asarray())) == {0, 255}
    votes = tifffile.imread(results / "votes" / "patient 1" / "ü.tif")
    assert votes.shape == (150, 330, 3)
    assert np.abs(votes.astype(int).sum(axis=-1) - 255).max() <= 1
    assert (votes[:, 250:] == 85).all()  # a third each on glass


def test_the_overview_outlines_what_was_found(results: Path, slide: np.ndarray) -> None:
    overview = np.asarray(Image.open(results / "overlays" / "patient 1" / "ü.png"))
    assert overview.shape[1] == 330
    drawn = (overview[:150] == class_colour(1)).all(axis=-1)
    mask = tifffile.imread(results / "masks" / "patient 1" / "ü.tif") > 0
    assert drawn.any()
    assert not (drawn[4:-4, 4:-4] & mask[4:-4, 4:-4]).any()  # lines lie around what was found
    np.testing.assert_array_equal(overview[:150, 220:], slide[:, 220:])  # where no window was run


def test_without_skipping_the_mask_is_that_of_the_image_in_memory(
    folder: Path, slide: np.ndarray, tmp_path: Path
) -> None:
    flow = run(folder / "patient 1", tmp_path, skip_background=False, votes=False)
    network, windows = (flow.parser.get_parsed_content(name) for name in ("network", "inferer"))
    voted = whole(slide, network.eval(), windows)[:1]
    expected = decide(voted)[0].numpy() * 255
    assert set(np.unique(expected)) == {0, 255}
    is_clear = (voted[0] - 0.5).abs().numpy() > 1e-5  # nearer, rounding may decide
    assert is_clear.mean() > 0.999
    mask = tifffile.imread(tmp_path / "masks" / "ü.tif")
    np.testing.assert_array_equal(mask[is_clear], expected[is_clear])
    assert not (tmp_path / "votes").exists()
    assert cases_of(tmp_path)["ü.svs"]["windows_skipped"] == 0


def test_a_second_run_does_what_is_missing(folder: Path, results: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.tif")}
    (results / "votes" / "small.tif").unlink()
    refused(folder, results)
    after = {path: path.stat().st_mtime_ns for path in results.rglob("*.tif")}
    assert {path.relative_to(results).as_posix() for path in before if before[path] != after[path]} == {
        "masks/small.tif", "votes/small.tif",
    }  # fmt: skip
    assert "overlap" in refused(folder, results, overlap=0.5)


def test_names_can_be_hidden(folder: Path, tmp_path: Path) -> None:
    run(folder / "patient 1", tmp_path, anonymous="a long secret of ours", votes=False)
    assert "ü" not in (tmp_path / "report.json").read_text(encoding="utf-8")
    (mask,) = (tmp_path / "masks").iterdir()
    assert mask.name.startswith("case_")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"level": -1}, "level must be a whole number of at least 0, got -1"),
        ({"level": 1.5}, "level must be a whole number of at least 0, got 1.5"),
        ({"level": 3}, "has no level 3; it has 0: 330 x 150"),
        ({"skip_background": "false"}, "skip_background must be True or False, got 'false'"),
        (
            {"level": 1, "um_per_pixel": 0.5},
            "level and um_per_pixel both say how large pixels are: give one, got 1 and 0.5",
        ),
        ({"um_per_pixel": 0.5}, "which is coarser than um_per_pixel (0.5): give 4 or more"),
        ({"outlines": "false"}, "outlines must be True or False, got 'false'"),
        ({"votes": "false"}, "votes must be True or False, got 'false'"),
        ({"labels": ["benign", "malignant"]}, "labels must name 1 foreground classes, got ['benign', 'malignant']"),
        ({"white_level": 999}, "white_level must be a whole number from 11 to 255, got 999"),
    ],
    ids=["negative", "fraction", "not there", "skip", "two", "coarse", "outlines", "votes", "labels", "white level"],
)
def test_a_setting_that_cannot_be_is_refused(folder: Path, tmp_path: Path, overrides: dict, sentence: str) -> None:
    assert sentence in refused(folder / "patient 1", tmp_path, **overrides)


def test_a_full_disk_stops_the_run_and_leaves_no_mask(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("icmoe_monai.slides.pyramid_tiff._Level._keep_tiles", refuse)
    sentence = refused(folder / "patient 1", tmp_path)
    assert "No space left on device. Free some space there, or choose another folder." in sentence
    assert not list(tmp_path.rglob("*.tif"))
    assert json.loads((tmp_path / "report.json").read_text())["complete"] is False


def test_a_name_that_is_taken_fails_its_case_and_no_other(tmp_path: Path) -> None:
    """The mask of `a.png` has the name of the folder for the masks of what lies in `a.tif`."""
    (tmp_path / "in" / "a.tif").mkdir(parents=True)
    for name in ("a.png", "a.tif/b.png", "c.png"):
        Image.fromarray(noise(40, 40)).save(tmp_path / "in" / name)
    assert refused(tmp_path / "in", tmp_path / "out").startswith("1 of 3 images could not be used")
    cases = cases_of(tmp_path / "out")
    assert {name: case["status"] for name, case in cases.items()} == {
        "a.png": "done", "a.tif/b.png": "failed", "c.png": "done",
    }  # fmt: skip
    assert cases["a.tif/b.png"]["error"].startswith("Cannot write b.tif in output_dir/masks/a.tif")
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()


def test_large_files_are_found_by_their_names_and_not_looked_into(folder: Path, tmp_path: Path) -> None:
    found = find_inputs(str(folder), output_dir=str(tmp_path), large=True)
    assert [case["name"] for case in found.cases] == ["patient 1/ü.svs", "short.tif", "small.png"]
    assert not any(case["failure"] for case in found.cases)
    assert [file["name"] for file in found.left_out] == ["notes.txt"]
    assert {".svs", ".mrxs", ".tif", ".png"} < set(LARGE_SUFFIXES)
    with pytest.raises(InputError, match=r"notes\.txt is no image of a kind that is read here \(\.png.*\.svs"):
        find_inputs(str(folder / "notes.txt"), output_dir=str(tmp_path), large=True)


def segmenter(network: Windowed, output: Path, **settings: object) -> LargeSegmenter:
    windows = SlidingWindowVotingInferer(roi_size=32, overlap=0.25)
    inferer = StreamingVotingInferer(windows=windows, **COLOURS)
    return LargeSegmenter(network=network, inferer=inferer, output_dir=output, **settings)


def test_classes_are_written_as_their_indices(tmp_path: Path) -> None:
    Image.fromarray(noise(60, 70)).save(tmp_path / "a.png")
    network = Windowed(3).requires_grad_(False)
    segment = segmenter(network, tmp_path / "out", labels=["benign", "malignant"])
    (case,) = segment(Engine(segment), {"image": str(tmp_path / "a.png"), "name": "a.png"})
    mask = tifffile.imread(tmp_path / "out" / case["mask_path"])
    counts = np.bincount(mask.ravel(), minlength=3)
    assert case["foreground_pixels"] == counts[1:].tolist()
    assert (counts > 0).all()
    assert case["area_mm2"] is None


@pytest.mark.parametrize("value", [0, 128, 250])
def test_review_is_advised_of_an_image_that_is_the_same_everywhere(tmp_path: Path, value: int) -> None:
    Image.new("L", (70, 60), value).save(tmp_path / "a.png")
    segment = segmenter(Windowed(1).requires_grad_(False), tmp_path / "out")
    (case,) = segment(Engine(segment), {"image": str(tmp_path / "a.png"), "name": "a.png"})
    assert case["review"] is True
    assert case["note"] == "a.png is the same in all its pixels, so there is nothing to see in it: look at it."
    Image.fromarray(noise(60, 70)).save(tmp_path / "a.png")
    (case,) = segment(Engine(segment), {"image": str(tmp_path / "a.png"), "name": "a.png"})
    assert "note" not in case


def test_a_prediction_that_is_no_number_is_a_failed_case(tmp_path: Path) -> None:
    Image.fromarray(noise(60, 70)).save(tmp_path / "a.png")
    network = Windowed(1).requires_grad_(False)
    torch.nn.init.constant_(network.maps.weight, float("nan"))
    segment = segmenter(network, tmp_path / "out")
    (case,) = segment(Engine(segment), {"image": str(tmp_path / "a.png"), "name": "a.png"})
    assert "The prediction of a.png is not a number in places" in case["failure"]
    assert "mask_path" not in case
    assert not list(tmp_path.rglob("*.tif"))


def test_the_mask_comes_after_the_votes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a mask, its votes are there."""
    written: list[str] = []
    save = PyramidWriter._write
    monkeypatch.setattr(
        PyramidWriter, "_write", lambda writer, path: written.append(writer.path.parent.name) or save(writer, path)
    )
    Image.fromarray(noise(40, 40)).save(tmp_path / "a.png")
    segment = segmenter(Windowed(1).requires_grad_(False), tmp_path / "out")
    segment(Engine(segment), {"image": str(tmp_path / "a.png"), "name": "a.png"})
    assert written == ["votes", "masks"]


def test_the_overlay_keeps_to_what_inference_has() -> None:
    inference = ConfigParser(ConfigParser.load_config_files([INFERENCE]))
    large = ConfigParser.load_config_file(LARGE)
    new = {"level", "um_per_pixel", "skip_background", "white_level", "votes", "outlines", "streaming", "segmenter"}
    arguments = {"inputs#large", "volumes#whole_slides", "report#further", "evaluator#iteration_update"}
    assert {key for key in large if key not in inference} == new | arguments
    assert all(key.partition("#")[0] in inference for key in arguments)
    assert large["settings"] == {name: f"@{name}" for name in OUTPUT_SETTINGS if name != "longest_side"}
    not_of_slides = {"overlays", "probability_maps", "disagreement_maps", "review_below"}
    of_images = {name: told for name, told in inference["written"].items() if name not in not_of_slides}
    assert large["written"].items() >= of_images.items()
    assert large["written"].items() >= {name: f"@{name}" for name in new - {"streaming", "segmenter"}}.items()
    parser = ConfigParser(ConfigParser.load_config_files([INFERENCE, LARGE]))
    assert parser.get_parsed_content("streaming").windows is parser.get_parsed_content("inferer")


def test_an_ensemble_of_folds_is_the_mean_of_its_folds_with_views_too(tmp_path: Path) -> None:
    Image.fromarray(noise(60, 70)).save(tmp_path / "a.png")
    folds = [Windowed(1).requires_grad_(False) for _ in range(2)]
    votes, masks = [], []
    for name, network in (("0", folds[0]), ("1", folds[1]), ("both", FoldEnsemble(folds).eval())):
        windows = SlidingWindowVotingInferer(roi_size=32, overlap=0.25, tta="flips")
        inferer = StreamingVotingInferer(windows=windows, **COLOURS)
        segment = LargeSegmenter(network=network, inferer=inferer, output_dir=tmp_path / name)
        (case,) = segment(Engine(segment), {"image": str(tmp_path / "a.png"), "name": "a.png"})
        votes.append(tifffile.imread(tmp_path / name / case["votes"]).astype(float))
        masks.append(tifffile.imread(tmp_path / name / case["mask_path"]) > 0)
    assert votes[2].shape == votes[0].shape
    assert np.abs(votes[2] - (votes[0] + votes[1]) / 2).max() <= 1.01  # each is rounded to 8 bits
    both = masks[0] == masks[1]
    assert (masks[2] == masks[0])[both].all()
    assert not both.all()
