"""The volumes that a report carries in itself, so that its slices can be scrolled without a server.

Each volume is one JPEG: its axial slices side by side in rows. The page's script decodes it once and cuts all
three planes from it.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import SimpleITK as sitk

from ..geometry import Box, Grid
from ..transforms import Transform
from .pictures import VIEW_MARGIN_MM, quick_map_on, windowed

SPACING_MM = 1.5  # at the finest
MAX_VOXELS = 2_400_000  # a volume
MAX_BYTES = 2_700_000  # all volumes as they stand in the page; with the rest it stays below 5 MB
QUALITIES = (80, 70, 60, 50, 40, 30)


def explorer(
    transform: Transform, fixed: sitk.Image, moving: sitk.Image, lung_mask: sitk.Image | None = None
) -> dict:
    """What the page's script needs: the lattice (LPS mm) and three volumes as ``data:`` addresses.

    ``fixed``, ``before`` (the moving image as it lies) and ``after`` (as the transform brings it), all on one
    lattice around the lungs (the whole image without a mask), bright as in the report's pictures.
    """
    grid = _lattice(fixed, lung_mask)
    columns = int(np.ceil(np.sqrt(grid.size[2] * grid.size[1] / grid.size[0])))
    warp = quick_map_on(transform, [grid])
    volumes = {
        "fixed": _values(fixed, grid),
        "before": _values(moving, grid),
        "after": _values(moving, grid, warp),
    }
    sheets = {name: _sheet(values, columns) for name, values in volumes.items()}
    for quality in QUALITIES:
        uris = {name: _jpeg_uri(sheet, quality) for name, sheet in sheets.items()}
        if sum(map(len, uris.values())) <= MAX_BYTES:
            break
    return {
        "size": list(grid.size),
        "spacing": [round(s, 4) for s in grid.spacing],
        "origin": [round(v, 3) for v in grid.origin],
        "columns": columns,
        **uris,
    }


def _lattice(fixed: sitk.Image, lung_mask: sitk.Image | None) -> Grid:
    """Axis-aligned, isotropic, around the lungs; as fine as ``MAX_VOXELS`` allows."""
    whole = Box.around(Grid.from_image(fixed).corners())
    lower, upper = np.asarray(whole.lower), np.asarray(whole.upper)
    if lung_mask is not None:
        inside = sitk.GetArrayViewFromImage(lung_mask) > 0
        if inside.any():
            # The ends along each axis, not every voxel: a large mask has tens of millions.
            along = [np.flatnonzero(inside.any(axis=others)) for others in ((0, 1), (0, 2), (1, 2))]
            ends = np.stack(np.meshgrid(*[(ends[0], ends[-1]) for ends in along]), -1).reshape(-1, 3)
            found = Box.around(Grid.from_image(lung_mask).index_to_world(ends)).grown(VIEW_MARGIN_MM)
            lower, upper = np.maximum(found.lower, lower), np.minimum(found.upper, upper)
    spacing = max(SPACING_MM, float(np.cbrt(np.prod(upper - lower) / MAX_VOXELS)))
    nx, ny, nz = (max(2, int(extent // spacing)) for extent in upper - lower)
    x, y, z = (lower + upper) / 2 - spacing * (np.array([nx, ny, nz]) - 1) / 2
    return Grid((nx, ny, nz), (spacing,) * 3, (float(x), float(y), float(z)))


def _values(image: sitk.Image, grid: Grid, transform: Transform | None = None) -> np.ndarray:
    """(z, y, x) uint8; the square root keeps the lung's dim vessels visible, as in ``pictures.overlay``."""
    values = windowed(image, grid, transform)
    np.sqrt(values, out=values)
    values *= 255
    return np.rint(values, out=values).astype(np.uint8)


def _sheet(values: np.ndarray, columns: int) -> np.ndarray:
    """The slices of (z, y, x) side by side, ``columns`` in a row."""
    depth, height, width = values.shape
    rows = -(-depth // columns)
    full = np.zeros((rows * columns, height, width), np.uint8)
    full[:depth] = values
    return full.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def _jpeg_uri(sheet: np.ndarray, quality: int) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
