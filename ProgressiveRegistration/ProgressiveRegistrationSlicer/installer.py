"""The Python packages that registering and reports need and Slicer lacks;
installed only when the user says so.

Reports need no PyTorch: ``torch=False`` asks for the rest alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
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
    """The lines of Resources/requirements.txt that name a package; none in a wheel, where pip saw to them."""
    if not REQUIREMENTS.is_file():
        return []
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def missing(torch: bool = True) -> list[str]:
    """Requirements that cannot be imported or are too old, torch first; looks only, imports nothing."""
    wanted = ["torch" + TORCH, *requirements()] if torch else requirements()
    return [w for w in wanted if importlib.util.find_spec(_import_name(w)) is None or _outdated(w)]


def _outdated(requirement: str) -> str:
    """The installed version where it is older than ``NAME>=VERSION``, else ""; unknown versions are taken."""
    name, _mark, least = requirement.partition(">=")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return version if _release(version) < _release(least) else ""


def _release(version: str) -> list[int]:
    """[2, 4, 1] of "2.4.1+cu121"; Slicer need not have ``packaging``."""
    numbers = re.match(r"[\d.]*", version).group()
    return [int(number) for number in numbers.split(".") if number]


def _described(lacking: list[str]) -> str:
    """For the user: "torch (2.1.0 is too old), jinja2"."""
    texts = []
    for requirement in lacking:
        name, old = _import_name(requirement), _outdated(requirement)
        texts.append(_("{name} ({version} is too old)").format(name=name, version=old) if old else name)
    return ", ".join(texts)


def _import_name(requirement: str) -> str:
    name = requirement
    for mark in "<>=!~;[ ":
        name = name.split(mark)[0]
    return name.lower()


def require(torch: bool = True) -> None:
    """For scripts: MissingPackagesError with the command to run when something is missing."""
    lacking = missing(torch)
    if lacking:
        extension = " (or install the PyTorch extension and press Register in the module)" if torch else ""
        names = " ".join(f'"{name}"' if "<" in name or ">" in name else name for name in lacking)
        raise MissingPackagesError(
            f"Python packages are missing or too old: {_described(lacking)}; run once: "
            f"PythonSlicer -m pip install {names}{extension}."
        )


def ensure(ask: Callable[[str], bool] | None = None, torch: bool = True) -> None:
    """For the window: ask once for everything that is missing or too old, then install it.

    torch comes through the PyTorch extension, which chooses the build for this computer's graphics card.

    Raises
    ------
    MissingPackagesError : the user said no, the PyTorch extension is not there, installing did not help, or
        a package that is in use was replaced.
    """
    lacking = missing(torch)
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
    if torch:
        text = _(
            "Registering needs Python packages that are not installed yet or too old: {names}. Install them "
            "now? This takes some minutes and up to a few gigabytes."
        )
        refused = _("Registering needs Python packages that were not installed.")
    else:
        text = _(
            "The report needs Python packages that are not installed yet or too old: {names}. Install them "
            "now?"
        )
        refused = _("The report needs Python packages that were not installed.")
    in_use = [name for name in map(_import_name, filter(_outdated, lacking)) if name in sys.modules]
    if not ask(text.format(names=_described(lacking))):
        raise MissingPackagesError(refused)
    if torch_lacking:
        import PyTorchUtils

        PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH)
    others = [name for name in lacking if not name.startswith("torch")]
    if others:
        _pip(others)
    importlib.invalidate_caches()
    still = missing(torch)
    if still:
        raise MissingPackagesError(
            _("These packages could not be installed: {names}. See the error log.").format(
                names=_described(still)
            )
        )
    if in_use:
        raise MissingPackagesError(
            _("{names} was updated: restart Slicer, then try again.").format(names=", ".join(in_use))
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
