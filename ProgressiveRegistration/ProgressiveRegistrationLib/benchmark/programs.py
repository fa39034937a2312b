"""The programs that a benchmark compares: what each is, its settings in words, how it is started."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from ..formats import transform_file
from ..options import PairFiles
from ..presets import PRESETS

PEER = Path(__file__).with_name("peer.py")
OURS = "progressive-registration"


@dataclass(frozen=True)
class Program:
    """name : in tables. package : the distribution that it needs. output : its transform's file name.

    settings : in words, for the table. preset : ours, or None for a peer. trained : it needs a file of
    weights, ``weights``, that does not come with its package.
    """

    name: str
    package: str
    settings: str
    output: str = transform_file(".h5")
    preset: str | None = None
    trained: bool = False
    weights: Path | None = None

    def command(self, python: str, files: PairFiles, folder: Path, threads: int) -> list[str]:
        """What is run, to write ``folder / output``."""
        if self.preset is not None:
            code = "import sys; from ProgressiveRegistrationLib.cli import main; sys.exit(main())"
            given = [str(files.fixed), str(files.moving), "-o", str(folder), "--preset", self.preset, "-q"]
            masks = (("--fixed-mask", files.fixed_mask), ("--moving-mask", files.moving_mask))
            given += [text for name, path in masks if path is not None for text in (name, str(path))]
            return [python, "-c", code, "register", *given]
        given = [self.name, str(files.fixed), str(files.moving), str(folder / self.output)]
        if files.fixed_mask is not None:
            given += ["--mask", str(files.fixed_mask)]
        if self.weights is not None:
            given += ["--weights", str(self.weights)]
        return [python, str(PEER), *given, "--threads", str(threads)]


PROGRAMS = {
    program.name: program
    for program in (
        *(Program(name, OURS, "from files to files, report included", preset=name) for name in PRESETS),
        Program(
            "elastix",
            "itk-elastix",
            "affine, then B-splines 10 mm apart; normalised correlation, 5 resolutions, 1000 iterations of "
            "2000 new samples each, in the mask where there is one (after Staring et al., EMPIRE10)",
            "field.nrrd",
        ),
        Program(
            "greedy",
            "picsl-greedy",
            "affine from the images' centres, then deformable; NCC 2x2x2, 100x50x10 (its quick start)",
            "field.nii.gz",
        ),
        Program("ants", "antspyx", "SyNCC: affine, then SyN with local correlation, as ANTsPy sets it"),
        Program(
            "convexadam",
            "convexAdam",
            "centres of the images aligned, then ConvexAdam with MIND as its authors set it",
        ),
        Program(
            "unigradicon",
            "unigradicon",
            "its command for two CTs, with the 50 steps on the pair that it takes by default",
            trained=True,
        ),
    )
}


def installed(python: str) -> dict[str, str]:
    """Distribution -> version, of those that programs need, in the environment of an interpreter.

    Raises
    ------
    InputError : the interpreter does not run.
    """
    packages = sorted({program.package for program in PROGRAMS.values()})
    code = (
        "import importlib.metadata as m, json, sys\n"
        "def v(p):\n try: return m.version(p)\n except m.PackageNotFoundError: return None\n"
        "print(json.dumps({p: v(p) for p in sys.argv[1:]}))"
    )
    try:
        done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{python} does not run; give the Python of the peers' environment.") from error
    return {name: version for name, version in json.loads(done.stdout).items() if version}


def chosen(
    names: list[str], peer_python: str | None, weights: Path | None = None
) -> tuple[list[tuple[Program, str, str]], list[str]]:
    """(program, its Python, its version) for each that can run here, and notes about those that cannot.

    ``names`` : empty for all that are installed. ``weights`` : the file of the program that needs one.
    """
    if weights is not None and not weights.is_file():
        raise InputError(f"The weights {weights} do not exist.")
    unknown = [name for name in names if name not in PROGRAMS]
    if unknown:
        raise InputError(f"There is no program {unknown[0]}; choose among {', '.join(PROGRAMS)}.")
    here = installed(sys.executable)
    there = installed(peer_python) if peer_python else here
    out, notes = [], []
    for program in (PROGRAMS[name] for name in names or PROGRAMS):
        if program.preset is not None:
            from .. import __version__

            out.append((program, sys.executable, __version__))
        elif program.package in there and program.trained and weights is None:
            text = f"{program.name} needs its weights: download them and give the file with --weights."
            if names:
                raise InputError(text)
            notes.append(f"{text[:-1]}; it was left out.")
        elif program.package in there:
            program = replace(program, weights=weights) if program.trained else program
            out.append((program, peer_python or sys.executable, there[program.package]))
        elif names:
            raise InputError(
                f"{program.name} is not installed; pip install {program.package}, or give the Python that "
                "has it with --peer-python."
            )
        else:
            notes.append(f"{program.name} is not installed ({program.package}) and was left out.")
    return out, notes
