"""What every page is: one file that opens with no network and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from thalweg.comparison.plan import duration
from thalweg.core.errors import StorageError
from thalweg.report.words import number, probability


def write(page: str, path: Path) -> None:
    """Writes a page. Raises StorageError where it cannot."""
    try:
        path.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; free some space or give another --out") from error


def filled(template: str, content: Mapping[str, Any]) -> str:
    """The page that a template makes of its content, every text of it escaped.

    >>> page = filled("frame.html", {})
    >>> page[:15], "<script>" in page
    ('<!doctype html>', True)
    """
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    own = {"style": style, "script": script, "policy": policy(style, script)}
    return _environment().get_template(template).render(**own, **content)


def policy(style: str, script: str) -> str:
    """The content security policy that allows one style sheet and one script, and nothing else.

    >>> policy("", "")[:62]
    "default-src 'none'; style-src 'sha256-47DEQpj8HBSa+/TImW+5JCeu"
    """
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("thalweg.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "p": probability, "plain": plain}
    return environment


def plain(value: Any) -> str:
    """A fact of any shape as a person reads it.

    >>> plain({"a": [1, 2.0], "b": None}), plain(True)
    ('a: 1, 2; b: –', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value)
    return number(value) if value is None or isinstance(value, float) else str(value)
