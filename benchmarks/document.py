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


def in_brackets(ends: Sequence[float] | None, form: str) -> str:
    """Return an interval as a table tells it, or that none can be given.

    Args:
        ends: Its lower and its upper end, or None.
        form: How an end is written.

    Example:
        >>> in_brackets((0.1, 0.25), "+.2f"), in_brackets(None, "+.2f")
        ('(+0.10 to +0.25)', '(-)')
    """
    return "(-)" if ends is None else f"({ends[0]:{form}} to {ends[1]:{form}})"


def why_no_interval(names: Sequence[str]) -> str:
    """Return the sentence of a caption on intervals that cannot be given.

    Args:
        names: The data sets all of whose test images are of one group.

    Returns:
        The sentence; empty without such sets.
    """
    sets = ", ".join(names)
    return f"(-): no interval can be given where all test images of a set are of one group ({sets})." if sets else ""


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
