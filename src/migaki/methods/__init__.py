"""One file a method: what is trained, and how it is saved."""

from migaki.core.parts import Method, discovered
from migaki.methods.frozen import Frozen
from migaki.methods.full import Full
from migaki.methods.lora import Lora
from migaki.methods.reft import Reft

__all__ = ["Frozen", "Full", "Lora", "Reft", "all_methods"]


def all_methods() -> tuple[type[Method], ...]:
    """The built-in methods and those of the entry-point group `migaki.methods`, sorted by kind."""
    return discovered("migaki.methods", (Frozen, Full, Lora, Reft))
