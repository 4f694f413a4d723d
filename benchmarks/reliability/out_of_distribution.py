"""Measure how well a calibrated model tells images that are unlike those that it was trained on.

    python -m benchmarks.reliability.out_of_distribution --checkpoint C --dataset_dir D --near N --far F --output O.json

The score of each image is compared with those of the data set's test images: the share that is out of distribution, and
the area under the ROC curve (AUROC). `--near` are folders of images of the same kind from another source, of which few
should be called so, `--far` of other kinds. Noise, blank pictures and phantoms of other kinds are made, and test images
degraded (`analysis.shifts` at strength 3), each compared with itself.

`tried` holds other distances over the same features, with and without views of the training images, each with its own
threshold by the validation images' views or by those images as they are.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from icmoe_monai import Predictor
from icmoe_monai.analysis.shifts import case_seed, shift_image
from icmoe_monai.calibration.file import calibration_path, read_calibration
from icmoe_monai.calibration.ood import fit_prototypes, out_of_distribution_from
from icmoe_monai.data.cases import find_cases
from icmoe_monai.data.phantoms import draw_dermoscopy, draw_glands, draw_ultrasound
from icmoe_monai.data.splits import take_evenly
from icmoe_monai.errors import InputError
from icmoe_monai.imageio.read import read_image
from icmoe_monai.utils.files import write_json
from icmoe_monai.weights.frozen import describe_model

ROOT = Path(__file__).parents[2]
SHIFTS = ("blur", "noise", "colour_cast", "contrast", "jpeg")
PHANTOMS = {"dermoscopy": draw_dermoscopy, "ultrasound": draw_ultrasound, "glands": draw_glands}
_SIDE = 256
_COMPONENTS = 32
_Distance = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure, write the file, and print what is called out of distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--near", nargs="*", default=[])
    parser.add_argument("--far", nargs="*", default=[])
    parser.add_argument("--number", type=int, default=60, help="images of each folder, at most, but the test split's")
    parser.add_argument("--phantom", choices=PHANTOMS, help="the phantom that is of the model's own kind")
    parser.add_argument("--tried", action="store_true", help="measure other distances too")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    look = Look(arguments.checkpoint)
    tests = [case["image"] for case in find_cases(arguments.dataset_dir, check=False)["test"]]
    features = {"test": look.at(tests)}
    for kind in ("near", "far"):
        for folder in map(Path, getattr(arguments, kind)):
            paths = [path for path in sorted((folder / "images").iterdir()) if path.is_file()]
            chosen = paths if len(paths) <= arguments.number else take_evenly(paths, arguments.number)[0]
            features[f"{kind}:{folder.name}"] = look.at(chosen)
    features |= {f"far:{name}": look.at(pictures) for name, pictures in made(arguments.number, arguments.phantom)}
    some = tests if len(tests) <= arguments.number else take_evenly(tests, arguments.number)[0]
    clean = look.at(some)
    shifted = {name: look.at(degraded(some, name)) for name in SHIFTS}
    found = {
        "dataset": Path(arguments.dataset_dir).name,
        "model": describe_model(arguments.checkpoint),
        **judge(look.score, 1.0, features),
        "shifts": {name: compare(look.score(clean), look.score(of)) for name, of in shifted.items()},
    }
    if arguments.tried:
        found["tried"] = tried(arguments, features)
    if arguments.output:
        write_json(arguments.output, found)
    for name, told in found["sets"].items():
        sys.stdout.write(f"{name}: {told['called']:.3f} called, AUROC {told['auroc']}\n")


class Look:
    """Look at pictures by a model's frozen parts, as prediction does, and score them by its calibration."""

    def __init__(self, checkpoint: str) -> None:
        self.predictor = Predictor(checkpoint, device="cpu")
        known = read_calibration(calibration_path(checkpoint)).get("out_of_distribution")
        if known is None:
            raise InputError("The checkpoint's calibration has no out-of-distribution score: calibrate it again.")
        self.ood = out_of_distribution_from(known)

    def at(self, pictures: Iterable[Any]) -> np.ndarray:
        """Return the pooled features of pictures, (n, F), paths or uint8 (H, W, 3)."""
        rows = []
        for picture in pictures:
            image = self.predictor.prepare(picture)["image"].as_tensor()[None]
            with torch.no_grad():
                rows.append(self.predictor.inferer.look(image, self.predictor.network)[0].mean(0).numpy())
        return np.stack(rows).astype(float)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return the score of each row of features."""
        return np.array([self.ood.score(row[None]) for row in features])


def judge(distance: _Distance, threshold: float, features: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return, of each set, the share beyond the threshold, the AUROC against the test images, and distances.

    Args:
        distance: Distance of features (n, F).
        threshold: The distance above which an image is out of distribution.
        features: Features by set, `test` among them.
    """
    found = {name: distance(of) / threshold for name, of in features.items()}
    sets = {
        name: {
            "images": len(values),
            "called": float((values > 1).mean()),
            "auroc": None if name == "test" else auroc(found["test"], values),
            "median": float(np.median(values)),
        }
        for name, values in found.items()
    }
    return {"sets": sets}


def auroc(like: np.ndarray, unlike: np.ndarray) -> float:
    """Return the probability that an unlike image is farther than a like one."""
    labels = np.r_[np.zeros(len(like)), np.ones(len(unlike))]
    return float(roc_auc_score(labels, np.minimum(np.r_[like, unlike], 1e6)))


def compare(clean: np.ndarray, shifted: np.ndarray) -> dict[str, float]:
    """Return the mean scores of images before and after a shift, the share that rises, and the share called."""
    return {
        "mean_before": float(clean.mean()),
        "mean_after": float(shifted.mean()),
        "rises": float((shifted > clean).mean()),
        "called": float((shifted > 1).mean()),
    }


def degraded(paths: Sequence[str], shift: str) -> Iterator[np.ndarray]:
    """Yield images degraded by a shift at strength 3."""
    for path in paths:
        rgb = torch.as_tensor(read_image(str(path)).transpose(2, 0, 1).copy()).float()
        worse = shift_image(rgb, shift, 3, seed=case_seed(Path(path).stem))
        yield as_picture(worse.numpy().transpose(1, 2, 0))


def made(number: int, own: str | None) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
    """Yield the name and pictures of each set that is made: noise, blank ones, phantoms of other kinds."""
    rng = np.random.default_rng(0)
    shape = (_SIDE, _SIDE, 3)
    grain = (rng.normal(0, rng.uniform(5, 60), shape) for _ in range(number))
    yield "noise", (as_picture(rng.uniform(40, 215, 3) + noise) for noise in grain)
    ramp = np.linspace(0, 1, _SIDE)[:, None, None]
    ends = (rng.uniform(0, 255, (2, 3)) for _ in range(number))
    yield "gradient", (as_picture(np.broadcast_to((1 - ramp) * a + ramp * b, shape)) for a, b in ends)
    for name, draw in PHANTOMS.items():
        if name != own:
            yield f"phantom_{name}", (draw(np.random.default_rng(i), shape[:2])[0] for i in range(number))


def as_picture(values: np.ndarray) -> np.ndarray:
    """Return values as a picture, uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def tried(arguments: argparse.Namespace, features: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what `judge` says of other distances, with views of the images and without."""
    flow = ConfigWorkflow(
        config_file=[str(ROOT / "configs" / name) for name in ("train.json", "evaluate.json", "calibrate.yaml")],
        workflow_type="train",
        logging_file=False,
        dataset_dir=arguments.dataset_dir,
        checkpoint=arguments.checkpoint,
        num_workers=0,
        device="cpu",
    )
    flow.initialize()
    for handler in flow.parser.get_parsed_content("validate#handlers")[:2]:
        handler(None)
    references = flow.parser.get_parsed_content("references")
    seen = references.look()
    training = np.split(seen.training, 2)  # as they are, and views
    plain = [windows.mean(0) for windows in references._features(references.others, references._plain).values()]
    views = [windows.mean(0) for windows in seen.views.values()]
    found = {}
    for name, fit in DISTANCES.items():
        for how, rows, chosen in (("views", seen.training, views), ("as_they_are", training[0], plain)):
            distance = fit(rows)
            ordered = np.sort(distance(np.stack(chosen)))
            place = min(int(np.ceil((len(ordered) + 1) * 0.95)), len(ordered))
            found[f"{name}, {how}"] = judge(distance, float(ordered[place - 1]), features)
    return found


def prototypes(rows: np.ndarray) -> _Distance:
    """Return the distance that is used: to the nearest of 64 prototypes of unit vectors."""
    return fit_prototypes(rows).distance


def nearest(rows: np.ndarray) -> _Distance:
    """Return the distance to the nearest training image, of unit vectors."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def distance(x: np.ndarray) -> np.ndarray:
        cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ unit.T
        return np.sqrt(np.maximum(2 - 2 * cosine.max(1), 0))

    return distance


def mahalanobis(rows: np.ndarray) -> _Distance:
    """Return Mahalanobis' distance by a shrunk covariance (Ledoit and Wolf, 2004) of standardised features."""
    mean, scale = _moments(rows)
    precision = LedoitWolf(assume_centered=True).fit((rows - mean) / scale).precision_
    return lambda x: np.sqrt(np.einsum("ij,jk,ik->i", (x - mean) / scale, precision, (x - mean) / scale))


def principal(rows: np.ndarray) -> _Distance:
    """Return the distance of probabilistic principal component analysis (Tipping and Bishop, 1999)."""
    mean, scale = _moments(rows)
    z = (rows - mean) / scale
    _, singular, directions = np.linalg.svd(z, full_matrices=False)
    variances, V = singular**2 / (len(rows) - 1), directions[:_COMPONENTS]
    rest = variances[_COMPONENTS:].sum() / (rows.shape[1] - _COMPONENTS)

    def distance(x: np.ndarray) -> np.ndarray:
        z = (x - mean) / scale
        inside = z @ V.T
        outside = np.maximum((z**2).sum(1) - (inside**2).sum(1), 0)
        return np.sqrt((inside**2 / variances[:_COMPONENTS]).sum(1) + outside / rest)

    return distance


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = rows.std(0)
    return rows.mean(0), spread + 1e-3 * spread.max() + 1e-6


DISTANCES = {"prototypes": prototypes, "nearest": nearest, "mahalanobis": mahalanobis, "principal": principal}


if __name__ == "__main__":
    main()
