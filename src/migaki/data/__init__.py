"""From files to rows that a task understands, each with the place it came from."""

from migaki.data.settings import Data
from migaki.data.sources import read_records
from migaki.data.writing import check_output, write_records

__all__ = ["Data", "check_output", "read_records", "write_records"]
