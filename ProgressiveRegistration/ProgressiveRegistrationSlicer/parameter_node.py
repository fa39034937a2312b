"""The module's state: what the user chose, saved with the scene."""

# No "from __future__ import annotations" here: the wrapper evaluates these annotations itself.
# A union of nodes must name None, or Slicer refuses to open the module: None is what "none chosen" is written
# as.
from typing import Annotated, Union

from ProgressiveRegistrationLib.presets import DEFAULT
from slicer import (
    vtkMRMLBSplineTransformNode,
    vtkMRMLGridTransformNode,
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLModelNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLSequenceBrowserNode,
    vtkMRMLTableNode,
    vtkMRMLTransformNode,
)
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from .choices import FusionMode, LungBoxes, Preset


@parameterNodeWrapper
class ProgressiveRegistrationParameterNode:
    """State of the module; ``want...`` says which outputs are made, a node of None that a new one is.

    What is named as one of the engine's ``Options`` (see ``options.parameter_of``) reaches it by that.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    fixedRegion: Union[vtkMRMLSegmentationNode, vtkMRMLMarkupsROINode, vtkMRMLLabelMapVolumeNode, None]
    movingRegion: Union[vtkMRMLSegmentationNode, vtkMRMLMarkupsROINode, vtkMRMLLabelMapVolumeNode, None]
    fixedSegment: str
    movingSegment: str
    initialTransform: vtkMRMLTransformNode
    sequenceBrowser: vtkMRMLSequenceBrowserNode
    wantTransform: bool = True
    outputTransform: Union[vtkMRMLGridTransformNode, vtkMRMLTransformNode, None]
    wantWarped: bool = False
    warpedVolume: vtkMRMLScalarVolumeNode
    wantJacobian: bool = False
    jacobianVolume: vtkMRMLScalarVolumeNode
    wantBSpline: bool = False
    bsplineTransform: vtkMRMLBSplineTransformNode
    wantHardened: bool = False
    preset: Preset = Preset(DEFAULT)
    lungBoxes: LungBoxes = LungBoxes.OWN
    modelName: str
    device: str = "auto"
    inverseConsistency: bool = False
    evaluatedTransform: vtkMRMLTransformNode
    errorTable: vtkMRMLTableNode
    errorModel: vtkMRMLModelNode
    suggestCount: Annotated[int, WithinRange(1, 300)] = 30
    secondObserver: vtkMRMLMarkupsFiducialNode
    fusionMode: FusionMode = FusionMode.OFF
    fusionOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
