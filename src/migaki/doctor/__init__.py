"""Is this machine ready? What was found, what it means, and the command that mends it. Works without torch."""

from migaki.doctor.check import Check
from migaki.doctor.checks import examine
from migaki.doctor.differences import differences
from migaki.doctor.lock import write_lock

__all__ = ["Check", "differences", "examine", "write_lock"]
