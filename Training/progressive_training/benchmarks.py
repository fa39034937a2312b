"""Pairs with landmarks to test on: DIR-Lab 4DCT, DIR-Lab COPDgene, POPI and CREATIS as distributed,
CSV lists, phantoms.

Files are recognised by their names, wherever below the folder they lie and whatever their case. Every pair
comes out in LPS mm. The fixed image is the inhale one (the phantoms': the exhale one); ``swapped`` exchanges
the roles.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.images import read_image
from ProgressiveRegistrationLib.landmarks import Landmarks, read_landmarks
from ProgressiveRegistrationLib.pairing import match_landmarks

# Raw DIR-Lab files have no header: voxels along x, y, z and mm, as published beside the downloads.
DIRLAB_4DCT = {
    1: ((256, 256, 94), (0.97, 0.97, 2.5)),
    2: ((256, 256, 112), (1.16, 1.16, 2.5)),
    3: ((256, 256, 104), (1.15, 1.15, 2.5)),
    4: ((256, 256, 99), (1.13, 1.13, 2.5)),
    5: ((256, 256, 106), (1.10, 1.10, 2.5)),
    6: ((512, 512, 128), (0.97, 0.97, 2.5)),
    7: ((512, 512, 136), (0.97, 0.97, 2.5)),
    8: ((512, 512, 128), (0.97, 0.97, 2.5)),
    9: ((512, 512, 128), (0.97, 0.97, 2.5)),
    10: ((512, 512, 120), (0.97, 0.97, 2.5)),
}
DIRLAB_COPDGENE = {
    1: ((512, 512, 121), (0.625, 0.625, 2.5)),
    2: ((512, 512, 102), (0.645, 0.645, 2.5)),
    3: ((512, 512, 126), (0.652, 0.652, 2.5)),
    4: ((512, 512, 126), (0.590, 0.590, 2.5)),
    5: ((512, 512, 131), (0.647, 0.647, 2.5)),
    6: ((512, 512, 119), (0.633, 0.633, 2.5)),
    7: ((512, 512, 112), (0.625, 0.625, 2.5)),
    8: ((512, 512, 115), (0.586, 0.586, 2.5)),
    9: ((512, 512, 116), (0.664, 0.664, 2.5)),
    10: ((512, 512, 135), (0.742, 0.742, 2.5)),
}
# CREATIS: the folders in the order of the published table; the exhale phase is 60 for the first, 50 for the
# others.
CREATIS = ("bl", "ng", "dx", "gt", "mm2", "bh")
POPI_PHASES = ("10", "60")  # end-inhale and end-exhale: these give the paper's 6.29 mm before registration

RAW_OFFSET = 1024
RAW_PADDING = -1500  # stored values below are outside the scanner's field (-2000 as distributed)
PADDING_HU = -2048


@dataclass(frozen=True)
class PairData:
    """A pair in memory. Points (n, 3) LPS mm, row for row the same anatomy; masks > 0 in the lungs,
    or None."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_points: np.ndarray
    moving_points: np.ndarray
    labels: tuple[str, ...]
    fixed_mask: sitk.Image | None = None
    moving_mask: sitk.Image | None = None

    def swapped(self) -> PairData:
        """The same pair with the roles of fixed and moving exchanged."""
        return PairData(
            self.moving,
            self.fixed,
            self.moving_points,
            self.fixed_points,
            self.labels,
            self.moving_mask,
            self.fixed_mask,
        )


@dataclass(frozen=True)
class BenchmarkPair:
    """A pair that can be read: ``load()`` gives its ``PairData`` or raises InputError."""

    data_set: str
    name: str
    load: Callable[[], PairData]


def read_raw(path: Path, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> sitk.Image:
    """A DIR-Lab file: int16, little-endian, HU + 1024, slices from head to feet -> HU in LPS, feet first.

    Voxel (x, y, z) of the file is voxel (x, y, size_z - 1 - z) of the image. What lies outside the scanner's
    field (-2000 in the file) becomes -2048 HU.

    Raises
    ------
    InputError : the file is missing, of another size, or does not hold HU + 1024.
    """
    expected = 2 * int(np.prod(size))
    try:
        found = path.stat().st_size
    except OSError as error:
        raise InputError(f"The image {path} cannot be read: {error.strerror}.") from error
    if found != expected:
        raise InputError(
            f"The image {path} has {found} bytes, but {' x '.join(map(str, size))} voxels of two bytes are "
            f"{expected}: unpack it again, and do not rename the cases."
        )
    raw = np.fromfile(path, "<i2").reshape(size[::-1])
    padding = raw <= RAW_PADDING
    impossible = int(np.count_nonzero((raw < -100) & ~padding))
    if impossible > 0.05 * max(1, int(np.count_nonzero(~padding))):
        raise InputError(
            f"The image {path} does not hold HU + 1024: much of it would be below -1124 HU; use the file as "
            "distributed."
        )
    hu = raw.astype(np.int32) - RAW_OFFSET
    hu[padding] = PADDING_HU
    # A left-handed image would be as right, but some formats and programs cannot keep one.
    return Grid(size, spacing, (0.0, 0.0, 0.0)).image(np.ascontiguousarray(hu[::-1].astype(np.int16)))


def _raw_pair(
    geometry: tuple[tuple[int, int, int], tuple[float, float, float]], files: list[Path]
) -> PairData:
    size, spacing = geometry
    fixed, moving = (read_raw(p, size, spacing) for p in files[:2])
    first, second = (read_landmarks(p, fixed, slices_reversed=True) for p in files[2:])
    return _paired(fixed, moving, first, second)


def _paired(
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_landmarks: Landmarks,
    moving_landmarks: Landmarks,
    exclude: Iterable[str] = (),
) -> PairData:
    first, second, _ = match_landmarks(fixed_landmarks, moving_landmarks)
    keep = [i for i, label in enumerate(first.labels) if label not in set(exclude)]
    if not keep:
        raise InputError(f"No landmark of {first.source} is left after those to exclude.")
    first, second = first.subset(keep), second.subset(keep)
    return PairData(fixed, moving, first.points, second.points, tuple(first.labels))


def _index(folder: Path, pattern: str) -> dict[tuple[str, ...], Path]:
    """Files below ``folder`` whose names match: groups in lower case -> path, the shortest of several."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} with test images.")
    found: dict[tuple[str, ...], Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda p: (len(p.parts), str(p))):
        match = re.fullmatch(pattern, path.name, re.IGNORECASE)
        if match and path.is_file():
            found.setdefault(tuple(g.lower() for g in match.groups()), path)
    return found


def _collect(
    data_set: str,
    folder: Path,
    cases: Iterable[tuple[str, list[Path | None], Callable[[list[Path]], PairData]]],
) -> tuple[list[BenchmarkPair], list[str]]:
    """Pairs of which all four files are there, and sentences about the others."""
    pairs, notes = [], []
    for name, files, load in cases:
        there = [f for f in files if f is not None]
        if len(there) == len(files):
            pairs.append(BenchmarkPair(data_set, name, partial(load, there)))
        elif there:
            roles = ("fixed image", "moving image", "fixed landmarks", "moving landmarks")
            missing = [role for role, f in zip(roles, files) if f is None]
            notes.append(f"{data_set} {name} is left out: its {', '.join(missing)} cannot be found.")
    if not pairs:
        why = f" {notes[0]}" if notes else ""
        raise InputError(f"There is no whole pair of {data_set} in {folder}: unpack the archives there.{why}")
    return pairs, notes


def dirlab_4dct(
    folder: Path, phases: tuple[str, str] = ("00", "50")
) -> tuple[list[BenchmarkPair], list[str]]:
    """DIR-Lab 4DCT: ``CaseNPack/Images/caseN_T00_s.img`` (or ``-ssm``, or no suffix) and ``Case8Deploy``;
    ``ExtremePhases/CaseN_300_T00_xyz.txt`` or ``extremePhases/caseN_dirLab300_T00_xyz.txt``."""
    images = _index(folder, r"case0*(\d+)_t(\d\d)(?:[-_]ss?m?)?\.img")
    points = _index(folder, r"case0*(\d+)_(?:dirlab)?300_t(\d\d)_xyz\.txt")
    return _collect(
        "DIR-Lab 4DCT",
        folder,
        (
            (
                str(case),
                [f.get((str(case), p)) for f in (images, points) for p in phases],
                partial(_raw_pair, geometry),
            )
            for case, geometry in DIRLAB_4DCT.items()
        ),
    )


def dirlab_copdgene(folder: Path) -> tuple[list[BenchmarkPair], list[str]]:
    """DIR-Lab COPDgene: ``copdN/copdN/copdN_iBHCT.img`` and ``copdN_300_iBH_xyz_r1.txt``, ``eBH`` alike."""
    images = _index(folder, r"copd0*(\d+)_([ie])bhct\.img")
    points = _index(folder, r"copd0*(\d+)_300_([ie])bh_xyz(?:_r1)?\.txt")
    return _collect(
        "DIR-Lab COPDgene",
        folder,
        (
            (
                str(case),
                [f.get((str(case), p)) for f in (images, points) for p in "ie"],
                partial(_raw_pair, geometry),
            )
            for case, geometry in DIRLAB_COPDGENE.items()
        ),
    )


def _mm_points(path: Path) -> Landmarks:
    """Rows of x y z in mm, whatever the file's ending."""
    try:
        points = np.loadtxt(path, comments="#", delimiter=None, ndmin=2)[:, :3]
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"The landmarks {path} cannot be read: rows of x y z in mm are needed.") from error
    labels = [str(i + 1) for i in range(len(points))]
    return Landmarks(points, labels, labelled=False, source=path.name)


def _mhd_pair(files: list[Path]) -> PairData:
    fixed, moving = (read_image(f) for f in files[:2])
    first, second = (_mm_points(f) for f in files[2:])
    return _paired(fixed, moving, first, second)


def popi(folder: Path, phases: tuple[str, str] = POPI_PHASES) -> tuple[list[BenchmarkPair], list[str]]:
    """The POPI-model: ``10-P.mhd`` (and ``.raw``) and ``10-Landmarks.pts``, mm in the frame of the ``.mhd``.

    Its frame is taken as LPS: z grows to the head (on breathing out, z of the landmarks grows), and the
    landmarks with large y move most along the body, as behind in DIR-Lab.
    """
    images = _index(folder, r"(\d\d)-p\.mhd")
    points = _index(folder, r"(\d\d)-landmarks\.(?:pts|txt)")
    files = [f.get((p,)) for f in (images, points) for p in phases]
    return _collect("POPI", folder, [("1", files, _mhd_pair)])


def creatis(folder: Path) -> tuple[list[BenchmarkPair], list[str]]:
    """The six CREATIS patients: ``bl/mhd/00.mhd``, ``bl/pts/00.pts`` and so on, as served from ``MedPhys11``.

    Inhale is phase 00; exhale is the published reference phase: 60 for ``bl``, 50 for the others. The points
    are in the frame of the ``.mhd`` files, not of the DICOM ones.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} with test images.")
    cases = []
    for number, patient in enumerate(CREATIS, 1):
        exhale = "60" if patient == "bl" else "50"
        homes = sorted(
            (p for p in folder.rglob("*") if p.is_dir() and p.name.lower() == patient),
            key=lambda p: len(p.parts),
        )
        if not homes and folder.name.lower() == patient:
            homes = [folder]
        files: list[Path | None] = [None] * 4
        if homes:
            images = _index(homes[0], r"(\d\d)\.mhd")
            points = _index(homes[0], r"(\d\d)\.(?:pts|txt)")
            files = [f.get((p,)) for f in (images, points) for p in ("00", exhale)]
        cases.append((f"{number} ({patient})", files, _mhd_pair))
    return _collect("CREATIS", folder, cases)


CSV_COLUMNS = ("fixed", "moving", "fixed_landmarks", "moving_landmarks")
CSV_EXTRA = ("fixed_mask", "moving_mask", "id", "exclude")


def csv_pairs(path: Path) -> tuple[list[BenchmarkPair], list[str]]:
    """A list of pairs: columns fixed, moving, fixed_landmarks, moving_landmarks, and fixed_mask,
    moving_mask, id, exclude.

    Paths are relative to the CSV. ``points.csv#baseline`` reads the columns ``baseline_x_lps`` ... of a CSV
    with several point sets. ``exclude``: labels of landmarks to leave out, separated by spaces.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list of pairs {path} cannot be read.") from error
    columns = list(rows[0]) if rows else []
    missing = [c for c in CSV_COLUMNS if c not in columns]
    if missing:
        raise InputError(
            f"The list of pairs {path} needs rows and the columns {', '.join(CSV_COLUMNS)}; missing: "
            f"{', '.join(missing)}."
        )
    unknown = [str(c) for c in columns if c not in CSV_COLUMNS + CSV_EXTRA]
    if unknown:
        raise InputError(
            f"The list of pairs {path} has the unknown column {', '.join(unknown)}; known: "
            f"{', '.join(CSV_COLUMNS + CSV_EXTRA)}."
        )
    pairs = []
    for number, row in enumerate(rows, 1):
        values = {k: (v or "").strip() for k, v in row.items()}
        empty = [c for c in CSV_COLUMNS if not values[c]]
        if empty:
            raise InputError(f"Row {number} of the list of pairs {path} has no {', '.join(empty)}.")
        name = values.get("id") or str(number)
        pairs.append(BenchmarkPair(path.stem, name, partial(_listed_pair, path.parent, values)))
    return pairs, []


def _listed_pair(folder: Path, row: dict[str, str]) -> PairData:
    def read_points(entry: str, image: sitk.Image) -> Landmarks:
        file, _, prefix = entry.partition("#")
        return read_landmarks(folder / file, image, columns=prefix or None)

    fixed, moving = read_image(folder / row["fixed"]), read_image(folder / row["moving"])
    pair = _paired(
        fixed,
        moving,
        read_points(row["fixed_landmarks"], fixed),
        read_points(row["moving_landmarks"], moving),
        row.get("exclude", "").split(),
    )
    first, second = (
        read_image(folder / row[key]) if row.get(key) else None for key in ("fixed_mask", "moving_mask")
    )
    return replace(pair, fixed_mask=first, moving_mask=second)


def phantoms(count: int, first_seed: int = 0, **options: Any) -> list[BenchmarkPair]:
    """Breathing thoraxes of seeds ``first_seed`` ...; ``options`` go to the engine's ``breathing_thorax``."""

    def load(seed: int) -> PairData:
        from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

        pair = breathing_thorax(seed=seed, **options)
        return _paired(pair.fixed, pair.moving, pair.fixed_landmarks, pair.moving_landmarks)

    return [
        BenchmarkPair("Phantom", f"seed {s}", partial(load, s)) for s in range(first_seed, first_seed + count)
    ]


def _swapped(pair: BenchmarkPair) -> PairData:
    return pair.load().swapped()


def swapped(pairs: Iterable[BenchmarkPair]) -> list[BenchmarkPair]:
    """The pairs with fixed and moving exchanged."""
    return [replace(p, load=partial(_swapped, p)) for p in pairs]
