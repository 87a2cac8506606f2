"""Which pretrained model for these rows on this machine: what each would cost by each method, and which come first."""

from migaki.choosing.cards import ModelCard, model_cards
from migaki.choosing.choose import Candidate, Choice, choose

__all__ = ["Candidate", "Choice", "ModelCard", "choose", "model_cards"]
