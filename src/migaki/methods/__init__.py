"""One file a method: what is trained, and how it is saved."""

from migaki.core.parts import Method, discovered
from migaki.methods.few_shot import FewShot
from migaki.methods.frozen import Frozen
from migaki.methods.full import Full
from migaki.methods.gazetteer import Gazetteer
from migaki.methods.lora import Lora
from migaki.methods.pixels import Pixels
from migaki.methods.probe import Probe
from migaki.methods.reft import Reft
from migaki.methods.retrieve import Retrieve
from migaki.methods.spectrum import Spectrum
from migaki.methods.tfidf import Tfidf
from migaki.methods.zero_shot import ZeroShot

__all__ = [
    "FewShot",
    "Frozen",
    "Full",
    "Gazetteer",
    "Lora",
    "Pixels",
    "Probe",
    "Reft",
    "Retrieve",
    "Spectrum",
    "Tfidf",
    "ZeroShot",
    "all_methods",
]


def all_methods() -> tuple[type[Method], ...]:
    """The built-in methods and those of the entry-point group `migaki.methods`, sorted by kind."""
    return discovered(
        "migaki.methods",
        (FewShot, Frozen, Full, Gazetteer, Lora, Pixels, Probe, Reft, Retrieve, Spectrum, Tfidf, ZeroShot),
    )
