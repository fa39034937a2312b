"""Transform files that Slicer writes, read by the engine: the points agree with the node's own."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.transforms import map_points, read_transform
from vtk.util import numpy_support

pytestmark = pytest.mark.usefixtures("scene")
FLIP = np.array([-1.0, -1.0, 1.0])
RAS = np.random.default_rng(0).uniform(-40, 40, (150, 3))


def grid(amplitude: float = 4.0, turn: float = 0.3) -> vtk.vtkAbstractTransform:
    """A grid transform of a few mm, turned against the axes."""
    image, size = vtk.vtkImageData(), (32, 30, 28)
    image.SetDimensions(*size)
    image.SetSpacing(5, 5, 5)
    image.SetOrigin(-60, -90, -65)
    k, j, i = np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij")
    u = amplitude * np.stack([np.sin(j / 5), 0.7 * np.cos(k / 4), np.sin(i / 6)], -1)
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(u.reshape(-1, 3), deep=True))
    direction, (c, s) = vtk.vtkMatrix4x4(), (np.cos(turn), np.sin(turn))
    for place, value in {(0, 0): c, (0, 1): -s, (1, 0): s, (1, 1): c}.items():
        direction.SetElement(*place, value)
    out = slicer.vtkOrientedGridTransform()
    out.SetDisplacementGridData(image)
    out.SetGridDirectionMatrix(direction)
    out.SetInterpolationModeToLinear()
    return out


def spline() -> vtk.vtkAbstractTransform:
    image = vtk.vtkImageData()
    image.SetDimensions(9, 9, 9)
    image.SetSpacing(25, 25, 25)
    image.SetOrigin(-100, -100, -100)
    u = np.random.default_rng(1).normal(0, 3, (9**3, 3))
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(u, deep=True))
    out = slicer.vtkOrientedBSplineTransform()
    out.SetCoefficientData(image)
    out.SetBorderModeToZero()
    return out


def linear() -> vtk.vtkAbstractTransform:
    out = vtk.vtkTransform()
    out.Translate(5, -3, 12)
    out.RotateZ(7)
    out.Scale(1.05, 0.97, 1.1)
    return out


def chain(*parts: vtk.vtkAbstractTransform) -> vtk.vtkAbstractTransform:
    out = vtk.vtkGeneralTransform()
    out.PostMultiply()
    for part in parts:
        out.Concatenate(part)
    return out


def inverse(transform: vtk.vtkAbstractTransform) -> vtk.vtkAbstractTransform:
    transform.Inverse()
    return transform


KINDS = {
    "grid": ("Grid", grid),
    "spline": ("BSpline", spline),
    "linear": ("Linear", linear),
    "linear and grid": ("", lambda: chain(linear(), grid(turn=0))),
    "spline, linear and grid": ("", lambda: chain(spline(), linear(), grid(2.0, 0))),
    "grid, inverse grid and linear": ("", lambda: chain(grid(2.0, 0), inverse(grid(turn=0)), linear())),
}


ALL = [(kind, way, ending) for kind in KINDS for way in ("From", "To") for ending in (".tfm", ".h5")]
AS_IMAGE = [("grid", "From", ".nrrd"), ("grid", "To", ".nrrd"), ("grid", "From", ".nii.gz")]


@pytest.mark.parametrize(("kind", "way", "ending"), ALL + AS_IMAGE)
def test_what_slicer_writes_is_read_as_slicer_means_it(tmp_path, scene, kind, way, ending):
    node_type, make = KINDS[kind]
    transform = make()
    node = getattr(slicer, f"vtkMRML{node_type}TransformNode")()
    scene.AddNode(node)
    getattr(node, f"SetAndObserveTransform{way}Parent")(transform)
    theirs = np.array([node.GetTransformFromParent().TransformPoint(p) for p in RAS]) * FLIP
    assert np.linalg.norm(theirs - RAS * FLIP, axis=1).max() > 2
    path = write(node, scene, tmp_path / f"t{ending}")  # Slicer writes no inverse spline that it has not used
    ours = map_points(read_transform(path), RAS * FLIP)
    np.testing.assert_allclose(ours, theirs, atol=0.05)


def write(node, scene, path):
    storage = slicer.vtkMRMLTransformStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    return path


def test_thin_plates_are_refused_with_what_to_do(tmp_path, scene):
    plate, points = vtk.vtkThinPlateSplineTransform(), [vtk.vtkPoints(), vtk.vtkPoints()]
    for p in RAS[:10]:
        points[0].InsertNextPoint(*p)
        points[1].InsertNextPoint(*(p + np.sin(p)))
    plate.SetSourceLandmarks(points[0])
    plate.SetTargetLandmarks(points[1])
    plate.SetBasisToR()
    node = slicer.vtkMRMLTransformNode()
    scene.AddNode(node)
    for way in ("From", "To"):
        getattr(node, f"SetAndObserveTransform{way}Parent")(plate)
        with pytest.raises(InputError, match=r"ThinPlateSpline.* displacement field .* save that as \.nrrd"):
            read_transform(write(node, scene, tmp_path / f"{way}.h5"))
