"""Can these rows be trusted? Every check by name, with a light, rows as file:line, and the line of a recipe that mends it."""

from migaki.audit.audit import Audit, audit
from migaki.audit.light import Light

__all__ = ["Audit", "Light", "audit"]
