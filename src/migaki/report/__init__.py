"""One self-contained page for a run, a comparison, a search or an audit of data."""

from migaki.report.audit import write_audit
from migaki.report.comparison import write_comparison
from migaki.report.page import write_report
from migaki.report.search import write_search

__all__ = ["write_audit", "write_comparison", "write_report", "write_search"]
