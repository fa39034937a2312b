"""The breathing thorax: a synthetic chest whose motion is known exactly."""

from .pair import breathing_thorax

__all__ = ["breathing_thorax"]
