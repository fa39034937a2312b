"""Register the pairs of a CSV file, in Slicer without its windows or in any Python that has the engine.

    Slicer --no-splash --no-main-window --python-script register_pairs.py -- PAIRS.csv -o OUT
    python register_pairs.py PAIRS.csv -o OUT

The same as ``progressive-registration batch PAIRS.csv -o OUT``, options, files and exit codes included;
``--help`` tells them.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import traceback
from pathlib import Path

# Beside this script's folder: in the sources and where Slicer installs the module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The application has imported it; PyPI's slicer-core alone is no Slicer.
slicer = sys.modules.get("slicer")
IN_SLICER = getattr(slicer, "app", None) is not None


def require_packages() -> None:
    """Raise with the command to run when a package is missing; nothing is installed here."""
    if IN_SLICER:
        from ProgressiveRegistrationSlicer import installer

        installer.require()
        return
    import importlib.util

    lacking = [n for n in ("torch", "safetensors", "jinja2") if importlib.util.find_spec(n) is None]
    if lacking:
        from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

        raise ProgressiveRegistrationError(
            f"Python packages are missing; run once: {sys.executable} -m pip install {' '.join(lacking)}"
        )


def prepare_workers() -> None:
    """Worker processes must run Slicer's Python, not one more Slicer, and find the engine."""
    python = shutil.which("PythonSlicer")
    if python is not None:
        multiprocessing.set_executable(python)
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def main(arguments: list[str]) -> int:
    from ProgressiveRegistrationLib.batch import command as batch_command
    from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

    if not {"-h", "--help"} & set(arguments):
        try:
            require_packages()
        except ProgressiveRegistrationError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.exit_code
    if IN_SLICER:
        prepare_workers()
    return batch_command.main(arguments, "register_pairs.py")


if __name__ == "__main__":
    # Slicer passes its own "--" on.
    given = sys.argv[1:]
    try:
        code = main(given[1:] if given[:1] == ["--"] else given)
    except Exception:  # Slicer would print it and stay open, without a window
        traceback.print_exc()
        code = 1
    if IN_SLICER:
        slicer.util.exit(code)
    else:
        sys.exit(code)
