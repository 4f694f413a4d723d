"""What all HTML pages of this package share: templates of one style, pictures in the page, and text that is UTF-8."""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import Any

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


def data_uri(picture: bytes, kind: str = "jpeg") -> str:
    """Return a picture as an address that holds it, so that a page stands alone.

    Args:
        picture: The content of its file.
        kind: Its format, as in a MIME type.

    Example:
        >>> data_uri(b"...", "png")
        'data:image/png;base64,Li4u'
    """
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def as_utf8(value: Any) -> str:
    r"""Return a value as text that can be written as UTF-8, which a file's name need not be.

    Args:
        value: The value.

    Example:
        >>> as_utf8("\udcff.png")
        '?.png'
    """
    return str(value).encode("utf-8", errors="replace").decode("utf-8")
