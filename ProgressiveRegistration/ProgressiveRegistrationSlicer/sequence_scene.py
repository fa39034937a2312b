"""A registered sequence in the scene: phases and transforms as sequences, one browser for both, maps with
their colours.

The browser's phase stands under the browser's transform: each phase appears where the registration brings
it, on the reference, and moves back to its own place when taken out from under the transform.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import slicer
from ProgressiveRegistrationLib.errors import InputError, OutputError
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.landmarks import Landmarks
from ProgressiveRegistrationLib.lungs import find_lungs

from . import mrml, mrml_landmarks
from .i18n import _
from .overlays import add_legend

INDEX = "phase"
# Of the transforms in the scene, which Slicer writes uncompressed: a 4DCT's would else be a gigabyte.
LATTICE_MM, REACH_MM = 4.0, 40.0
WINDOW_LEVEL = (1600.0, -450.0)
# nine colours each, evenly spaced (Matplotlib's, CC0); colour tables of Slicer's own are not in every Slicer
COLOURS = {
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "turbo": "30123b 466be3 28bceb 32f298 a4fc3c eecf3a fb7e21 d02f05 7a0403",
    "yellow to red": "ffffcc ffeda0 fed976 feb24c fd8d3c fc4d2a e2191c bb0026 800026",
}
# name of the map -> colours, unit
MAPS = {
    "amplitude": ("viridis", "mm"),
    "ventilation_jacobian": ("turbo", ""),
    "ventilation_hu": ("turbo", ""),
    "uncertainty": ("yellow to red", "mm"),
}
DOUBT_MM = 5.0  # of the uncertainty's colours, always: two registrations can be compared by eye
HIGH = 97  # percentile at which a map's colours end; a deep and a shallow breath both show their parts


@dataclass
class SequenceNodes:
    """What was put into the scene. ``phase`` and ``transform`` follow the browser."""

    reference: object
    browser: object
    phases: object
    transforms: object
    phase: object
    transform: object
    maps: dict = field(default_factory=dict)
    landmarks: object = None


def show(
    name: str,
    phases: list,
    reference: int,
    fields: dict,
    maps: dict | None = None,
    landmarks: Landmarks | None = None,
    region: Box | None = None,
) -> SequenceNodes:
    """Put a registered sequence into the scene.

    Parameters
    ----------
    phases : (name, sitk.Image) in their order; reference : index of the one that the fields start from.
    fields : index -> DisplacementField from the reference to that phase.
    maps : name -> scalar sitk.Image on the reference, see ``MAPS``.
    region : LPS mm, around the reference's lungs: what the transforms in the scene reach over, on a lattice
        of 4 mm; beyond it they go on with their border value. None: the whole reference.
    """
    sequences = logic()  # it makes the scene know its node classes
    fixed = add_volume(
        _("{name} reference {phase}").format(name=name, phase=phases[reference][0]), phases[reference][1]
    )
    volumes, transforms = (_sequence(f"{name} {kind}") for kind in (_("phases"), _("transforms")))
    lattice = _lattice(phases[reference][1], region)
    for k, (phase, image) in enumerate(phases):
        volumes.SetDataNodeAtValue(_phase_node(phase, image), phase)
        node = slicer.vtkMRMLTransformNode()  # what Slicer makes of it when it opens the scene again
        node.SetName(f"{phases[reference][0]} to {phase}")
        moved = fields[k].resample(lattice) if k in fields else DisplacementField.identity(lattice)
        mrml.set_transform(node, mrml.transform_data(DisplacementField(lattice, moved.displacement), lattice))
        transforms.SetDataNodeAtValue(node, phase)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    for sequence in (volumes, transforms):
        browser.AddSynchronizedSequenceNode(sequence)
        browser.SetSaveChanges(sequence, False)
    browser.SetPlaybackRateFps(5.0)
    browser.SetSelectedItemNumber(0)
    sequences.UpdateProxyNodesFromSequences(browser)
    phase, transform = browser.GetProxyNode(volumes), browser.GetProxyNode(transforms)
    phase.SetAndObserveTransformNodeID(transform.GetID())
    mrml.mark_result(transform)
    mrml.set_pair(transform, fixed, phase)
    _display(phase)
    out = SequenceNodes(fixed, browser, volumes, transforms, phase, transform)
    for key, image in (maps or {}).items():
        colours, unit = MAPS[key]
        out.maps[key] = add_map(
            f"{name} {key.replace('_', ' ')}", image, colours, colour_range(key, maps or {}), unit
        )
    if landmarks is not None:
        out.landmarks = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{name} landmarks")
        mrml_landmarks.landmarks_to_node(landmarks, out.landmarks)
    slicer.util.setSliceViewerLayers(background=fixed, foreground=phase, foregroundOpacity=0.5)
    return out


def add_phases(name: str, phases: list) -> tuple:
    """A browser that plays ``phases``, (name, sitk.Image) each; returns it, its sequence and its phase."""
    sequences = logic()
    volumes = _sequence(name)
    for phase, image in phases:
        volumes.SetDataNodeAtValue(_phase_node(phase, image), phase)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{name} browser")
    browser.AddSynchronizedSequenceNode(volumes)
    browser.SetSaveChanges(volumes, False)
    browser.SetSelectedItemNumber(0)
    sequences.UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(volumes)
    _display(shown)
    slicer.util.setSliceViewerLayers(background=shown)
    return browser, volumes, shown


def _phase_node(name: str, image: sitk.Image):
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    mrml.update_volume(node, image)
    return node


def add_volume(name: str, image: sitk.Image):
    """A CT as a volume node with a lung window."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    mrml.update_volume(node, image)
    _display(node)
    return node


def add_map(name: str, image: sitk.Image, colours: str, limits: tuple, unit: str):
    """A map as a volume node with its colours, its range and a colour legend (in Slicers that have them)."""
    values = sitk.GetArrayFromImage(image)
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    known = np.isfinite(values)
    lowest = float(values[known].min()) if known.any() else 1.0
    outside = 0.0 if lowest > 0 else lowest - 1.0  # what does not fill, or shrinks, is to be seen, too
    mrml.update_volume(node, _with(image, np.where(known, values, outside).astype(np.float32)))
    if image.HasMetaDataKey("calibration"):
        node.SetDescription(image.GetMetaData("calibration"))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_colour_table(colours).GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*limits)
    # beyond the lungs there is nothing to show
    display.SetApplyThreshold(True)
    display.SetAutoThreshold(False)
    display.SetThreshold(
        1e-6 if outside == 0 else outside + 0.5,
        float(max(limits[1], values[known].max() if known.any() else 1.0)),
    )
    add_legend(node, name + (f" ({unit})" if unit else ""))
    return node


def colour_range(key: str, maps: dict) -> tuple[float, float]:
    """Of the map ``key`` among ``maps`` (name -> image); both ventilation maps have one, as on the page."""
    if key == "uncertainty":
        return 0.0, DOUBT_MM
    first = "ventilation_jacobian" if key == "ventilation_hu" and "ventilation_jacobian" in maps else key
    values = sitk.GetArrayViewFromImage(maps[first])
    known = values[np.isfinite(values) & (values != 0)]
    high = float(np.percentile(known, HIGH)) if known.size else 0.0
    return 0.0, max(1.0, float(np.ceil(high))) if key == "amplitude" else max(0.1, round(high, 1))


def load_result(folder: Path) -> SequenceNodes:
    """Put what ``progressive-registration sequence`` wrote into the scene. Raises InputError."""
    from ProgressiveRegistrationLib.sequence.steps import read_result

    folder = Path(folder)
    report, found = read_result(folder)
    names = [phase.name for phase in found]
    reference = names.index(report["reference"])
    images = [(phase.name, phase.image()) for phase in found]
    fields = {}
    for k, name in enumerate(names):
        if k != reference:
            path = folder / f"field_{name}.nrrd"
            if not path.is_file():
                raise InputError(_("There is no {path}: run sequence again.").format(path=path))
            fields[k] = DisplacementField.read(path)
    maps = {
        key: sitk.ReadImage(str(folder / f"{key}.nrrd")) for key in MAPS if (folder / f"{key}.nrrd").is_file()
    }
    marks = found[reference].points(images[reference][1])
    lungs = folder / "reference_lungs.nrrd"
    region = (
        find_lungs(images[reference][1], mask=sitk.ReadImage(str(lungs))).box if lungs.is_file() else None
    )
    return show(folder.name, images, reference, fields, maps, marks, region)


def save_scene(path: Path) -> None:
    """Write the scene as one .mrb file, whole or not at all. Raises OutputError."""
    import tempfile

    path = Path(path).absolute()
    if not path.parent.is_dir():
        raise OutputError(
            _("{path} cannot be written: there is no folder {parent}.").format(path=path, parent=path.parent)
        )
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        if node.GetSaveWithScene() and node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as stage:
        temporary = Path(stage) / path.name
        slicer.mrmlScene.SetURL(str(temporary))
        if not slicer.mrmlScene.WriteToMRB(str(temporary)) or not temporary.is_file():
            raise OutputError(_("{path} cannot be written: is the disk full?").format(path=path))
        temporary.replace(path)
    slicer.mrmlScene.SetURL(str(path))


def logic():
    """The Sequences module's logic; one of our own where there is no such module loaded."""
    module = getattr(getattr(slicer, "modules", None), "sequences", None)
    if module is not None:
        return module.logic()
    own = slicer.vtkSlicerSequencesLogic()
    own.SetMRMLScene(slicer.mrmlScene)
    return own


def _sequence(name: str):
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSequenceNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    node.SetIndexName(INDEX)
    node.SetIndexUnit("")
    node.SetIndexType(slicer.vtkMRMLSequenceNode.TextIndex)
    return node


def _lattice(image: sitk.Image, region: Box | None) -> Grid:
    box = Box.around(Grid.from_image(image).corners())
    if region is not None:
        region = region.grown(REACH_MM)
        box = Box(np.maximum(region.lower, box.lower), np.minimum(region.upper, box.upper))
    return box.grid(2).with_spacing(LATTICE_MM)


def _with(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    out = sitk.GetImageFromArray(values)
    out.CopyInformation(image)
    return out


def _display(node) -> None:
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(*WINDOW_LEVEL)


def _colour_table(colours: str):
    """The colour table of that name, made once a scene and saved with it."""
    name = f"ProgressiveRegistration {colours}"
    node = slicer.mrmlScene.GetFirstNodeByName(name)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", name)
        node.SetTypeToUser()
        node.SetNumberOfColors(256)
        node.GetLookupTable().SetTableRange(0, 255)
        stops = np.array([[int(c[k : k + 2], 16) / 255 for k in (0, 2, 4)] for c in COLOURS[colours].split()])
        for i in range(256):
            at = i / 255 * (len(stops) - 1)
            colour = [float(np.interp(at, np.arange(len(stops)), stops[:, channel])) for channel in range(3)]
            node.SetColor(i, str(i), *colour, 1.0)
    return node
