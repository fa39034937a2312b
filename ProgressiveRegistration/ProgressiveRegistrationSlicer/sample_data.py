"""The breathing thorax in Sample Data: made on this computer, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import slicer

from ProgressiveRegistrationSlicer import mrml, mrml_landmarks

CATEGORY = "Progressive Registration"
NAME = "BreathingThorax"
NAME_4D = "BreathingThorax4DCT"
ICONS = Path(__file__).resolve().parents[1] / "Resources" / "Icons"


def register() -> None:
    """Add the phantom to the Sample Data module."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        thumbnailFileName=str(ICONS / f"{NAME}.png"),
        uris=["", ""],  # nothing to download: customDownloader makes the data
        fileNames=["exhale.nrrd", "inhale.nrrd"],
        nodeNames=["Thorax exhale", "Thorax inhale"],
        customDownloader=load,
    )
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME_4D,
        thumbnailFileName=str(ICONS / f"{NAME}.png"),
        uris=[""],
        fileNames=["thorax.seq.nrrd"],
        nodeNames=["Thorax 4DCT"],
        customDownloader=load_cycle,
    )


def load_cycle(source=None, **options) -> list:
    """Put a made-up 4DCT of ten phases into the scene, coarser than the pair; takes about half a minute.

    ``options`` go to ``breathing_cycle``. Returns the browser, its sequence and the phase that it shows.
    """
    from ProgressiveRegistrationLib.phantom.cycle import breathing_cycle

    from . import sequence_scene

    chosen = {
        "phases": 10,
        "hysteresis": 0.05,
        "size": (128, 104, 100),
        "spacing": (2.7, 2.7, 3.2),
        **options,
    }
    cycle = breathing_cycle(**{"landmarks": 40, **chosen})
    return list(sequence_scene.add_phases("Thorax 4DCT", list(zip(cycle.names, cycle.images))))


def load(source=None, **options) -> list:
    """Put the pair with its landmarks into the scene; ``options`` go to ``breathing_thorax``.

    Returns the nodes: fixed (exhale) and moving (inhale) volume, fixed and moving landmarks.
    """
    nodes = add_to_scene(make(**options))
    slicer.util.setSliceViewerLayers(background=nodes[0], foreground=nodes[1], foregroundOpacity=0.0)
    if slicer.app.layoutManager() is not None:
        slicer.util.resetSliceViews()
    return nodes


def make(**options):
    """The pair itself, with few enough landmarks to look at; in any thread."""
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax

    options.setdefault("landmarks", 40)
    return breathing_thorax(**options)


def add_to_scene(pair) -> list:
    """Volume and point list nodes of a ``ThoraxPair``: fixed, moving volume, fixed, moving landmarks."""
    nodes = []
    for name, image in (("Thorax exhale", pair.fixed), ("Thorax inhale", pair.moving)):
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name)
        )
        mrml.update_volume(node, image)
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevel(1600.0, -450.0)
        nodes.append(node)
    lists = (
        ("Thorax exhale landmarks", pair.fixed_landmarks, (1.0, 0.6, 0.2)),
        ("Thorax inhale landmarks", pair.moving_landmarks, (0.2, 0.6, 1.0)),
    )
    for name, landmarks, colour in lists:
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLMarkupsFiducialNode", slicer.mrmlScene.GenerateUniqueName(name)
        )
        mrml_landmarks.landmarks_to_node(landmarks, node)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSelectedColor(*colour)
        display.SetPointLabelsVisibility(False)
        nodes.append(node)
    return nodes
