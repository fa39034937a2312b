"""qMRMLWidget and qMRMLNodeComboBox: the MRML widgets that the module's .ui names."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtWidgets
from PySide6.QtCore import Property, QObject, Signal

from .pythonqt import wrap

_QWidget, _QComboBox = wrap(QtWidgets.QWidget), wrap(QtWidgets.QComboBox)


class qMRMLWidget(_QWidget):
    mrmlSceneChanged = Signal(object)
    isEntered = False
    _scene_receivers = frozenset()

    def setMRMLScene(self, scene):
        self._scene = scene
        for child in QtWidgets.QWidget.findChildren(self, QtWidgets.QWidget):
            if QObject.objectName(child) in self._scene_receivers:
                child.setMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return getattr(self, "_scene", None)


class qMRMLNodeComboBox(_QComboBox):
    """Follows the scene; keeps node IDs as item data."""

    currentNodeChanged = Signal(object)
    nodeAddedByUser = Signal(object)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._types, self._none, self._children = [], False, True
        self._add = self._remove = self._rename = True
        self._base, self._none_text = "", "None"
        self._scene, self._tags, self._last = None, [], None
        self.currentIndexChanged.connect(self._index_changed)
        self.setMinimumContentsLength(8)

    def setMRMLScene(self, scene):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene is not None:
            events = (
                scene.NodeAddedEvent,
                scene.NodeRemovedEvent,
                scene.EndCloseEvent,
                scene.EndImportEvent,
            )
            self._tags = [scene.AddObserver(event, self._refresh) for event in events]
        self._refresh()

    def mrmlScene(self):
        return self._scene

    def _nodes(self):
        found = []
        for kind in self._types:
            for node in slicer.util.getNodesByClass(kind, self._scene):
                if (
                    (self._children or node.GetClassName() == kind)
                    and not node.GetHideFromEditors()
                    and node not in found
                ):
                    found.append(node)
        return found

    def _refresh(self, *_):
        if self._scene is None or self._scene.IsBatchProcessing():
            return
        current = self._last
        was_blocked = QtWidgets.QComboBox.blockSignals(self, True)
        QtWidgets.QComboBox.clear(self)
        if self._none:
            QtWidgets.QComboBox.addItem(self, self._none_text, "")
        for node in self._nodes():
            QtWidgets.QComboBox.addItem(self, node.GetName() or node.GetID(), node.GetID())
        index = QtWidgets.QComboBox.findData(self, current) if current else -1
        if index < 0:
            index = 0 if QtWidgets.QComboBox.count(self) else -1
        QtWidgets.QComboBox.setCurrentIndex(self, index)
        QtWidgets.QComboBox.blockSignals(self, was_blocked)
        self._index_changed()

    def _index_changed(self, *_):
        new = QtWidgets.QComboBox.currentData(self) or None
        if new != self._last:
            self._last = new
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self):
        identifier = QtWidgets.QComboBox.currentData(self)
        return self._scene.GetNodeByID(identifier) if identifier and self._scene is not None else None

    def setCurrentNode(self, node):
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node)
        identifier = node.GetID() if node is not None else ""
        index = QtWidgets.QComboBox.findData(self, identifier)
        if index < 0 and node is not None:
            self._refresh()
            index = QtWidgets.QComboBox.findData(self, identifier)
        QtWidgets.QComboBox.setCurrentIndex(self, index)

    def addNode(self, kind=None):
        """What the menu entry "Create new ..." does."""
        kind = kind or self._types[0]
        name = self._base or kind.replace("vtkMRML", "").replace("Node", "")
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(name))
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def _set(self, name, value):
        setattr(self, name, value)
        self._refresh()

    nodeTypes = Property("QStringList", lambda s: s._types, lambda s, v: s._set("_types", list(v)))
    showChildNodeTypes = Property(bool, lambda s: s._children, lambda s, v: s._set("_children", v))
    noneEnabled = Property(bool, lambda s: s._none, lambda s, v: s._set("_none", v))
    noneDisplay = Property(str, lambda s: s._none_text, lambda s, v: s._set("_none_text", v))
    addEnabled = Property(bool, lambda s: s._add, lambda s, v: setattr(s, "_add", v))
    removeEnabled = Property(bool, lambda s: s._remove, lambda s, v: setattr(s, "_remove", v))
    renameEnabled = Property(bool, lambda s: s._rename, lambda s, v: setattr(s, "_rename", v))
    baseName = Property(str, lambda s: s._base, lambda s, v: setattr(s, "_base", v))
    selectNodeUponCreation = Property(bool, lambda s: True, lambda s, v: None)


def install():
    for cls in (qMRMLWidget, qMRMLNodeComboBox):
        setattr(slicer, cls.__name__, cls)
    slicer.qSlicerWidget = qMRMLWidget
    slicer.vtk = vtk
