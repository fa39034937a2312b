"""``slicer.app`` and what hangs on it: scene, logics, reading and writing, layout."""

from __future__ import annotations

import os
import tempfile

import slicer
import vtk

LOGICS = {
    "transforms": "vtkSlicerTransformLogic",
    "volumes": "vtkSlicerVolumesLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "tables": "vtkSlicerTablesLogic",
    "models": "vtkSlicerModelsLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "sequences": "vtkSlicerSequencesLogic",
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
}


class Signals:
    """``obj.connect("signal()", slot)`` for objects that are no QObject."""

    def __init__(self) -> None:
        self._slots = {}

    def connect(self, signal, slot):
        self._slots.setdefault(signal, []).append(slot)

    def disconnect(self, signal, slot):
        if slot in self._slots.get(signal, []):
            self._slots[signal].remove(slot)

    def emit(self, signal, *values):
        for slot in list(self._slots.get(signal, [])):
            slot(*values)


class Module:
    """What ``slicer.modules.<name>`` is asked for."""

    def __init__(self, name, logic=None, path=None) -> None:
        self.name = self.title = name
        self.path = path
        self._logic = logic

    def logic(self):
        return self._logic


class IOManager:
    """slicer.util's load*, saveNode and saveScene go through these calls."""

    def __init__(self, application) -> None:
        self._application = application

    def fileType(self, name):
        name = str(name).lower()
        if name.endswith((".mrk.json", ".fcsv")):
            return "MarkupsFile"
        if name.endswith((".mrml", ".mrb")):
            return "SceneFile"
        if name.endswith((".h5", ".tfm")):
            return "TransformFile"
        return "VolumeFile"

    def fileWriterFileType(self, node):
        return node.GetClassName()

    def loadNodes(self, kind, properties, collection, messages=None):
        path = str(properties["fileName"])
        if not os.path.isfile(path):
            if messages is not None:
                messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"file not found: {path}")
            return False
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        logics, scene, node = self._application.logics, slicer.mrmlScene, None
        if kind == "SceneFile":
            scene.SetURL(path)
            return bool(scene.ReadFromMRB(path) if path.endswith(".mrb") else scene.Connect())
        if kind == "VolumeFile":
            node = logics["volumes"].AddArchetypeVolume(path, name, 1 if properties.get("labelmap") else 0)
        elif kind == "TransformFile":
            node = logics["transforms"].AddTransform(path, scene)
            if node:
                node.SetName(scene.GenerateUniqueName(name))
        elif kind == "MarkupsFile":
            identifier = logics["markups"].LoadMarkups(path, name)
            node = scene.GetNodeByID(identifier) if identifier else None
        if node is None:
            return False
        collection.AddItem(node)
        return True

    def saveNodes(self, kind, properties, messages=None):
        path, scene = str(properties["fileName"]), slicer.mrmlScene
        if kind == "SceneFile":
            scene.SetURL(path)
            scene.SetRootDirectory(os.path.dirname(os.path.abspath(path)))
            return bool(scene.WriteToMRB(path) if path.endswith(".mrb") else scene.Commit(path))
        node = scene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        written = bool(storage.WriteData(node))
        if not written and messages is not None:
            messages.AddMessage(vtk.vtkCommand.ErrorEvent, storage.GetUserMessages().GetAllMessagesAsString())
        return written


class _Settings:
    """What a QSettings is asked for, without a file."""

    def __init__(self) -> None:
        self._values = {}

    def value(self, key, default=None):
        return self._values.get(key, default)

    def setValue(self, key, value):
        self._values[key] = value


class Application(Signals):
    applicationName = "slicer-core with stand-ins"
    majorVersion, minorVersion = 5, 11
    _documentation = "https://slicer.readthedocs.io/"
    without_window = False  # as with --no-main-window

    def __init__(self, qapplication) -> None:
        super().__init__()
        self._qapplication = qapplication
        self._io = IOManager(self)
        self._module_manager = Signals()
        self._layout_manager = None
        self._settings = _Settings()
        self.temporaryPath = tempfile.gettempdir()
        self.logics = {}

    def make_scene(self):
        scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = scene
        cache, inout = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
        self._cache = tempfile.TemporaryDirectory(prefix="slicer-harness-")  # where .mrb files are unpacked
        cache.SetRemoteCacheDirectory(self._cache.name)
        cache.SetMRMLScene(scene)
        inout.SetCacheManager(cache)
        scene.SetCacheManager(cache)
        scene.SetDataIOManager(inout)
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        colors = slicer.vtkSlicerColorLogic()
        colors.SetMRMLApplicationLogic(self._logic)
        colors.SetMRMLScene(scene)
        self._logic.SetModuleLogic("Colors", colors)
        self.logics["colors"] = colors
        for name, class_name in LOGICS.items():
            logic = getattr(slicer, class_name)()
            logic.SetMRMLApplicationLogic(self._logic)
            logic.SetMRMLScene(scene)
            self._logic.SetModuleLogic(name.capitalize(), logic)
            self.logics[name] = logic
            setattr(slicer.modules, name, Module(name.capitalize(), logic))
        slicer.modules.colors = Module("Colors", colors)
        return scene

    def layoutManager(self):
        if self.without_window:
            return None
        if self._layout_manager is None:
            from .slice_views import LayoutManager

            self._layout_manager = LayoutManager(self._logic)
        return self._layout_manager

    def applicationLogic(self):
        return self._logic

    def mrmlScene(self):
        return slicer.mrmlScene

    def coreIOManager(self):
        return self._io

    ioManager = coreIOManager

    def moduleManager(self):
        return self._module_manager

    def testingEnabled(self):
        return True  # slicer.util then logs instead of opening pop-ups, as in Slicer's own tests

    def commandOptions(self):
        class Options:
            noMainWindow = True
            testingEnabled = True

        return Options()

    def userSettings(self):
        return self._settings

    def translate(self, context, text):
        return text

    def topLevelWidgets(self):
        return []

    def processEvents(self, *flags):
        self._qapplication.processEvents()

    def setOverrideCursor(self, cursor):
        pass

    def restoreOverrideCursor(self):
        pass

    def moduleDocumentationUrl(self, name):
        return self._documentation + name

    def extensionsManagerModel(self):
        return None
