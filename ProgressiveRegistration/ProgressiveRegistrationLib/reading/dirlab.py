"""DIR-Lab's images: raw ``.img`` files without a header, known by their name and length.

Both collections store int16, little-endian, HU + 1024, slices from head to feet; the published sizes and
voxel sizes are those of the table below (Castillo et al. 2009 and 2013).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry import Grid

OFFSET = 1024
# name -> columns, rows, slices, mm in plane, mm between slices
CASES: dict[str, tuple[int, int, int, float, float]] = {
    **{
        f"case{n}": (256, 256, slices, mm, 2.5)
        for n, slices, mm in ((1, 94, 0.97), (2, 112, 1.16), (3, 104, 1.15), (4, 99, 1.13), (5, 106, 1.10))
    },
    **{f"case{n}": (512, 512, s, 0.97, 2.5) for n, s in ((6, 128), (7, 136), (8, 128), (9, 128), (10, 120))},
    **{
        f"copd{n}": (512, 512, slices, mm, 2.5)
        for n, slices, mm in (
            (1, 121, 0.625),
            (2, 102, 0.645),
            (3, 126, 0.652),
            (4, 126, 0.590),
            (5, 131, 0.647),
            (6, 119, 0.633),
            (7, 112, 0.625),
            (8, 115, 0.586),
            (9, 116, 0.644),
            (10, 135, 0.742),
        )
    },
}
HEAD_TO_FEET = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def is_raw(path: Path) -> bool:
    """An ``.img`` without the ``.hdr`` that a NIfTI or Analyze pair has."""
    if path.suffix.lower() != ".img":
        return False
    return not any(path.with_suffix(end).is_file() for end in (".hdr", ".HDR", ".hdr.gz"))


def read_raw(path: Path, notes: list[str]) -> sitk.Image:
    """The image in HU; its frame is LPS mm with the first voxel at 0.

    Raises
    ------
    InputError : the name and the length fit no image of DIR-Lab's.
    """
    found = re.search(r"(case|copd)[_-]?(10|[1-9])(?!\d)", path.name.lower())
    size = path.stat().st_size
    if found:
        name = found[1] + found[2]
        columns, rows, slices, mm, between = CASES[name]
        if size != 2 * columns * rows * slices:
            raise InputError(
                f"{path} has {size} bytes, but DIR-Lab's {name} takes {2 * columns * rows * slices} "
                f"({columns} x {rows} x {slices} int16); it is cut off or another image, and for that a "
                ".mhd header beside it gives the size."
            )
    else:
        fitting = {c: v for c, v in CASES.items() if 2 * v[0] * v[1] * v[2] == size}
        if len(set(fitting.values())) != 1:
            raise InputError(
                f"{path} is raw data without a header, and its name is none of DIR-Lab's (case1_T00_s.img, "
                "copd1_iBHCT.img); name it so, or write a MetaImage header (.mhd) beside it that gives "
                "size and spacing."
            )
        name, (columns, rows, slices, mm, between) = next(iter(fitting.items()))
    values = np.fromfile(path, "<i2").reshape(slices, rows, columns).astype(np.int32) - OFFSET
    values = np.clip(values, -(2**15), 2**15 - 1).astype(np.int16)
    notes.append(
        f"{path.name} was read as DIR-Lab's {name}: {columns} x {rows} x {slices} voxels of {mm} x {mm} x "
        f"{between} mm, head first, HU + 1024."
    )
    return Grid((columns, rows, slices), (mm, mm, between), (0.0, 0.0, 0.0), HEAD_TO_FEET).image(values)
