"""Cache on the disk of the features that a network's frozen parts compute from a training set.

A frozen encoder computes the same features from the same image in every epoch, so they are computed once. Each image is
augmented V times, with fixed seeds; the results are its views. The trunk's tokens, the detail's levels and the label of
a view are stored in one file, and every epoch draws one view of each image.

A file is complete or absent, has a checksum, and may be deleted between two trainings. Its path holds a digest of
everything that it was computed from: the frozen weights, the transforms and their seed, the content of the image and of
its label. Features computed from anything else have another path, and so are never used by mistake. How they
were computed is not in the path: with another number of images in a pass or of threads, or on another CPU, the same
features differ by rounding.

Letters: V views; B batch; H W image; h w = H/16, W/16; C encoder width; c s channels and stride of a level.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset, Dataset
from monai.engines.utils import PrepareBatch
from monai.transforms.transform import Randomizable
from torch import Tensor, nn
from tqdm import tqdm

from icmoe_monai.errors import InputError
from icmoe_monai.inferers.voting import autocast
from icmoe_monai.networks.icmoe import ICMoE
from icmoe_monai.training.feature_files import hold, is_sound, read_features, write_features
from icmoe_monai.training.transform_digest import digest_transform
from icmoe_monai.utils.files import digest_of, dump_json
from icmoe_monai.version import __version__
from icmoe_monai.weights.frozen import fingerprints

TOKENS, LABEL = "tokens", "label"
DTYPES = {"float16": torch.float16, "float32": torch.float32}
_LEVELS = ("level0", "level1", "level2", "level3", "level4")
_GIGABYTE = 1e9
_logger = logging.getLogger(__name__)


class FrozenFeatures(Randomizable, Dataset):
    """Hold a training set as features instead of images; `CacheFeatures` fills it when a training starts.

    An item is one view: the trunk's `tokens`, (h, w, C), the detail's levels `level0`, `level1` and so on,
    (c, H/s, W/s) each, and the `label`, (1, H, W), all float32.

    Args:
        data: The cases.
        transform: Reads and augments a case; returns "image", (3, H, W), and "label", of one size for all cases.
        folder: Folder of the feature files, of this and of other trainings.
        num_views: V.
        seed: Seed of the views' augmentation.
        dtype: Precision in which features are stored, a key of `DTYPES`.

    Raises:
        InputError: If `num_views` is no whole number of at least 1, or `dtype` is unknown.
    """

    def __init__(
        self,
        *,
        data: Sequence[Mapping[str, Any]],
        transform: Callable,
        folder: str | Path,
        num_views: int = 4,
        seed: int = 0,
        dtype: str = "float16",
    ) -> None:
        if not isinstance(num_views, int) or num_views < 1:
            raise InputError(f"num_views must be a whole number of at least 1, got {num_views!r}.")
        if dtype not in DTYPES:
            raise InputError(f"features_dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
        super().__init__(data=data, transform=transform)
        self.folder = Path(folder)
        self.num_views = num_views
        self.seed = seed
        self.dtype = dtype
        self._digest = digest_transform(transform)  # now, since its use may change it
        self.files: list[list[Path]] = []

    def __getitem__(self, index: int) -> dict[str, Tensor]:  # type: ignore[override]
        """Return one view of a case, drawn at random."""
        return read_features(self.files[index][self.R.randint(self.num_views)])

    def fill(self, network: ICMoE, *, device: torch.device, amp: bool, batch_size: int, num_workers: int) -> None:
        """Compute and write the features that are missing; a second process that needs the same waits for the first.

        Args:
            network: The network, with its pretrained weights loaded.
            device: Device of the network.
            amp: Whether to compute in bfloat16.
            batch_size: Images in a pass.
            num_workers: Processes that prepare images.

        Raises:
            InputError: If the network trains its encoder or its image pyramid, the disk has too little space, or
                features are not finite in `dtype`.
        """
        folder = self.folder / self._digest_all(network, amp, device)
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(_digest_case, self.data))
        self.files = [[folder / f"{digest}_{view}.safetensors" for view in range(self.num_views)] for digest in digests]
        with hold(folder):
            missing = [
                (i, v) for i, files in enumerate(self.files) for v, path in enumerate(files) if not is_sound(path)
            ]
            if not missing:
                _logger.info(f"All features are in {folder}.")
                return
            views = _Views(self.data, self.transform, missing, [self._seed_of(digests[i], v) for i, v in missing])
            self._announce(network, views, folder, device)
            # a generator of its own: the order of the training must not depend on which files were there
            loader = DataLoader(views, batch_size=batch_size, num_workers=num_workers, generator=torch.Generator())
            done = iter(missing)
            for batch in tqdm(loader, desc="features", leave=False, disable=None):
                for features in _compute(network, batch, device, amp, DTYPES[self.dtype]):
                    i, v = next(done)
                    write_features(features, self.files[i][v])

    def _digest_all(self, network: ICMoE, amp: bool, device: torch.device) -> str:
        """Return the folder's name: a digest of what all its files are computed from."""
        frozen = fingerprints(network)
        if not frozen or (list(network.detail.parameters()) and "detail" not in frozen):
            raise InputError(
                "cache_features needs a frozen encoder and a frozen image pyramid, and this network trains them: set "
                "--cache_features False."
            )
        made_from = {
            "frozen": frozen, "split": network.split, "image": network.needs_image, "amp": amp, "dtype": self.dtype,
            "transform": self._digest, "seed": self.seed, "device": device.type, "icmoe_monai": __version__,
            "monai": monai.__version__, "torch": str(torch.__version__),
        }  # fmt: skip
        return hashlib.sha256(dump_json(made_from)).hexdigest()[:16]

    def _seed_of(self, digest: str, view: int) -> int:
        return int(hashlib.sha256(f"{self.seed} {digest} {view}".encode()).hexdigest()[:8], 16)

    def _announce(self, network: ICMoE, views: _Views, folder: Path, device: torch.device) -> None:
        """Log how much will be written, or raise `InputError` if the disk has too little space."""
        first = DataLoader(views, batch_size=1, generator=torch.Generator())
        (features,) = _compute(network, next(iter(first)), device, False, DTYPES[self.dtype])
        needed = len(views) * sum(value.nbytes for value in features.values())
        free = shutil.disk_usage(folder).free
        said = f"{len(views)} views' features take {needed / _GIGABYTE:.2f} GB in {folder}"
        if needed > free:
            raise InputError(
                f"{said}, and {free / _GIGABYTE:.2f} GB are free there: give another --features_dir, fewer "
                "--num_views, or --cache_features False."
            )
        others = sum(path.stat().st_size for path in self.folder.glob("*/*.safetensors") if path.parent != folder)
        _logger.info(f"{said}; {free / _GIGABYTE:.1f} GB are free there.")
        if others:
            _logger.info(
                f"{others / _GIGABYTE:.2f} GB of other trainings' features lie beside them and may be deleted."
            )


def training_set(
    *,
    data: Sequence[Mapping[str, Any]],
    transform: Callable,
    cache_rate: float = 1.0,
    progress: bool = False,
    features: Mapping[str, Any] | None = None,
) -> Dataset:
    """Return the images of a training, read once and kept in memory, or features in their place.

    It is one function since the Model Zoo and MONAI Label want the training's cases at `train#dataset#data`.

    Args:
        data: The cases.
        transform: Reads and augments a case, as in `FrozenFeatures`.
        cache_rate: Share of the images that are kept in memory.
        progress: Whether reading them shows a bar.
        features: Further arguments of `FrozenFeatures`; None: train on images.
    """
    if features is not None:
        return FrozenFeatures(data=data, transform=transform, **features)
    return CacheDataset(data=data, transform=transform, cache_rate=cache_rate, progress=progress)


class CacheFeatures:
    """Handler: fill a training's `FrozenFeatures` when its engine starts, once the weights are loaded.

    Args:
        features: The training set.
        network: The network.
        device: Device of the network.
        amp: Whether it runs in bfloat16.
        batch_size: Images in a pass.
        num_workers: Processes that prepare images.
    """

    def __init__(
        self,
        *,
        features: FrozenFeatures,
        network: nn.Module,
        device: str | torch.device,
        amp: bool = False,
        batch_size: int = 8,
        num_workers: int = 0,
    ) -> None:
        self.features = features
        self.network = network
        self.device = torch.device(device)
        self.amp = amp
        self.batch_size = batch_size
        self.num_workers = num_workers

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer, after the handlers that load weights."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Compute the features that are missing.

        Raises:
            InputError: If the network has no frozen parts, is trained by several processes, or there are no features
                to compute.
        """
        if not isinstance(self.features, FrozenFeatures):
            raise InputError(
                f"train#dataset is a {type(self.features).__name__}, which keeps no features: set --cache_features "
                "False."
            )
        if not isinstance(self.network, ICMoE):
            raise InputError(
                f"cache_features is for an ICMoE in one process, not for a {type(self.network).__name__}: set "
                "--cache_features False."
            )
        self.features.fill(
            self.network, device=self.device, amp=self.amp, batch_size=self.batch_size, num_workers=self.num_workers
        )


class PrepareFeatures(PrepareBatch):
    """Prepare a batch for MONAI's trainer: images, or cached tokens with the levels as a further argument."""

    def __call__(
        self,
        batchdata: dict[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Move a batch to the device.

        Returns:
            (image, label) for images. For features (tokens, label, (levels,), {}), of which MONAI hands the last two to
            the inferer as further positional and named arguments.

        Raises:
            InputError: If the items have no image or no label.
        """
        found = sorted(batchdata) if isinstance(batchdata, Mapping) else type(batchdata).__name__
        if LABEL not in found or not {"image", TOKENS} & set(found):
            raise InputError(f"train#dataset must give items with image and label, got {found}.")
        moved = {
            name: value.to(device=device, non_blocking=non_blocking, **kwargs)
            for name, value in batchdata.items()
            if isinstance(value, Tensor)
        }
        if TOKENS not in moved:
            return moved["image"], moved[LABEL]
        return moved[TOKENS], moved[LABEL], ([moved[name] for name in _LEVELS if name in moved],), {}


class _Views(Dataset):
    """Hold views of cases, each augmented with its own seed."""

    def __init__(
        self, data: Sequence[Any], transform: Callable, pairs: Sequence[tuple[int, int]], seeds: Sequence[int]
    ) -> None:
        super().__init__(data=[data[i] for i, _ in pairs], transform=transform)
        self.seeds = seeds

    def __getitem__(self, index: int) -> dict[str, Tensor]:  # type: ignore[override]
        self.transform.set_random_state(seed=self.seeds[index])
        item = self.transform(self.data[index])
        return {name: torch.as_tensor(item[name]) for name in ("image", LABEL)}


def _compute(
    network: ICMoE, batch: Mapping[str, Tensor], device: torch.device, amp: bool, dtype: torch.dtype
) -> Iterator[dict[str, Tensor]]:
    """Compute the features of a batch, and yield those of each image, on the CPU."""
    image = batch["image"].to(device)
    with torch.no_grad(), autocast(device, amp):
        tokens, levels = network.trunk(image), network.levels(image)
    named = {TOKENS: tokens, **dict(zip(_LEVELS, levels, strict=False))}
    kept = {name: value.to("cpu", dtype) for name, value in named.items()}
    for name, value in kept.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"The features ({name}) are not finite as {str(dtype).removeprefix('torch.')}: set --features_dtype "
                "float32, or --cache_features False if they are that already."
            )
    for b, label in enumerate(batch[LABEL]):
        yield {name: value[b].clone() for name, value in kept.items()} | {LABEL: label.to(torch.int16)}


def _digest_case(case: Mapping[str, Any]) -> str:
    """Return a digest of a case: the content of its files, and its other entries except the name."""
    labels = case[LABEL] if isinstance(case[LABEL], (list, tuple)) else [case[LABEL]]
    files = [digest_of(path) for path in (case["image"], *labels)]
    said = {key: value for key, value in case.items() if key not in ("image", LABEL, "name")}
    return hashlib.sha256(dump_json([files, said])).hexdigest()[:32]
