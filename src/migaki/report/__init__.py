"""One self-contained page for a run, a comparison or an audit of data."""

from migaki.report.audit import write_audit
from migaki.report.comparison import write_comparison
from migaki.report.page import write_report

__all__ = ["write_audit", "write_comparison", "write_report"]
