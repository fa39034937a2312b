"""Where a registration starts when the lungs' positions are no help: a given transform, or landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Grid
from ProgressiveRegistrationLib.quality import LATTICE_MM

from . import mrml
from .i18n import _
from .mrml_landmarks import landmarks_from_node, match

AFFINE_FROM = 6  # landmarks; with fewer a rigid fit is safer


class Start:
    """An initial transform T0, read on the main thread: fixed -> moving points in the world, LPS mm.

    The moving image is brought near the fixed one by it (a linear one changes only where the voxels lie),
    registered, and the result is T0 after what was found.
    """

    def __init__(self, transform, fixed, moving) -> None:
        if transform in mrml.parents(moving):
            raise InputError(
                _(
                    "{moving} is under {transform} already: take it out (Data module, Transform: None) and "
                    "choose the transform under Start from alone."
                ).format(moving=moving.GetName(), transform=transform.GetName())
            )
        self.name = transform.GetName()
        self._map = mrml.point_map(transform)
        self._affine = _as_affine(self._map) if _is_linear(transform) else None
        self._cover = mrml.volume_grid(fixed)

    def bring(self, moving: sitk.Image, cancelled: Callable | None = None) -> sitk.Image:
        """The moving image as T0 brings it to the fixed one; in any thread."""
        if self._affine is not None:
            back = self._affine.inverse()
            grid = Grid.from_image(moving)
            matrix = back.matrix @ grid.index_to_world_matrix
            # ITK's images have orthogonal axes: a shear or different scales need new voxels
            spacing = np.linalg.norm(matrix, axis=0)
            axes = matrix / spacing
            if np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):
                placed = sitk.Image(moving)
                placed.SetOrigin(back(np.asarray(grid.origin, float)).tolist())
                placed.SetSpacing(spacing.tolist())
                placed.SetDirection(axes.ravel().tolist())
                return placed
            return DisplacementField.from_affine(self._cover, self._affine).warp_image(moving, self._cover)
        return self._field(cancelled).warp_image(moving, self._cover)

    def complete(self, registration: Any, cancelled: Callable | None = None) -> Any:
        """The registration of the brought image, as one of the image itself."""
        found = registration.field
        if self._affine is not None:
            points = found.grid.points().astype(float)
            mapped = self._affine(points + found.displacement)
            outside = None
            if found.outside is not None:
                outside = Affine(
                    self._affine.matrix @ found.outside.matrix, self._affine(found.outside.offset)
                )
            field = DisplacementField(found.grid, (mapped - points).astype(np.float32), outside)
        else:
            field = self._field(cancelled).compose(found)
        if is_dataclass(registration):
            return replace(registration, field=field)
        registration.field = field
        return registration

    def _field(self, cancelled) -> DisplacementField:
        lattice = self._cover.with_spacing(np.maximum(self._cover.spacing, LATTICE_MM))
        return mrml.sampled(self._map, mrml.continued(lattice, self._cover), cancelled)


def _is_linear(transform) -> bool:
    return all(node.IsLinear() for node in (transform, *mrml.parents(transform)))


def _as_affine(mapping: Callable) -> Affine:
    zero, *ends = mapping(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    return Affine(np.stack([end - zero for end in ends], 1), zero)


def fit_to_landmarks(fixed_list, moving_list):
    """A new linear transform node that brings the moving landmarks to the fixed ones, and a sentence on it.

    Least squares: affine from 6 landmarks on that do not lie in a plane, else rigid.

    Raises
    ------
    InputError : fewer than 3 pairs, or they lie on a line.
    """
    fixed, _index = landmarks_from_node(fixed_list)
    moving, _index = landmarks_from_node(moving_list)
    pairs, _how = match(fixed, moving)
    i, j = (np.array(column, int) for column in zip(*pairs))
    x, y = fixed.points[i], moving.points[j]
    affine, kind = fitted(y, x)
    left = np.linalg.norm(affine(y) - x, axis=1)
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLLinearTransformNode", slicer.mrmlScene.GenerateUniqueName(_("Fit to landmarks"))
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = affine.matrix, affine.offset
    node.SetMatrixTransformToParent(mrml.vtk_matrix(mrml.RAS_LPS @ matrix @ mrml.RAS_LPS))
    sentence = _("{kind} fit of {count} landmarks: {mean:.1f} mm left on average, {most:.1f} mm at most.")
    kinds = {"affine": _("Affine"), "rigid": _("Rigid")}
    return node, sentence.format(kind=kinds[kind], count=len(x), mean=left.mean(), most=left.max())


def fitted(source: np.ndarray, target: np.ndarray) -> tuple[Affine, str]:
    """The map that carries points (n, 3) nearest to others, least squares, and "affine" or "rigid"."""
    source, target = np.asarray(source, float), np.asarray(target, float)
    if len(source) < 3:
        raise InputError(
            _("{count} landmarks are too few to fit a transform: place at least 3.").format(count=len(source))
        )
    centres = source.mean(0), target.mean(0)
    a, b = source - centres[0], target - centres[1]
    spread = np.linalg.svd(a, compute_uv=False)
    if spread[1] < 1e-3 * spread[0]:
        raise InputError(_("The landmarks lie on a line: place some beside it."))
    if len(source) >= AFFINE_FROM and spread[2] > 0.05 * spread[0]:
        linear, kind = np.linalg.lstsq(a, b, rcond=None)[0].T, "affine"
    else:
        u, _s, vt = np.linalg.svd(a.T @ b)
        sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
        linear, kind = vt.T @ sign @ u.T, "rigid"
    return Affine(linear, centres[1] - linear @ centres[0]), kind
