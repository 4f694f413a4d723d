"""Command `icmoe suggest`: choose the images of a pool to label next."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icmoe_monai.commands.workflow import build_workflow, check_overlays, find_config, images_path, overrides_of
from icmoe_monai.inference.anonymity import read_anonymous

_CONFIGS = ("inference.json", "suggest.yaml")


def suggest(root: Path, given: argparse.Namespace, further: Mapping[str, Any]) -> None:
    """Segment a pool, and write which of its images to label next.

    Args:
        root: Folder of the bundle.
        given: The command's options.
        further: Settings to override, by name.

    Raises:
        InputError: If the pool, the labelled set or a setting cannot be used, or the folder holds drafts.
        FailedCasesError: If images could not be used; the others are done, and the suggestion is made.
    """
    # an option that is not given is no override, for a --config may set it
    own: dict[str, Any] = {name: value for name in ("number", "by") if (value := getattr(given, name)) is not None}
    if given.labelled:
        own["labelled"] = images_path(given.labelled)
    if given.overwrite:
        own["overwrite"] = True
    own |= {**further, **overrides_of(given), "dataset_dir": images_path(given.pool)}
    own["output_dir"] = os.path.abspath(given.output)
    if "anonymous" in own:
        own["anonymous"] = read_anonymous(own["anonymous"])
    bases = [root / "configs" / name for name in _CONFIGS]
    overlays = [find_config(root, name) for name in given.config]
    check_overlays(bases, overlays)
    flow = build_workflow(root, [*bases, *overlays], own, workflow_type="infer")
    flow.run()
    flow.finalize()
