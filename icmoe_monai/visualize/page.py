"""The loader of the HTML templates, which all pages of this package are made from and which share one style."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


@lru_cache
def page_template(name: str) -> Template:
    """Load an HTML template of `templates/`; values are escaped, and a missing value is an error.

    Args:
        name: Name of the template's file.

    Raises:
        jinja2.TemplateNotFound: If there is no such file.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(name)
