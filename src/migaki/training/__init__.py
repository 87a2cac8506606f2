"""The only training loop, and what it needs: settings, plan, schedules, checkpoints, display."""

from migaki.training.settings import Training

__all__ = ["Training"]
