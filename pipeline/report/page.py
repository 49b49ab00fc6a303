"""From values to one HTML page, and the page to disk."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.data import ReportData
from pipeline.report.wording import CONSENTS

TEMPLATE = "report.html.j2"


def render(data: ReportData) -> str:
    """The page: style and pictures inside, no script, nothing loaded from anywhere."""
    return _environment().get_template(TEMPLATE).render(data=data, consent_meanings=CONSENTS)


def write_report(data: ReportData, path: Path) -> int:
    """Write the page, all or nothing: a kill leaves the old file or the new one. Returns its bytes.

    Raises OSError when the folder cannot be made or written.
    """
    content = render(data).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return len(content)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,  # image ids come from file names
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
