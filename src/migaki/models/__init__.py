"""Pretrained models: where they come from, how they are loaded, and the modules that are put around them."""

from migaki.models.catalogue import BUNDLED, Card
from migaki.models.reference import Located, Model, hashed, locate

__all__ = ["BUNDLED", "Card", "Located", "Model", "hashed", "locate"]
