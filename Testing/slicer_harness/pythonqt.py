"""``qt`` and ``ctk`` in PythonQt's style over PySide6.

PythonQt differs from PySide6: Qt properties are plain attributes (``button.text``, ``slider.value = 3``),
``obj.name`` is the object name, ``obj.connect("clicked(bool)", f)``, ``exec_()``. Every QObject class is
subclassed on demand to behave so, and QUiLoader makes those subclasses too; a module's .ui file loads
unchanged.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
import types

import slicer
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import Property, QObject, Signal

from . import strict

_wrapped, _property_names = {}, {}
_application = None


def _keep_constants_alive() -> None:
    """PySide6 6.12 takes a reference from None or True in every call that
    returns them (measured on Python 3.11).

    From Python 3.12 on they are immortal and that does no harm; before, a few ten thousand calls end in a
    crash.
    """
    if sys.version_info < (3, 12):
        for constant in (None, True, False):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


def application():
    """The one QApplication."""
    global _application
    if _application is None:
        _keep_constants_alive()
        atexit.register(_without_style)
    _application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["slicer-harness"])
    return _application


def _without_style() -> None:
    """Python takes modules apart when it ends, while Qt still asks its objects for names."""
    del PythonQtStyle.__getattribute__, PythonQtStyle.__setattr__, ValueStyle.__getattribute__


def _properties(obj):
    kind = type(obj)
    if kind not in _property_names:
        meta = QObject.metaObject(obj)
        _property_names[kind] = {meta.property(i).name() for i in range(meta.propertyCount())}
    return _property_names[kind]


class PythonQtStyle:
    def __getattribute__(self, name):
        if name[0] != "_":
            ours = strict.asked_by_the_module()
            if ours:
                strict.check_read(self, name)
            if name == "name":
                return QObject.objectName(self)
            if name in ("connect", "disconnect"):  # PySide6 looks these two up past the MRO
                return types.MethodType(getattr(PythonQtStyle, "_" + name), self)
            if name in _properties(self):
                return QObject.property(self, name)
            found = super().__getattribute__(name)
            if ours and name in strict.facts(strict.kind_of(self))["methods"]:
                return strict.checked(self, name, found)
            return found
        return super().__getattribute__(name)

    def __setattr__(self, name, value):
        if name[0] != "_":
            if strict.asked_by_the_module():
                strict.check_set(self, name, value)
            if name == "name":
                QObject.setObjectName(self, value)
                return
            if name in _properties(self):
                value = list(value) if isinstance(value, tuple) else value
                if not QObject.setProperty(self, name, value):
                    raise ValueError(f"{type(self).__name__}.{name} = {value!r}")
                return
        super().__setattr__(name, value)

    def _connect(self, signal, slot):
        if strict.asked_by_the_module():
            strict.check_signal(self, signal)
        name, _, arguments = signal.partition("(")
        bound = getattr(self, name)
        arguments = arguments.rstrip(")")
        if arguments:
            try:
                bound = (
                    bound[tuple(a.strip() for a in arguments.split(","))]
                    if "," in arguments
                    else bound[arguments]
                )
            except (KeyError, IndexError, TypeError):
                pass
            bound.connect(slot)
        else:
            bound.connect(lambda *_: slot())
        return True

    def _disconnect(self, signal, slot):
        try:
            getattr(self, signal.partition("(")[0]).disconnect(slot)
        except (RuntimeError, TypeError):
            pass

    def className(self):
        return type(self).__name__

    def exec_(self, *arguments):
        return self.exec(*arguments)

    def delete(self):
        self.deleteLater()


class ValueStyle:
    """Qt's classes that are no QObject: methods only, those of the tables."""

    def __getattribute__(self, name):
        if name[0] != "_" and strict.asked_by_the_module():
            strict.check_read(self, name)
        return super().__getattribute__(name)


def wrap(cls):
    """``cls`` in PythonQt's style, the same class every time."""
    if cls not in _wrapped:
        if issubclass(cls, QObject):
            _wrapped[cls] = type(cls.__name__, (PythonQtStyle, cls), {})
        elif strict.tables().get(cls.__name__, {}).get("value"):
            _wrapped[cls] = type(cls.__name__, (ValueStyle, cls), {})
        else:
            _wrapped[cls] = cls
    return _wrapped[cls]


class QtModule(types.ModuleType):
    def __getattr__(self, name):
        if strict.asked_by_the_module() and strict.facts(name) is None:
            raise AttributeError(f"qt.{name}: no table in Testing/slicer_harness/api knows this class")
        for module in (QtWidgets, QtGui, QtCore, QtUiTools):
            found = getattr(module, name, None)
            if found is not None:
                if name == "QUiLoader":
                    found = UiLoader
                elif isinstance(found, type):
                    found = wrap(found)
                setattr(self, name, found)
                return found
        raise AttributeError(f"qt.{name}")


qt = QtModule("qt")
ctk = types.ModuleType("ctk")


class UiLoader(QtUiTools.QUiLoader):
    def createWidget(self, className, parent=None, name=""):
        cls = getattr(ctk, className, None) or getattr(slicer, className, None) or getattr(qt, className)
        widget = cls(parent) if parent is not None else cls()
        QObject.setObjectName(widget, name)
        return widget

    def load(self, file, parent=None):
        # The .ui's mrmlSceneChanged(vtkMRMLScene*) connections cannot be made over PySide6; they are honoured
        # by setMRMLScene() of the panel, which reads them from the file.
        QtCore.QLoggingCategory.setFilterRules("qt.core.qobject.connect.warning=false")
        path = file if isinstance(file, str) else file.fileName()
        if isinstance(file, str):
            file = QtCore.QFile(file)
            file.open(QtCore.QFile.ReadOnly)
        widget = super().load(file, parent)
        file.close()
        widget._scene_receivers = _scene_receivers(path)
        return widget


def _scene_receivers(path):
    """The widgets that the .ui connects to mrmlSceneChanged: only those get a scene, as in Slicer."""
    import xml.etree.ElementTree as ElementTree

    return {
        c.findtext("receiver")
        for c in ElementTree.parse(path).getroot().iter("connection")
        if c.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }


_QWidget = wrap(QtWidgets.QWidget)
_QGroupBox = wrap(QtWidgets.QGroupBox)


class ctkCollapsibleButton(_QGroupBox):
    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments) -> None:
        super().__init__(*[a for a in arguments if not isinstance(a, str)])
        self._collapsed, self._hidden = False, {}
        self._text = next((a for a in arguments if isinstance(a, str)), "")

    def _set_collapsed(self, value):
        changed = self._collapsed != bool(value)
        self._collapsed = bool(value)
        self._apply()
        if changed:
            self.contentsCollapsed.emit(self._collapsed)

    def _apply(self):
        """Hide the contents; when shown again, what the module itself had hidden stays hidden, as in CTK."""
        for child in QObject.children(self):
            if not isinstance(child, QtWidgets.QWidget):
                continue
            if self._collapsed and child not in self._hidden:
                explicitly = child.testAttribute(QtCore.Qt.WA_WState_ExplicitShowHide)
                self._hidden[child] = explicitly and child.isHidden()
                child.hide()
            elif not self._collapsed and child in self._hidden:
                child.setVisible(not self._hidden.pop(child))
        QtWidgets.QWidget.setMaximumHeight(self, 22 if self._collapsed else 16777215)
        QtWidgets.QGroupBox.setTitle(self, ("▸ " if self._collapsed else "▾ ") + self._text)

    def showEvent(self, event):
        self._apply()  # the loader makes children after it has read the property
        QtWidgets.QGroupBox.showEvent(self, event)

    def _set_text(self, text):
        self._text = text
        self._apply()

    text = Property(str, lambda s: s._text, _set_text)
    collapsed = Property(bool, lambda s: s._collapsed, _set_collapsed)


class ctkSliderWidget(_QWidget):
    valueChanged = Signal(float)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._slider.setRange(0, 1000)
        self._box = QtWidgets.QDoubleSpinBox()
        self._box.setRange(0, 100)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._changed)
        self._slider.sliderMoved.connect(self._moved)

    def _moved(self, position):
        low, high = self._box.minimum(), self._box.maximum()
        self._box.setValue(low + position / 1000 * (high - low))

    def _changed(self, value):
        extent = self._box.maximum() - self._box.minimum()
        self._slider.setValue(int(1000 * (value - self._box.minimum()) / extent) if extent else 0)
        self.valueChanged.emit(value)

    value = Property(float, lambda s: s._box.value(), lambda s, v: s._box.setValue(v))
    minimum = Property(float, lambda s: s._box.minimum(), lambda s, v: s._box.setMinimum(v))
    maximum = Property(float, lambda s: s._box.maximum(), lambda s, v: s._box.setMaximum(v))
    singleStep = Property(float, lambda s: s._box.singleStep(), lambda s, v: s._box.setSingleStep(v))
    decimals = Property(int, lambda s: s._box.decimals(), lambda s, v: s._box.setDecimals(v))
    suffix = Property(str, lambda s: s._box.suffix(), lambda s, v: s._box.setSuffix(v))


class ctkPathLineEdit(_QWidget):
    currentPathChanged = Signal(str)
    Files, Dirs = 1, 2

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QLineEdit()
        layout.addWidget(self._edit)
        browse = QtWidgets.QToolButton()
        browse.setText("…")
        layout.addWidget(browse)
        self._edit.textChanged.connect(self.currentPathChanged)
        self._filters, self._kinds = [], self.Files

    def setCurrentPath(self, path):
        self._edit.setText(str(path))

    def addCurrentPathToHistory(self):
        pass

    currentPath = Property(str, lambda s: s._edit.text(), lambda s, v: s._edit.setText(v))
    nameFilters = Property("QStringList", lambda s: s._filters, lambda s, v: setattr(s, "_filters", list(v)))
    filters = Property(int, lambda s: s._kinds, lambda s, v: setattr(s, "_kinds", v))
    settingKey = Property(str, lambda s: "", lambda s, v: None)


def install():
    """Make ``import qt, ctk`` work."""
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit):
        setattr(ctk, cls.__name__, cls)
    ctk.ctkMessageBox = type("ctkMessageBox", (qt.QMessageBox,), {})
