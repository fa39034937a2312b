"""Fixed volume above, moving volume below, three planes each: for looking at one landmark in both."""

from __future__ import annotations

import slicer

LAYOUT = 5516  # a number of our own among the application's layouts
FIXED = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
MOVING = {"MovingAxial": "Axial", "MovingCoronal": "Coronal", "MovingSagittal": "Sagittal"}
COLOURS = {"Axial": "#F34A33", "Coronal": "#6EB04B", "Sagittal": "#EDD54C"}
FIELD_OF_VIEW_MM = 60.0


def layout_xml() -> str:
    """The layout in the application's own words."""

    def row(names: dict) -> str:
        views = ""
        for name, plane in names.items():
            label = name[0] if name in FIXED else "M" + plane[0]
            views += (
                f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
                f'<property name="orientation" action="default">{plane}</property>'
                f'<property name="viewlabel" action="default">{label}</property>'
                f'<property name="viewcolor" action="default">{COLOURS[plane]}</property></view></item>'
            )
        return f'<item><layout type="horizontal">{views}</layout></item>'

    return f'<layout type="vertical" split="true">{row(FIXED)}{row(MOVING)}</layout>'


class TwoUp:
    """Switches the slice views to the two rows and back. Without a window (or views) it does nothing."""

    def __init__(self) -> None:
        self._before = None  # the layout's number, and each view's layers

    @property
    def shown(self) -> bool:
        return self._before is not None

    def show(self, fixed, moving) -> None:
        """Fixed volume in the upper row, moving one in the lower, each alone."""
        layout = slicer.app.layoutManager()
        if layout is None:
            return
        node = layout.layoutLogic().GetLayoutNode()
        if self._before is None:
            layers = {
                c.GetID(): (c.GetBackgroundVolumeID(), c.GetForegroundVolumeID(), c.GetForegroundOpacity())
                for c in _composites()
            }
            self._before = (node.GetViewArrangement(), layers)
        if not node.IsLayoutDescription(LAYOUT):
            node.AddLayoutDescription(LAYOUT, layout_xml())
        layout.setLayout(LAYOUT)
        for composite in _composites():
            volume = moving if composite.GetLayoutName() in MOVING else fixed
            composite.SetBackgroundVolumeID(volume.GetID())
            composite.SetForegroundVolumeID(None)

    def jump(self, fixed_ras, moving_ras, field_of_view: float = FIELD_OF_VIEW_MM) -> None:
        """Centre the upper row on one point and the lower on another, world RAS mm."""
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            place = moving_ras if node.GetLayoutName() in MOVING else fixed_ras
            node.JumpSliceByCentering(*(float(v) for v in place))
            size = node.GetFieldOfView()
            if size[0] > 0 and size[1] > 0 and self.shown:
                node.SetFieldOfView(field_of_view, field_of_view * size[1] / size[0], size[2])

    def restore(self) -> None:
        """Give back the layout and what the views showed."""
        if self._before is None:
            return
        number, layers = self._before
        self._before = None
        layout = slicer.app.layoutManager()
        if layout is not None:
            layout.setLayout(number)
        for identifier, (background, foreground, opacity) in layers.items():
            composite = slicer.mrmlScene.GetNodeByID(identifier)
            if composite is not None:
                composite.SetBackgroundVolumeID(_present(background))
                composite.SetForegroundVolumeID(_present(foreground))
                composite.SetForegroundOpacity(opacity)

    def forget(self) -> None:
        """Restore nothing: the scene is closing."""
        self._before = None


def _composites() -> list:
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")


def _present(identifier):
    return identifier if identifier and slicer.mrmlScene.GetNodeByID(identifier) is not None else None
