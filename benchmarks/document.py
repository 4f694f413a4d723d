"""Writing and checking of a page of docs/ whose tables are made from files in docs/results/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from icmoe_monai.utils.files import write_atomically

DOCS = Path(__file__).parent.parent / "docs"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, without a last line break.

    Example:
        >>> print(table(["", "Dice"], [["mean", "0.81"]]))
        |  | Dice |
        | --- | --- |
        | mean | 0.81 |
    """
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def between_marks(text: str, name: str, content: str) -> str:
    """Return a page's text with other content between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = text.partition(begin)
    return before + begin + content + end + rest.partition(end)[2]


def write_or_check(
    name: str, command: str, renew: Callable[[str, Path], str], about: str | None, arguments: Sequence[str] | None
) -> int:
    """Run a command that writes a page's tables, or with `--check` compares them with the files.

    Args:
        name: Name of the page, without its suffix.
        command: Module of the command, below `benchmarks`.
        renew: Returns the page's text with new tables, given the text and the folder of the files.
        about: Description of the command.
        arguments: Words of the command line; by default those of this process.

    Returns:
        The exit status: 1 if the page was checked and its tables differ from the files, else 0.
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
