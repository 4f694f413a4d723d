"""How this package's HTML pages are made: one way to load a template, which shares its style with the others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


@lru_cache
def page_template(name: str) -> Template:
    """Return a template of `templates/`; what it is given is escaped, and a name that it is not given is an error.

    Args:
        name: The file's name.

    Raises:
        jinja2.TemplateNotFound: If there is none.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(name)
