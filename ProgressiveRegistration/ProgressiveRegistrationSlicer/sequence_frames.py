"""Frames of a sequence browser (a 4DCT, say) as volumes of their own."""

from __future__ import annotations

import slicer
import vtk
from ProgressiveRegistrationLib.errors import InputError

from .i18n import _


def volume_sequence(browser):
    """The browser's sequence of scalar volumes: the master's, else the first; None where it has none."""
    if browser is None:
        return None
    sequences = vtk.vtkCollection()
    browser.GetSynchronizedSequenceNodes(sequences, True)  # the master first
    for n in range(sequences.GetNumberOfItems()):
        sequence = sequences.GetItemAsObject(n)
        first = sequence.GetNthDataNode(0) if sequence.GetNumberOfDataNodes() else None
        if first is not None and first.IsA("vtkMRMLScalarVolumeNode"):
            return sequence
    return None


def frame_count(browser) -> int:
    sequence = volume_sequence(browser)
    return sequence.GetNumberOfDataNodes() if sequence is not None else 0


def frame_volume(browser, frame: int):
    """A new volume node with the voxels of one frame, counted from 0, named after its index value.

    Raises
    ------
    InputError : the browser has no volumes, or no such frame.
    """
    sequence = volume_sequence(browser)
    if sequence is None:
        raise InputError(
            _("{name} has no volumes: choose a sequence of CT volumes.").format(
                name=browser.GetName() if browser is not None else _("The sequence")
            )
        )
    if not 0 <= frame < sequence.GetNumberOfDataNodes():
        raise InputError(
            _("{name} has {count} frames: there is no frame {frame}.").format(
                name=sequence.GetName(), count=sequence.GetNumberOfDataNodes(), frame=frame
            )
        )
    source = sequence.GetNthDataNode(frame)
    value = sequence.GetNthIndexValue(frame)
    name = _("{sequence} frame {frame} ({name} {value} {unit})").format(
        sequence=sequence.GetName(),
        frame=frame,
        name=sequence.GetIndexName() or "",
        value=value,
        unit=sequence.GetIndexUnit() or "",
    )
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name.replace(" )", ")"))
    )
    kept = node.GetName()
    node.CopyContent(source)
    node.SetName(kept)
    node.CreateDefaultDisplayNodes()
    return node


def two_frames(browser, fixed_frame: int, moving_frame: int) -> tuple:
    """Two new volume nodes; InputError when both are the same frame."""
    if fixed_frame == moving_frame:
        raise InputError(_("Fixed and moving frame are the same: choose two frames."))
    for frame in (fixed_frame, moving_frame):  # nothing is made when one of them is not there
        if not 0 <= frame < frame_count(browser):
            frame_volume(browser, frame)
    return frame_volume(browser, fixed_frame), frame_volume(browser, moving_frame)
