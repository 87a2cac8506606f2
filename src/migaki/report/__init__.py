"""One self-contained page for a run or a comparison, made from its folder alone."""

from migaki.report.comparison import write_comparison
from migaki.report.page import write_report

__all__ = ["write_comparison", "write_report"]
