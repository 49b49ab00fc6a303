"""The report: one self-contained HTML page that says what a lake holds and how good its models are.

`collect` reads a lake into plain values, `render` turns those into a page, `write_report` puts the page on
disk all or nothing. No clock, host or path enters, so an unchanged lake gives the same bytes again.
"""

from pipeline.report.collect import collect
from pipeline.report.data import ReportData
from pipeline.report.page import render, write_report

__all__ = ["ReportData", "collect", "render", "write_report"]
