"""Write what was found in a slide as outlines, in GeoJSON (RFC 7946) as QuPath imports it.

A FeatureCollection with one Polygon for each object that `tracing` finds, in pixels of the slide's full size: x to the
right and y downwards from the corner of its first pixel. GeoJSON means degrees of longitude and latitude; that there
are none here is a convention of the field. Rings are closed and turn as the RFC asks for, by the numbers: outer ones
counterclockwise as if y went upwards, holes clockwise.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from icmoe_monai.slides.tracing import Found, Tracer, signed_area
from icmoe_monai.utils.files import refusal, write_atomically
from icmoe_monai.visualize.overlay import class_colour

_DECIMALS = 2  # of a coordinate, in pixels of the full size


class OutlineWriter:
    """Write the outlines of a mask, whose rows are added from top to bottom, within a `with` block.

    If an exception leaves the block, no file is made. Finished objects wait in a nameless file beside it.

    Args:
        path: The file to write.
        shape: (H, W) of the mask.
        full_shape: (H, W) of the slide's full size, in whose pixels the outlines are.
        labels: Names of the foreground classes.
        spacing_um: Micrometres between the mask's rows and between its columns, for areas; None: unknown.

    Raises:
        InputError: If the system refuses to write.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with OutlineWriter(f"{folder}/a.geojson", shape=(2, 3), full_shape=(4, 6), labels=["lesion"]) as writer:
        ...         writer.add(np.uint8([[1, 0, 0], [0, 0, 0]]), np.float32([[0.75, 0, 0], [0, 0, 0]]))
        ...     (one,) = json.loads(Path(folder, "a.geojson").read_text())["features"]
        >>> one["geometry"]["coordinates"]
        [[[1.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]]
        >>> one["properties"]["measurements"]
        {'Mean probability': 0.75, 'Area px^2': 4.0}
    """

    def __init__(
        self,
        path: str | Path,
        *,
        shape: tuple[int, int],
        full_shape: tuple[int, int],
        labels: Sequence[str],
        spacing_um: tuple[float, float] | None = None,
    ) -> None:
        self.path = Path(path)
        self.labels = list(labels)
        self.spacing_um = spacing_um
        self._scale = np.divide(full_shape, shape)
        self._tracer = Tracer(shape[1])
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._waiting = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 - closed at the end of the block
        except OSError as error:
            raise refusal(self.path, error) from error

    def __enter__(self) -> OutlineWriter:
        """Return this writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write the file, unless an exception left the block.

        Raises:
            InputError: If the system refuses to write.
        """
        try:
            if error is None:
                self._keep(self._tracer.finish())
                write_atomically(self.path, self._write)
        finally:
            with suppress(OSError):  # closing may fail on a full disk, but the temporary file is not needed any more
                self._waiting.close()

    def add(self, classes: np.ndarray, probabilities: np.ndarray) -> None:
        """Add the next rows of the mask.

        Args:
            classes: Class of each pixel, 0 for none, uint8 (h, W).
            probabilities: Probability of that class, (h, W), 0..1.

        Raises:
            InputError: If the system refuses to write.
        """
        self._keep(self._tracer.add(classes, probabilities))

    def _keep(self, objects: Iterable[Found]) -> None:
        try:
            for one in objects:
                separator = b",\n" if self._waiting.tell() else b""
                text = json.dumps(self._feature(one), ensure_ascii=False, separators=(",", ":"))
                self._waiting.write(separator + text.encode())
        except OSError as error:
            raise refusal(self.path, error) from error

    def _feature(self, found: Found) -> dict[str, Any]:
        area = found.num_pixels * float(self._scale.prod())
        measurements = {"Mean probability": round(found.probability, 4), "Area px^2": round(area, 2)}
        if self.spacing_um is not None:
            measurements["Area µm^2"] = round(found.num_pixels * self.spacing_um[0] * self.spacing_um[1], 3)
        colour = [int(value) for value in class_colour(found.number)]
        return {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [self._ring(n, one) for n, one in enumerate(found.outlines)],
            },
            "properties": {
                "objectType": "annotation",
                "classification": {"name": self.labels[found.number - 1], "color": colour},
                "measurements": measurements,
            },
        }

    def _ring(self, number: int, outline: np.ndarray) -> list[list[float]]:
        """Return an outline of an object, of which the first is the outer one, as a ring of x and y."""
        is_counterclockwise = signed_area(outline) > 0
        outline = outline if is_counterclockwise == (number == 0) else outline[::-1]
        return (outline * self._scale).round(_DECIMALS)[:, ::-1].tolist()

    def _write(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(b'{"type":"FeatureCollection","features":[\n')
            self._waiting.seek(0)
            shutil.copyfileobj(self._waiting, file)
            file.write(b"\n]}\n")
