"""The module's state: what the user chose, saved with the scene."""

# No "from __future__ import annotations" here: the wrapper evaluates these annotations itself.
from enum import Enum
from typing import Annotated, Union

from slicer import (
    vtkMRMLGridTransformNode,
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLModelNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTableNode,
    vtkMRMLTransformNode,
)
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from .i18n import _


class Preset(Enum):
    BALANCED = "balanced"
    FAST = "fast"
    ACCURATE = "accurate"

    def label(self):
        return {
            "fast": _("Fast: the network alone"),
            "balanced": _("Balanced: refined for this pair"),
            "accurate": _("Accurate: refined longer"),
        }[self.value]


class LungBoxes(Enum):
    OWN = "own"
    SHARED = "shared"

    def label(self):
        return {
            "own": _("Own: each scan around its own lungs"),
            "shared": _("Shared: one box around both, as in the paper"),
        }[self.value]


class FusionMode(Enum):
    OFF = "off"
    OVERLAY = "overlay"
    CHECKERBOARD = "checkerboard"
    FLICKER = "flicker"

    def label(self):
        return {
            "off": _("Off"),
            "overlay": _("Fixed orange, moving blue"),
            "checkerboard": _("Checkerboard"),
            "flicker": _("Flicker"),
        }[self.value]


@parameterNodeWrapper
class ProgressiveRegistrationParameterNode:
    """State of the module; ``want...`` says which outputs are made, a node of None that a new one is."""

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    fixedRegion: Union[vtkMRMLSegmentationNode, vtkMRMLMarkupsROINode, vtkMRMLLabelMapVolumeNode]
    movingRegion: Union[vtkMRMLSegmentationNode, vtkMRMLMarkupsROINode, vtkMRMLLabelMapVolumeNode]
    fixedSegment: str
    movingSegment: str
    wantTransform: bool = True
    outputTransform: Union[vtkMRMLGridTransformNode, vtkMRMLTransformNode]
    wantWarped: bool = False
    warpedVolume: vtkMRMLScalarVolumeNode
    wantJacobian: bool = False
    jacobianVolume: vtkMRMLScalarVolumeNode
    preset: Preset = Preset.BALANCED
    lungBoxes: LungBoxes = LungBoxes.OWN
    modelName: str
    device: str = "auto"
    evaluatedTransform: vtkMRMLTransformNode
    errorTable: vtkMRMLTableNode
    errorModel: vtkMRMLModelNode
    fusionMode: FusionMode = FusionMode.OFF
    fusionOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
