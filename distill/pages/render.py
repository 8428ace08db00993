"""From a template to the text of a page, with the parts and the style that all pages share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ..text_table import visible
from .formats import FILTERS, sign


def render(template: Path, values: Mapping[str, Any]) -> str:
    """Fill a template that extends ``page.html.jinja``; text in the values is escaped, and what it hides is shown.

    Args:
        template: the file; what it includes may lie beside it.
        values: what it names.
    """
    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters |= FILTERS
    return environment.get_template(template.name).render(values, sign=sign)


def _shown(value: Any) -> Any:
    """Show what is hidden in a text but its line breaks; what is HTML already passes."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(visible, value.split("\n")))
