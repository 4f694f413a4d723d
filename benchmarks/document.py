"""A page of docs/ whose tables are made from files of docs/results/: written, or compared with what stands there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from icmoe_monai.utils.files import write_atomically

DOCS = Path(__file__).parent.parent / "docs"


def write_or_check(
    name: str, command: str, renew: Callable[[str, Path], str], about: str | None, arguments: Sequence[str] | None
) -> int:
    """Run a command that writes a page's tables, or with `--check` tells whether they are the files'.

    Args:
        name: The page's, without its suffix.
        command: The module that is run.
        renew: Returns the page's text with its tables, given the text and the folder of the files.
        about: The command's description.
        arguments: Of the command line; the process's own by default.

    Returns:
        The exit status: 1 if the page was checked and holds something else.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--docs", type=Path, default=DOCS)
    known = parser.parse_args(arguments)
    page = known.docs / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    new = renew(text, known.docs / "results")
    if not known.check:
        write_atomically(page, lambda temporary: temporary.write_text(new, encoding="utf-8"))
    elif new != text:
        sys.stderr.write(f"{page} does not hold what its files say: python -m benchmarks.{command}\n")
        return 1
    return 0
