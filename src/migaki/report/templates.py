"""The templates of the pages, which escape whatever is put into them."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from migaki.core.types import ended

__all__ = ["rendered"]


def rendered(template: str, /, **facts: Any) -> str:
    """A page of this template, with the style that all pages share.

    Args:
        template: name of a file beside this one.
        facts: what the template names; one that is missing is an error.
    """
    pages = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=PackageLoader("migaki", "report")
    )
    pages.filters["ended"] = ended
    css = Markup(files("migaki.report").joinpath("page.css").read_text(encoding="utf-8"))  # noqa: S704 (a file of ours)
    return pages.get_template(template).render(css=css, **facts)
