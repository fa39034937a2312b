"""How good a transform is: landmark error, folding, inverse consistency.

Everything here takes a ``DisplacementField`` or any ``sitk.Transform`` that maps fixed -> moving points
(LPS mm), so that a transform made by another program is measured in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import SimpleITK as sitk

from .constants import PADDING_HU
from .errors import Cancelled, InputError
from .field import DisplacementField
from .geometry import Grid, continued
from .statistics import statistics
from .transforms import Transform, map_points

SLAB_VOXELS = 4_000_000  # voxels whose Jacobian is held at once
LATTICE_MM = 2.0  # sampling of transforms that have no grid of their own


def tre(transform: Transform, fixed_points: np.ndarray, moving_points: np.ndarray) -> np.ndarray:
    """Target registration error |T(x) - y| (n,) in mm of fixed points x and moving points y, (n, 3) LPS mm.

    Continuous: neither T(x) nor y is snapped to a voxel (paper, section III: TRE(x, y)).
    Examples
    --------
    >>> import SimpleITK as sitk
    >>> tre(sitk.TranslationTransform(3, (0, 0, 5)), [[1, 2, 3], [4, 5, 6]], [[1, 2, 8], [4, 8, 7]]).tolist()
    [0.0, 5.0]
    """
    return np.linalg.norm(map_points(transform, fixed_points) - np.asarray(moving_points, float), axis=1)


def field_of_view(image: sitk.Image) -> sitk.Image:
    """UInt8 image: 1 where the CT has data, 0 where the scanner padded (at or below -1100 HU)."""
    return sitk.Cast(image > PADDING_HU, sitk.sitkUInt8)


def jacobian_determinant(transform: Transform, grid: Grid) -> np.ndarray:
    """det(dT/dx) on ``grid``, (z, y, x) float32; 1 = volume kept, <= 0 = folded."""
    if isinstance(transform, sitk.Transform):
        return DisplacementField.from_transform(transform, grid).jacobian_determinant()
    field = transform if transform.grid == grid else transform.resample(grid)
    return field.jacobian_determinant()


def evaluation_grid(transform: Transform, image: sitk.Image) -> Grid:
    """Where folding is counted: the field's own lattice continued over ``image``, so nothing is averaged.

    A transform without a lattice is sampled every 2 mm (or at the image's spacing where that is coarser).
    """
    fixed = Grid.from_image(image)
    if isinstance(transform, sitk.Transform):
        return fixed.with_spacing(np.maximum(fixed.spacing, LATTICE_MM))
    return continued(transform.grid, fixed)


def folding(
    transform: Transform,
    lung_mask: sitk.Image | None,
    fov_mask: sitk.Image,
    *,
    cancelled: Callable[[], bool] | None = None,
) -> dict:
    """How much a transform folds, inside the lung and in the field of view.

    Parameters
    ----------
    lung_mask, fov_mask : images > 0 inside, on any grid; ``fov_mask`` also says where the fixed image lies.

    Returns
    -------
    ``lung_percent``, ``field_of_view_percent``: voxels of the evaluation lattice with det <= 0, in percent;
    ``lung``, ``field_of_view``: mean, sd, min, p1, p99, max of det, ``sd_log`` (of log det where det > 0),
    count; ``spacing_mm`` of that lattice. Without a lung mask, or with no voxel in it, the lung's are None.
    """
    grid = evaluation_grid(transform, fov_mask)
    masks = {"lung": lung_mask, "field_of_view": fov_mask}
    values: dict[str, list[np.ndarray]] = {name: [] for name in masks}
    for slab, inner in _slabs(grid):
        if cancelled is not None and cancelled():
            raise Cancelled()
        inside = {}
        for name, mask in masks.items():
            if mask is not None:
                sampled = slab.resample(mask, interpolator=sitk.sitkNearestNeighbor)
                inside[name] = sitk.GetArrayFromImage(sampled)[inner] > 0
        if not any(mask.any() for mask in inside.values()):
            continue
        determinant = jacobian_determinant(transform, slab)[inner]
        for name, chosen in inside.items():
            values[name].append(determinant[chosen])
    out: dict = {}
    for name in masks:
        found = np.concatenate(values[name]) if values[name] else np.empty(0, np.float32)
        out[f"{name}_percent"] = float(100.0 * np.mean(found <= 0)) if found.size else None
        out[name] = _spread(found) if found.size else None
    out["spacing_mm"] = [float(s) for s in grid.spacing]
    return out


def inverse_consistency(forward: Transform, backward: Transform, mask: sitk.Image) -> dict:
    """Statistics of |B(F(x)) - x| in mm over the voxels x > 0 of ``mask`` (fixed frame)."""
    points = mask_points(mask)
    back = map_points(backward, map_points(forward, points))
    return statistics(np.linalg.norm(back - points, axis=1))


def mask_points(mask: sitk.Image, most: int = 100_000) -> np.ndarray:
    """LPS mm (n, 3) of the voxels > 0 of ``mask``, evenly thinned to about ``most`` of them."""
    inside = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)[:, ::-1]
    if not len(inside):
        raise InputError("The mask has no voxel above 0; give a mask that covers the lungs.")
    step = max(1, len(inside) // most)
    return Grid.from_image(mask).index_to_world(inside[::step])


def quality_figures(
    transform: Transform,
    fixed: sitk.Image,
    *,
    lung_mask: sitk.Image | None = None,
    fixed_points: np.ndarray | None = None,
    moving_points: np.ndarray | None = None,
    mapped_points: np.ndarray | None = None,
    labels: list[str] | None = None,
    backward: Transform | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict:
    """All quality figures of one transform, ready for ``report.json``.

    ``mapped_points``: T(x) of ``fixed_points``, where it is known better than from samples of T.

    Keys: ``folding``; with landmarks ``tre_mm`` (``before``, ``after``, and ``lung_boxes`` = after the
    box-to-box affine alone, where the field knows it) and ``landmarks`` (label, before_mm, after_mm,
    fixed_lps, moving_lps); with a lung mask ``displacement_mm`` (|u| in it), and with ``backward`` too
    ``inverse_consistency_mm``.
    """
    figures: dict = {"folding": folding(transform, lung_mask, field_of_view(fixed), cancelled=cancelled)}
    if fixed_points is not None and moving_points is not None:
        fixed_points, moving_points = np.asarray(fixed_points, float), np.asarray(moving_points, float)
        before = np.linalg.norm(fixed_points - moving_points, axis=1)
        if mapped_points is None:
            after = tre(transform, fixed_points, moving_points)
        else:
            after = np.linalg.norm(np.asarray(mapped_points, float) - moving_points, axis=1)
        figures["tre_mm"] = {"before": statistics(before), "after": statistics(after)}
        boxes = getattr(transform, "outside", None)
        if boxes is not None:
            aligned = np.linalg.norm(boxes(fixed_points) - moving_points, axis=1)
            figures["tre_mm"]["lung_boxes"] = statistics(aligned)
        names = labels or [str(i + 1) for i in range(len(before))]
        figures["landmarks"] = [
            {
                "label": label,
                "before_mm": float(b),
                "after_mm": float(a),
                "fixed_lps": [float(v) for v in x],
                "moving_lps": [float(v) for v in y],
            }
            for label, b, a, x, y in zip(names, before, after, fixed_points, moving_points)
        ]
    if lung_mask is not None:
        points = mask_points(lung_mask)
        figures["displacement_mm"] = statistics(
            np.linalg.norm(map_points(transform, points) - points, axis=1)
        )
    if backward is not None and lung_mask is not None:
        figures["inverse_consistency_mm"] = inverse_consistency(transform, backward, lung_mask)
    return figures


def _spread(values: np.ndarray) -> dict:
    values = values.astype(np.float64)
    positive = values[values > 0]
    return {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "min": float(values.min()),
        "p1": float(np.percentile(values, 1)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
        "sd_log": float(np.log(positive).std()) if positive.size else None,
        "count": int(values.size),
    }


def _slabs(grid: Grid) -> Iterator[tuple[Grid, tuple[slice, slice, slice]]]:
    """Runs of slices of ``grid``, one more on each side for the derivative, and the part that counts."""
    size = grid.size
    step = max(1, SLAB_VOXELS // (size[0] * size[1]))
    for start in range(0, size[2], step):
        stop = min(start + step, size[2])
        first, last = max(0, start - 1), min(size[2], stop + 1)
        slab = Grid(
            (size[0], size[1], last - first), grid.spacing, grid.index_to_world((0, 0, first)), grid.direction
        )
        yield slab, (slice(start - first, stop - first), slice(None), slice(None))
