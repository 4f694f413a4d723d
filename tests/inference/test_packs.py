"""Several packs of experts over one trunk: each gives what it gives alone, and the trunk runs once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from modes import randomise
from monai.bundle import ConfigWorkflow
from PIL import Image
from pydicom.data import get_testdata_file
from shipped import NETWORK, NETWORK_WORDS
from torch import Tensor

from icmoe_monai.__main__ import main
from icmoe_monai.calibration.file import Calibration
from icmoe_monai.calibration.ood import fit_out_of_distribution, out_of_distribution_from
from icmoe_monai.data.phantoms import draw_dermoscopy
from icmoe_monai.errors import InputError
from icmoe_monai.inference.choice import PackChoice
from icmoe_monai.inference.packs import ExpertPacks, run_packs, shared_parts
from icmoe_monai.inference.writing import SaveImage2Dd
from icmoe_monai.networks.decoder import NoDetail
from icmoe_monai.networks.folds import FoldEnsemble
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.networks.pyramid import ImagePyramid
from icmoe_monai.utils.files import read_csv

ROOT = Path(__file__).parents[2]
SETTINGS = ["--num_workers", "0", "--device", "cpu", "--image_size", "64", "--recipe", "none", *NETWORK_WORDS]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def network() -> ICMoE:
    """Return a network with experts of its own over a trunk that is always the same."""
    made = ICMoE(detail=NoDetail()).eval()
    randomise(made.decoders, 0.2)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in made.encoder.parameters():
            weight.normal_(std=0.05, generator=generator)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 80)), ("b.png", (48, 40)), ("sub/c.png", (33, 90))):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("both")
    further = [*SETTINGS, "--probability_maps", "true", "--experts", "skin,breast"]
    assert main(["predict", str(folder), str(output), *further]) == 0
    return output


@pytest.mark.parametrize("pack", ["skin", "breast"])
def test_a_pack_gives_bit_for_bit_what_it_gives_alone(folder: Path, both: Path, tmp_path: Path, pack: str) -> None:
    alone = tmp_path / pack
    assert main(["predict", str(folder), str(alone), *SETTINGS, "--probability_maps", "true", "--experts", pack]) == 0
    images = sorted(path.relative_to(alone) for path in alone.rglob("*.png"))
    assert len(images) == 3 * 3  # masks, overlays, probabilities
    assert images == sorted(path.relative_to(both / pack) for path in (both / pack).rglob("*.png"))
    for path in images:
        assert (alone / path).read_bytes() == (both / pack / path).read_bytes(), path
    for one, other in zip(read_csv(alone / "report.csv"), read_csv(both / pack / "report.csv"), strict=True):
        assert {**one, "seconds": None} == {**other, "seconds": None}


def test_the_packs_do_not_agree_by_chance(both: Path) -> None:
    maps = [np.asarray(Image.open(both / pack / "probabilities" / "a.png")) for pack in ("skin", "breast")]
    assert (maps[0] != maps[1]).any()


def test_a_finished_run_is_not_done_again_and_a_new_pack_joins(
    folder: Path, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    voters: list[int] = []
    forward = ImagePyramid.forward

    def count_frozen(self: ImagePyramid, image: torch.Tensor) -> list[torch.Tensor]:
        runs.extend([] if self.to2[0][0].weight.requires_grad else [1])
        return forward(self, image)

    monkeypatch.setattr(ImagePyramid, "forward", count_frozen)
    maps_of = ICMoE.maps_of
    monkeypatch.setattr(ICMoE, "maps_of", lambda self, *rest: voters.append(id(self)) or maps_of(self, *rest))
    stamps = {path: path.stat().st_mtime_ns for path in both.rglob("*.png")}
    again = [*SETTINGS, "--probability_maps", "true", "--experts", "breast,skin"]
    assert main(["predict", str(folder), str(both), *again]) == 0
    assert runs == []
    assert {path: path.stat().st_mtime_ns for path in both.rglob("*.png")} == stamps
    assert main(["predict", str(folder), str(tmp_path), *SETTINGS, "--experts", "skin,breast"]) == 0
    assert len(runs) == 3  # images, not images times packs
    assert len(voters) == 6
    (tmp_path / "breast" / "masks" / "b.png").unlink()
    assert main(["predict", str(folder), str(tmp_path), *SETTINGS, "--experts", "skin,breast"]) == 0
    assert len(runs) == 4
    assert len(voters) == 7  # skin's experts have nothing to do
    assert (tmp_path / "breast" / "masks" / "b.png").is_file()


def calibration_with(axis: int, size: int = 2 * 192) -> Calibration:
    """Return a calibration that knows features along one axis alone."""
    along = [np.eye(size)[axis : axis + 1]] * 20
    calibration = Calibration(reason="none")
    content = fit_out_of_distribution(np.concatenate(along), along, along, false_alarms=0.05)[0]
    calibration.ood = out_of_distribution_from({**content, "threshold": 0.5})
    return calibration


class Looking:
    """An inferer that finds in an image the features that its first pixel names."""

    def look(self, image: Tensor, network: Any) -> Tensor:
        return torch.eye(2 * 192)[int(image[0, 0, 0, 0])][None, None]


def batch_of(name: str, axis: int, failure: str = "") -> dict[str, Any]:
    return {"name": [name], "image": torch.full((1, 3, 4, 4), float(axis)), "failure": [failure]}


def test_each_image_goes_to_the_pack_that_knows_it_or_to_none() -> None:
    choice = PackChoice({"breast": calibration_with(0), "skin": calibration_with(1)})
    axes = {"us.png": 0, "skin.png": 1, "other.png": 2}
    cases = [{"name": name, "group": None} for name in (*axes, "bad.png")]
    batches = [*(batch_of(*item) for item in axes.items()), batch_of("bad.png", 0, "bad.png is empty.")]
    rows = choice.choose(cases, batches, None, Looking(), torch.device("cpu"))
    chosen = {name: row["experts"] for name, row in rows.items()}
    assert chosen == {"us.png": "breast", "skin.png": "skin", "other.png": None, "bad.png": "breast"}
    assert rows["us.png"]["breast_score"] < 1 < rows["us.png"]["skin_score"]
    assert "skin_score" not in rows["bad.png"]


def test_the_slices_of_a_volume_stay_together() -> None:
    choice = PackChoice({"breast": calibration_with(0), "skin": calibration_with(1)})
    cases = [{"name": f"v/{i}", "group": "v"} for i in range(3)]
    rows = choice.choose(
        cases, [batch_of(f"v/{i}", int(i == 2)) for i in range(3)], None, Looking(), torch.device("cpu")
    )
    assert len({row["experts"] for row in rows.values()}) == 1


def test_auto_needs_a_score_of_every_pack() -> None:
    reason = "The calibration b was fitted with other settings (tta none and here flips)."
    with pytest.raises(InputError, match=r"no calibration tells of the experts breast\. The .* \(tta none and here"):
        PackChoice({"skin": calibration_with(1), "breast": Calibration(reason=reason)})


def test_auto_makes_masks_where_a_pack_knows_the_image_and_says_where_none_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(images / "noise.png")
    picture, _ = draw_dermoscopy(np.random.default_rng(1), (200, 256))
    Image.fromarray(picture).save(images / "skin.png")
    chosen = {"noise.png": None, "skin.png": "skin"}
    monkeypatch.setattr(
        PackChoice, "choose", lambda self, *given: {name: {"name": name, "experts": of} for name, of in chosen.items()}
    )
    words = ["predict", str(images), str(output), "--experts", "auto", "--num_workers", "0", "--device", "cpu"]
    assert main(words) == 0
    assert {row["name"]: row["experts"] for row in read_csv(output / "experts.csv")} == {
        "noise.png": "none", "skin.png": "skin"
    }  # fmt: skip
    report = json.loads((output / "skin" / "report.json").read_text())
    assert report["complete"]
    assert [case["name"] for case in report["cases"]] == ["skin.png"]
    assert not (output / "breast").exists()
    (output / "skin" / "report.html").unlink()
    assert main(words) == 0  # there is nothing to segment, and the report is written all the same
    assert (output / "skin" / "report.html").is_file()
    monkeypatch.undo()
    assert main([*words, "--overwrite"]) == 0  # by the shipped calibrations
    rows = {row["name"]: row for row in read_csv(output / "experts.csv")}
    assert rows["noise.png"]["experts"] == "none"
    assert all(float(rows["noise.png"][f"{pack}_score"]) > 1 for pack in ("skin", "breast"))


def test_auto_tells_what_failed_though_no_pack_has_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, output = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    (images / "bad.png").touch()
    for _ in range(2):
        assert main(["predict", str(images), str(output), "--experts", "auto", "--device", "cpu"]) == 3
        assert "1 of 1 images could not be used" in capsys.readouterr().err
    (pack,) = (path for path in output.iterdir() if path.is_dir())
    assert json.loads((pack / "report.json").read_text())["num_failed"] == 1


def test_what_an_earlier_run_had_of_another_pack_is_not_left_by_overwrite(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to(pack: str) -> None:
        def choose(self: PackChoice, cases: Any, *given: Any) -> dict[str, Any]:
            return {case["name"]: {"name": case["name"], "experts": pack} for case in cases}

        monkeypatch.setattr(PackChoice, "choose", choose)

    words = ["predict", str(folder), str(tmp_path), *SETTINGS, "--experts", "auto"]
    monkeypatch.setattr(PackChoice, "__init__", lambda self, judges: None)
    to("skin")
    assert main(words) == 0
    to("breast")
    assert main([*words, "--overwrite"]) == 0
    num_cases = {
        pack: json.loads((tmp_path / pack / "report.json").read_text())["num_cases"] for pack in ("skin", "breast")
    }
    assert num_cases == {"skin": 0, "breast": 3}


def test_an_anonymous_run_names_cases_alike_in_all_packs(folder: Path, tmp_path: Path) -> None:
    assert main(["predict", str(folder), str(tmp_path), *SETTINGS, "--experts", "skin,breast", "--anonymous"]) == 0
    names = [sorted(path.name for path in (tmp_path / pack / "masks").iterdir()) for pack in ("skin", "breast")]
    assert names[0] == names[1]
    assert all(name.startswith("case_") for name in names[0])


def test_a_bad_image_fails_in_every_report_and_the_others_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "in"
    images.mkdir()
    Image.new("RGB", (64, 64), (90, 20, 40)).save(images / "good.png")
    (images / "bad.png").touch()
    assert main(["predict", str(images), str(tmp_path / "out"), *SETTINGS, "--experts", "skin,breast"]) == 3
    assert "1 of 2 images could not be used, the others are done" in capsys.readouterr().err
    for pack in ("skin", "breast"):
        report = json.loads((tmp_path / "out" / pack / "report.json").read_text())
        assert (report["complete"], report["num_failed"], report["num_cases"]) == (True, 1, 2)
        assert (tmp_path / "out" / pack / "masks" / "good.png").is_file()


def test_a_stopped_run_leaves_every_report(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: ExpertPacks, tokens: Tensor, levels: list[Tensor], names: list[str]) -> dict[str, Tensor]:
        raise KeyboardInterrupt

    monkeypatch.setattr(ExpertPacks, "maps_of", stop)
    assert main(["predict", str(folder), str(tmp_path), *SETTINGS, "--experts", "skin,breast"]) == 130
    for pack in ("skin", "breast"):
        report = json.loads((tmp_path / pack / "report.json").read_text())
        assert (report["complete"], report["stopped_by"]) == (False, "KeyboardInterrupt")
        assert (tmp_path / pack / "report.html").is_file()


def test_what_stops_one_pack_stops_all_and_every_report_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = SaveImage2Dd._write

    def refuse(self: SaveImage2Dd, item: dict, *rest: Any) -> None:
        if self.output_dir.name == "breast" and item["name"] == "b.png":
            raise InputError("The disk is full.")
        write(self, item, *rest)

    monkeypatch.setattr(SaveImage2Dd, "_write", refuse)
    assert main(["predict", str(folder), str(tmp_path), *SETTINGS, "--experts", "skin,breast"]) == 1
    assert "error: The disk is full." in capsys.readouterr().err
    for pack, names in (("skin", ["a.png", "b.png"]), ("breast", ["a.png"])):
        report = json.loads((tmp_path / pack / "report.json").read_text())
        assert (report["complete"], report["stopped_by"]) == (False, "InputError")
        assert [case["name"] for case in report["cases"]] == names


def test_packs_take_images_one_by_one_whatever_their_own_batches(folder: Path, both: Path, tmp_path: Path) -> None:
    batches = ["--dataloader#batch_size", "2", "--probability_maps", "true"]
    assert main(["predict", str(folder), str(tmp_path), *SETTINGS, *batches, "--experts", "skin,breast"]) == 0
    for path in both.rglob("*.png"):
        assert (tmp_path / path.relative_to(both)).read_bytes() == path.read_bytes()


def test_networks_over_different_trunks_are_refused() -> None:
    one, other = network(), network()
    with torch.no_grad():
        other.encoder.blocks[0].mlp.lin1.weight[0, 0] += 1
    for differing in (other, ICMoE()):
        with pytest.raises(InputError, match="experts b and a were trained on different encoders"):
            ExpertPacks({"a": one, "b": differing})


def test_maps_of_packs_are_those_of_the_networks() -> None:
    one, other = network(), network()
    image = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        maps = ExpertPacks({"a": one, "b": other}).expert_maps(image)
        assert torch.equal(maps["a"], one.expert_maps(image))
        assert torch.equal(maps["b"], other.expert_maps(image))
        assert not torch.equal(maps["a"], maps["b"])


def test_packs_that_see_images_differently_are_refused(folder: Path, tmp_path: Path) -> None:
    def flow(pack: str, **overrides: object) -> ConfigWorkflow:
        made = ConfigWorkflow(
            config_file=[str(ROOT / "configs" / "inference.json"), str(ROOT / "configs" / "experts" / f"{pack}.yaml")],
            workflow_type="infer", logging_file=False, dataset_dir=str(folder), output_dir=str(tmp_path / pack),
            device="cpu", recipe="none", **NETWORK, **overrides,
        )  # fmt: skip
        made.initialize()
        return made

    first = flow("skin", image_size=64)
    second = flow("breast", image_size=64, longest_side=128, **shared_parts(first))
    with pytest.raises(InputError, match=r"breast and skin do not see images alike \(longest_side 128 and 64\)"):
        run_packs({"skin": first, "breast": second})


def test_a_pack_that_reads_images_in_its_own_way_is_refused(folder: Path, tmp_path: Path) -> None:
    pack = tmp_path / "own.yaml"
    pack.write_text("preprocessing#transforms: []")
    with pytest.raises(InputError, match=r"own\.yaml sets preprocessing#transforms, and packs that run"):
        shared_parts(None, pack)  # type: ignore[arg-type]


def test_labels_and_inputs_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled = tmp_path / "breast"
    for name in ("images", "masks"):
        (labelled / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (200, 0, 0)).save(labelled / name / "a.png")
    before = (labelled / "masks" / "a.png").read_bytes()
    for images in (labelled / "images", labelled):
        assert main(["predict", str(images), str(tmp_path), *SETTINGS, "--experts", "skin,breast"]) == 1
        assert "choose another" in capsys.readouterr().err
    assert (labelled / "masks" / "a.png").read_bytes() == before
    assert not (tmp_path / "skin").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--experts", " skin , liver"], "--experts knows no 'liver': choose from breast, skin"),
        (["--experts", "skin,breast", "--checkpoint", "x.pt"], "--checkpoint belongs to one set of experts"),
        (["--experts", "skin,breast", "--calibration", "x.json"], "--calibration belongs to one set of experts"),
        (["--experts", "skin,skin"], "--experts names skin twice"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(["predict", str(folder), str(tmp_path), *words]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_calibrated_packs_give_volumes_and_measures_as_alone(tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    rng = np.random.default_rng(0)
    volume = nibabel.Nifti1Image(rng.integers(0, 255, (40, 30, 2)).astype(np.int16), np.diag([-2, -1.5, 3, 1]))
    nibabel.save(volume, images / "stack.nii.gz")
    (images / "ct.dcm").write_bytes(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    picture, _ = draw_dermoscopy(np.random.default_rng(1), (200, 256))
    Image.fromarray(picture).save(images / "skin.png")
    settings = ["--num_workers", "0", "--device", "cpu", "--disagreement_maps", "True", "--empty_segmentations", "True"]
    assert main(["predict", str(images), str(tmp_path / "both"), *settings, "--experts", "skin,breast"]) == 0
    for pack in ("skin", "breast"):
        alone, beside = tmp_path / pack, tmp_path / "both" / pack
        assert main(["predict", str(images), str(alone), *settings, "--experts", pack]) == 0
        files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.suffix in (".png", ".gz", ".dcm"))
        assert {path.parts[0] for path in files} == {
            "masks", "overlays", "controlled", "disagreement", "volumes", "segmentations"
        }  # fmt: skip
        for path in files:
            if path.suffix == ".dcm":
                one, other = (pydicom.dcmread(folder / path) for folder in (alone, beside))
                for keyword in ("PixelData", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber"):
                    assert one[keyword].value == other[keyword].value
            else:
                assert (alone / path).read_bytes() == (beside / path).read_bytes(), path
        rows = [read_csv(folder / "report.csv") for folder in (alone, beside)]
        assert all(row["ood_score"] for row in rows[0])
        for one, other in zip(*rows, strict=True):
            assert {**one, "seconds": None} == {**other, "seconds": None}


def test_an_ensemble_of_folds_is_a_pack_like_any_other():
    single, ensemble = network(), FoldEnsemble([network() for _ in range(2)]).eval()
    image = torch.randn(1, 3, 32, 48)
    maps = ExpertPacks({"one": single, "folds": ensemble}).expert_maps(image)
    torch.testing.assert_close(maps["one"], single.expert_maps(image), rtol=0, atol=1e-5)
    torch.testing.assert_close(maps["folds"], ensemble.expert_maps(image), rtol=0, atol=1e-5)
    with torch.no_grad():
        ensemble.folds[0].encoder.pos_embed += 1
    with pytest.raises(InputError, match="were trained on different encoders"):
        ExpertPacks({"one": single, "folds": ensemble})
