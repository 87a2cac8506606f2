"""Hyper-parameter search within a budget: what is tried, what trials share, and whether the best beats the default."""

from migaki.search.rates import RangeTest, range_test
from migaki.search.search import Found, search
from migaki.search.space import Space, read_space

__all__ = ["Found", "RangeTest", "Space", "range_test", "read_space", "search"]
