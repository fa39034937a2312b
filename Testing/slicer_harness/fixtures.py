# ruff: noqa: E402 (the harness must be installed before the module's packages are imported)
"""Made-up scenes and a stand-in for the engine, for tests on the real MRML."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY / "ProgressiveRegistration") not in sys.path:
    sys.path.insert(0, str(REPOSITORY / "ProgressiveRegistration"))

import slicer_harness

slicer_harness.install()

import slicer
import vtk
from ProgressiveRegistrationLib.errors import Cancelled
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Affine, Box, Grid

FIXED_SHAPE, MOVING_SHAPE = (30, 36, 40), (34, 44, 42)  # z, y, x


def rotation(axis: int, degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    i, j = [(1, 2), (0, 2), (0, 1)][axis]
    out = np.eye(3)
    out[i, i] = out[j, j] = np.cos(a)
    out[i, j], out[j, i] = -np.sin(a), np.sin(a)
    return out


def ijk_to_ras(axes: np.ndarray, spacing, shape, centre) -> np.ndarray:
    """(4, 4) of a volume of ``shape`` (z, y, x) around ``centre``, RAS mm."""
    out = np.eye(4)
    out[:3, :3] = axes * np.asarray(spacing, float)
    out[:3, 3] = np.asarray(centre) - out[:3, :3] @ ((np.asarray(shape[::-1]) - 1) / 2)
    return out


OBLIQUE = rotation(2, 12) @ rotation(0, -7) @ np.diag([-1.0, -1, 1])
FIXED_MATRIX = ijk_to_ras(OBLIQUE, (3.0, 3.4, 5.0), FIXED_SHAPE, (10, -20, 30))
MOVING_MATRIX = ijk_to_ras(
    rotation(1, 5) @ np.diag([-1.0, 1, -1]), (3.2, 2.8, 4.6), MOVING_SHAPE, (13, -18, 27)
)


def points_of(matrix: np.ndarray, shape) -> np.ndarray:
    """(z, y, x, 3): where the voxels lie."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3]


def pattern(ras: np.ndarray) -> np.ndarray:
    """A smooth image of RAS points, HU-like."""
    d = np.asarray(ras) - [10, -20, 30]
    return -500 + 400 * np.sin(d[..., 0] / 19) * np.cos(d[..., 1] / 23) * np.sin(d[..., 2] / 27 + 0.5)


def motion(ras: np.ndarray) -> np.ndarray:
    """T in RAS: fixed -> moving points, smooth, about 10 mm."""
    d = np.asarray(ras, float) - [10, -20, 30]
    w = np.exp(-(d**2).sum(-1, keepdims=True) / (2 * 45.0**2))
    step = np.concatenate(
        [6 * np.cos(d[..., 1:2] / 60), np.full_like(w, -4), 9 * np.sin(d[..., :1] / 70 + 1)], -1
    )
    return ras + w * step


def motion_lps(points: np.ndarray) -> np.ndarray:
    """The same T of LPS points."""
    flip = np.array([-1.0, -1, 1])
    return motion(np.asarray(points) * flip) * flip


def field_of(function, grid: Grid, outside: Affine | None = None) -> DisplacementField:
    """An LPS map as a field on ``grid``."""
    points = grid.points().astype(float)
    return DisplacementField(grid, (function(points) - points).astype(np.float32), outside)


def add_pair(moving_to_world: np.ndarray | None = None):
    """Fixed and moving volume nodes with fixed(x) = moving(T(x)), oblique, on different lattices.

    ``moving_to_world``: the moving voxels are stored so that the volume must be under this linear transform.
    """
    fixed = slicer.util.addVolumeFromArray(
        pattern(motion(points_of(FIXED_MATRIX, FIXED_SHAPE))).astype(np.float32), FIXED_MATRIX, "Fixed"
    )
    world = points_of(MOVING_MATRIX, MOVING_SHAPE)
    matrix = MOVING_MATRIX
    if moving_to_world is not None:
        matrix = np.linalg.inv(moving_to_world) @ MOVING_MATRIX
    moving = slicer.util.addVolumeFromArray(pattern(world).astype(np.float32), matrix, "Moving")
    return fixed, moving


def spline_file(
    path: Path, origin: tuple, extent_mm: float, elements: int, sd_mm: float
) -> sitk.BSplineTransform:
    """A cubic B-spline of random coefficients, as another program writes it (LPS)."""
    spline = sitk.BSplineTransform(3, 3)
    spline.SetTransformDomainOrigin(origin)
    spline.SetTransformDomainPhysicalDimensions((extent_mm,) * 3)
    spline.SetTransformDomainMeshSize((elements,) * 3)
    values = np.random.default_rng(0).normal(size=spline.GetNumberOfParameters()) * sd_mm
    spline.SetParameters(values.tolist())
    sitk.WriteTransform(spline, str(path))
    return spline


def add_linear(matrix: np.ndarray, name="Linear"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(matrix, float)))
    return node


def add_points(ras, labels=None, name="Points"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for n, point in enumerate(np.asarray(ras, float)):
        node.AddControlPoint(vtk.vtkVector3d(*point), labels[n] if labels else "")
    return node


def fixed_points(count: int = 12) -> np.ndarray:
    """(n, 3) RAS points well inside the fixed volume."""
    rng = np.random.default_rng(5)
    half = np.asarray(FIXED_SHAPE[::-1]) * [3.0, 3.4, 5.0] * 0.3
    return rng.uniform(-1, 1, (count, 3)) * half @ OBLIQUE.T + [10, -20, 30]


class FakeRegister:
    """Stands in for the engine's ``register`` where the network is not the point: answers with a known field.

    Keeps what it was called with; reports progress in ``steps``; with ``wait`` it runs until told to stop.
    """

    def __init__(
        self, field=None, steps: int = 3, wait: bool = False, error: Exception | None = None, lungs=None
    ):
        self.field, self.steps, self.wait, self.error, self.lungs = field, steps, wait, error, lungs
        self.calls = []

    def __call__(self, fixed, moving, *, progress=None, cancelled=None, **options):
        self.calls.append({"fixed": fixed, "moving": moving, **options})
        for n in range(self.steps):
            if progress is not None:
                progress("network", n / self.steps, "running the network")
            if cancelled is not None and cancelled():
                raise Cancelled()
        while self.wait:
            if cancelled():
                raise Cancelled()
            time.sleep(0.002)
        if self.error is not None:
            raise self.error
        field = self.field if self.field is not None else field_of(motion_lps, Grid.from_image(fixed))
        return SimpleNamespace(
            field=field,
            seconds={"network": 0.1, "total": 0.2},
            fixed_lungs=self.lungs,
            moving_lungs=self.lungs,
            lung_boxes="own",
            boxes=(Box.around(field.grid.corners()),) * 2,
            card=SimpleNamespace(name="fake", version="0", to_dict=lambda: {"name": "fake", "version": "0"}),
            device="cpu",
            precision="float32",
            preset="fast",
            refinement={},
            notes=["A note from the engine."],
        )
