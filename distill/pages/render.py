"""From a template to the text of a page, with the parts and the style that all pages share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from .formats import FILTERS, sign


def render(template: Path, values: Mapping[str, Any]) -> str:
    """Fill a template that extends ``page.html.jinja``; text in the values is escaped.

    Args:
        template: the file; what it includes may lie beside it.
        values: what it names.
    """
    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    return environment.get_template(template.name).render(values, sign=sign)
