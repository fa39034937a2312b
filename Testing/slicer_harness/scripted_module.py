"""The four base classes of a scripted module."""

from __future__ import annotations

import logging
import os
import sys
import unittest

import slicer


class ScriptedLoadableModule:
    def __init__(self, parent) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        for name in ("title", "helpText", "acknowledgementText"):
            setattr(parent, name, "")
        for name in ("categories", "dependencies", "contributors"):
            setattr(parent, name, [])
        import qt

        for ending in (".svg", ".png"):
            icon = self.resourcePath("Icons/" + self.moduleName + ending)
            if os.path.isfile(icon):
                parent.icon = qt.QIcon(icon)
                break
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, name):
        return os.path.join(os.path.dirname(self.parent.path), "Resources", name)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        return f"<p>{slicer.app.moduleDocumentationUrl(self.moduleName)}</p>"

    def runTest(self, msec=100, **options):
        case = getattr(sys.modules[self.__module__], self.moduleName + "Test")()
        case.messageDelay = msec
        case.runTest(**options)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None) -> None:
        self.moduleName = type(self).__name__[: -len("Widget")]
        self.developerMode = False
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, name):
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", name)

    def setup(self):
        pass

    def cleanup(self):
        pass

    def enter(self):
        pass

    def exit(self):
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None) -> None:
        self.moduleName = type(self).__name__[: -len("Logic")]
        self.isSingletonParameterNode = True

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            return slicer.mrmlScene.AddNode(self.createParameterNode())
        if node.GetAttribute("ModuleName") != self.moduleName:  # closing a scene takes the attribute away
            node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, methodName="runTest") -> None:
        super().__init__(methodName)

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        logging.info(message)
        slicer.app.processEvents()

    def runTest(self):
        pass


def exported() -> dict:
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    return {"__all__": [c.__name__ for c in classes], **{c.__name__: c for c in classes}}
