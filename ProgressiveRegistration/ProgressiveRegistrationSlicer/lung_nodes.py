"""The lungs that the engine finds, as segmentations: to look at, to edit, to use as lung regions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from ProgressiveRegistrationLib.geometry import Grid
from vtk.util import numpy_support

from . import mrml
from .i18n import _

COLOURS = ((0.95, 0.65, 0.35), (0.35, 0.65, 0.95))


class LungSegmentations:
    """Find the lungs of volumes: ``compute`` in any thread, the rest on the main thread."""

    def __init__(self, volumes: list) -> None:
        self._ids = [volume.GetID() for volume in volumes]
        self._names = [volume.GetName() for volume in volumes]
        self._images = [mrml.image_from_volume(volume) for volume in volumes]

    def compute(self, progress: Callable | None = None, cancelled: Callable | None = None) -> list:
        """Each volume's ``Lungs``."""
        from ProgressiveRegistrationLib.lungs import find_lungs
        from ProgressiveRegistrationLib.progress import check

        found = []
        for n, (name, image) in enumerate(zip(self._names, self._images)):
            check(cancelled)
            if progress is not None:
                progress("lungs", n / len(self._images), "finding the lungs")
            found.append(find_lungs(image, name=name))
        return found

    def finish(self, found: list) -> list:
        """A new segmentation node for each volume, in the same order; shown in the slice and 3D views."""
        nodes = []
        for n, (identifier, name, lungs) in enumerate(zip(self._ids, self._names, found)):
            node = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLSegmentationNode",
                slicer.mrmlScene.GenerateUniqueName(_("{volume} lungs").format(volume=name)),
            )
            node.CreateDefaultDisplayNodes()
            add_mask(node, lungs.mask, _("Lungs"), COLOURS[n % 2])
            volume = slicer.mrmlScene.GetNodeByID(identifier)
            if volume is not None:
                # the mask lies in the world; edited on the volume's own voxels
                node.SetNodeReferenceID(
                    slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole(), identifier
                )
            nodes.append(node)
        return nodes


def add_mask(node, mask: sitk.Image, name: str, colour) -> str:
    """Add a segment from an image in the world (LPS mm), above 0 inside; returns its ID."""
    grid = Grid.from_image(mask)
    values = np.ascontiguousarray(sitk.GetArrayViewFromImage(mask) > 0).astype(np.uint8)
    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetDimensions(*grid.size)
    scalars = numpy_support.numpy_to_vtk(values.ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    labelmap.GetPointData().SetScalars(scalars)
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = grid.index_to_world_matrix, grid.origin
    labelmap.SetImageToWorldMatrix(mrml.vtk_matrix(mrml.RAS_LPS @ world))
    return node.AddSegmentFromBinaryLabelmapRepresentation(labelmap, name, colour)
