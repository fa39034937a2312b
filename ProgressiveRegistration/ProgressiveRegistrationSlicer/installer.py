"""The Python packages that registering needs and Slicer lacks; installed only when the user says so."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import slicer
from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

from .i18n import _

TORCH = ">=2.4"
REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"


class MissingPackagesError(ProgressiveRegistrationError):
    """Packages are missing and nobody could be asked, or the answer was no."""


def requirements() -> list[str]:
    """The lines of Resources/requirements.txt that name a package."""
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def missing() -> list[str]:
    """Requirements that cannot be imported, torch first; looks only, imports nothing."""
    wanted = ["torch" + TORCH, *requirements()]
    return [w for w in wanted if importlib.util.find_spec(_import_name(w)) is None]


def _import_name(requirement: str) -> str:
    name = requirement
    for mark in "<>=!~;[ ":
        name = name.split(mark)[0]
    return name.lower()


def require() -> None:
    """For scripts: MissingPackagesError with the command to run when something is missing."""
    lacking = missing()
    if lacking:
        names = " ".join(f'"{name}"' if "<" in name or ">" in name else name for name in lacking)
        raise MissingPackagesError(
            f"Python packages are missing; run once: PythonSlicer -m pip install {names} "
            "(or install the PyTorch extension and press Register in the module)."
        )


def ensure(ask: Callable[[str], bool] | None = None) -> None:
    """For the window: ask once for everything that is missing, then install it.

    torch comes through the PyTorch extension, which chooses the build for this computer's graphics card.

    Raises
    ------
    MissingPackagesError : the user said no, the PyTorch extension is not there, or installing did not help.
    """
    lacking = missing()
    if not lacking:
        return
    torch_lacking = lacking[0].startswith("torch")
    if torch_lacking and importlib.util.find_spec("PyTorchUtils") is None:
        raise MissingPackagesError(
            _(
                "Registering needs PyTorch: install the PyTorch extension in the Extensions Manager, "
                "restart, and try again."
            )
        )
    ask = ask or slicer.util.confirmOkCancelDisplay
    text = _(
        "Registering needs Python packages that are not installed yet: {names}. Install them now? "
        "This takes some minutes and up to a few gigabytes."
    )
    if not ask(text.format(names=", ".join(_import_name(name) for name in lacking))):
        raise MissingPackagesError(_("Registering needs Python packages that were not installed."))
    if torch_lacking:
        import PyTorchUtils

        PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH)
    others = [name for name in lacking if not name.startswith("torch")]
    if others:
        _pip(others)
    importlib.invalidate_caches()
    still = missing()
    if still:
        raise MissingPackagesError(
            _("These packages could not be installed: {names}. See the error log.").format(
                names=", ".join(still)
            )
        )


def _pip(packages: list[str]) -> None:
    try:
        from slicer.packaging import (
            pip_ensure,
        )  # Slicer 5.11 and later: keeps Slicer's own packages as they are
    except ImportError:
        slicer.util.pip_install(packages)
        return
    from packaging.requirements import Requirement

    pip_ensure([Requirement(p) for p in packages], prompt_install=False, requester="Progressive Registration")
