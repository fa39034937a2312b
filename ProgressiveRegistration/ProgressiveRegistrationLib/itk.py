"""What ITK says: its messages in one line, its warnings not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk


def itk_message(error: Exception) -> str:
    """The line of ITK's message that tells what happened, without its source file and object address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("): ")[-1].rstrip(".") if lines else type(error).__name__


@contextmanager
def quiet_itk() -> Iterator[None]:
    """No warnings of ITK's on standard error: what a user should know, a sentence or a note says."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
