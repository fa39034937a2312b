"""Where a transform says anything: outside its fields' grids nothing moves, as in ITK, and notes tell so."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from .foreign_fields import ItkField
from .geometry import Grid


def covered(mapping: object, points: np.ndarray) -> np.ndarray:
    """(n,) bool: do LPS points (n, 3) meet every field and spline of a transform inside its grid?

    Parts of a composite are looked at where the parts before them bring the points.
    """
    points = np.asarray(points, float).reshape(-1, 3)
    if isinstance(mapping, ItkField):
        return mapping.grid.contains(points)
    if not isinstance(mapping, sitk.Transform):
        return np.ones(len(points), bool)
    kind = mapping.GetTransformEnum()
    if kind == sitk.sitkDisplacementField:
        return Grid.from_image(sitk.DisplacementFieldTransform(mapping).GetDisplacementField()).contains(
            points
        )
    if kind == sitk.sitkBSplineTransform:
        spline = sitk.BSplineTransform(mapping)
        axes = np.reshape(spline.GetTransformDomainDirection(), (3, 3))
        place = (points - np.asarray(spline.GetTransformDomainOrigin())) @ axes
        sides = np.asarray(spline.GetTransformDomainPhysicalDimensions())
        return np.all((place >= -1e-6 * sides) & (place <= (1 + 1e-6) * sides), axis=-1)
    inside = np.ones(len(points), bool)
    if kind == sitk.sitkComposite:
        whole = sitk.CompositeTransform(mapping)
        parts = [whole.GetNthTransform(i) for i in range(whole.GetNumberOfTransforms())]
        for number, part in enumerate(reversed(parts)):  # ITK applies the last one first
            inside &= covered(part, points)
            if number < len(parts) - 1:
                points = np.array([part.TransformPoint(p) for p in points.tolist()]).reshape(-1, 3)
    return inside


def _has_borders(mapping: object) -> bool:
    """Can there be points that ``covered`` denies?"""
    if not isinstance(mapping, sitk.Transform):
        return isinstance(mapping, ItkField)
    return not mapping.IsLinear()


def outside_notes(mapping: object, points: np.ndarray | None, lung_mask: sitk.Image | None) -> list[str]:
    """How many landmarks (n, 3) LPS mm, and how much of the lungs, a transform's fields do not cover."""
    if not _has_borders(mapping):
        return []
    said = []
    if points is not None and len(points):
        outside = int((~covered(mapping, points)).sum())
        if outside:
            said.append(f"{outside} of {len(points)} landmarks")
    if lung_mask is not None:
        inside = np.argwhere(sitk.GetArrayViewFromImage(lung_mask) > 0)[:, ::-1]
        inside = inside[:: max(1, len(inside) // 40_000)]
        share = 1 - covered(mapping, Grid.from_image(lung_mask).index_to_world(inside)).mean()
        if share > 0.001:
            said.append(f"{100 * share:.1f} % of the fixed lungs")
    if not said:
        return []
    return [f"The field does not cover {' and '.join(said)}: outside its grid nothing moves, as in ITK."]


def reference_note(mapping: object, grid: Grid) -> list[str]:
    """The same for an image that is warped onto ``grid``."""
    if not _has_borders(mapping):
        return []
    coarse = grid.with_spacing(np.maximum(grid.spacing, np.asarray(grid.size) * grid.spacing / 40))
    share = 1 - covered(mapping, coarse.points()).mean()
    if share < 0.001:
        return []
    return [
        f"The field does not cover {100 * share:.0f} % of the reference image: outside its grid nothing "
        "moves, as in ITK."
    ]
