"""migaki: adapt a pretrained model to your own task, and measure whether it was worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from migaki.comparison import compare
    from migaki.core.errors import MigakiError
    from migaki.pipeline import train
    from migaki.recipe import Recipe
    from migaki.run import Run, load

__all__ = ["MigakiError", "Recipe", "Run", "compare", "load", "train"]

# Looked up on first use, so that `import migaki` and the command line start without torch.
_HOMES = {
    "MigakiError": "migaki.core.errors",
    "Recipe": "migaki.recipe",
    "Run": "migaki.run",
    "compare": "migaki.comparison",
    "load": "migaki.run",
    "train": "migaki.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'migaki' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
