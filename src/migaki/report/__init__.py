"""One self-contained page for a run, made from its folder alone."""

from migaki.report.page import write_report

__all__ = ["write_report"]
