"""The files of a plan: plan.yaml, an overlay of a training; plan.json, plain values; plan.html, a page."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

from icmoe_monai.planning.page import render_plan
from icmoe_monai.planning.plan import Plan
from icmoe_monai.planning.schema import FORMAT, VERSION
from icmoe_monai.utils.files import write_atomically, write_json
from icmoe_monai.version import __version__

OVERLAY, VALUES, PAGE = "plan.yaml", "plan.json", "plan.html"
_WIDTH = 110


def write_plan(plan: Plan, folder: str | Path, *, configs: tuple[str, ...] = ()) -> list[Path]:
    """Write the files of a plan; each is complete or absent.

    Args:
        plan: The plan.
        folder: Where to write; earlier files of a plan there are replaced.
        configs: Further configs that the plan was made with, as the user named them.

    Returns:
        Their paths: overlay, values and page.

    Raises:
        InputError: If the system refuses.
    """
    folder = Path(folder)
    paths = [folder / name for name in (OVERLAY, VALUES, PAGE)]
    commands = commands_of(plan, configs)
    content = content_of(plan, commands)
    write_atomically(paths[0], lambda path: path.write_bytes(_encoded(overlay_of(plan, commands))))
    write_json(paths[1], content)
    page = render_plan(content, plan)
    write_atomically(paths[2], lambda path: path.write_bytes(_encoded(page)))
    return paths


def commands_of(plan: Plan, configs: tuple[str, ...] = ()) -> list[str]:
    """Return the commands that come next: a training, and one with folds where they are advised.

    The folders stand there as DATA and RUN, so that the files tell of no place.

    Args:
        plan: The plan.
        configs: Further configs, which come before the plan.
    """
    words = ["icmoe", "train", "DATA", "RUN"]
    for config in (*configs, OVERLAY):
        words += ["--config", config]
    folds = [shlex.join([*words, "--folds", str(plan.folds[0])])] if plan.folds[0] > 1 else []
    return [shlex.join(words), *folds]


def content_of(plan: Plan, commands: list[str]) -> dict[str, Any]:
    """Return what plan.json holds, as `schema.PLAN` has it.

    Args:
        plan: The plan.
        commands: The commands that come next.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"icmoe_monai {__version__}",
        "facts": dict(plan.facts),
        "faults": [
            {
                **fault._asdict(),
                "findings": [{"sentence": one.sentence, "files": list(one.files)} for one in fault.findings],
            }
            for fault in plan.faults
        ],
        "choices": [choice._asdict() for choice in plan.choices],
        "settings": plan.settings,
        "folds": {"number": plan.folds[0], "reason": plan.folds[1]},
        "commands": commands,
        "machine": {
            "memory": plan.machine.memory, "num_cores": plan.machine.num_cores, "is_gpu": plan.machine.is_gpu
        },
        "times": None if plan.times is None else dict(plan.times),
    }  # fmt: skip


def overlay_of(plan: Plan, commands: list[str]) -> str:
    """Return the overlay, with the reasons as comments.

    Args:
        plan: The plan.
        commands: The commands that come next.
    """
    parts = [_comment("A plan of `icmoe plan`, to be laid over a training:"), *(f"#   {each}" for each in commands)]
    if plan.num_faults:
        parts.append(_comment(f"{plan.num_faults} faults of the set are in {PAGE}: mend them first."))
    for choice in plan.choices:
        parts += ["", _comment(choice.reason)]
        parts += [f"{name}: {json.dumps(value)}" for name, value in choice.settings.items()]  # JSON is YAML
    parts += ["", _comment(plan.folds[1])]
    return "\n".join(parts) + "\n"


def _comment(text: str) -> str:
    """Return a text as comments; what a file is called may hold line ends."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# "))


def _encoded(text: str) -> bytes:
    """Return a text as UTF-8; what a file's name holds that is none is replaced."""
    return text.encode("utf-8", errors="replace")
