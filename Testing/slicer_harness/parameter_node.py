"""``@parameterNodeWrapper``: typed state kept in a vtkMRMLScriptedModuleNode and tied to widgets.

Only the types that the module uses, with Slicer's own rules: values are cached until the node is modified, a
value of a wrong type is refused (None too, unless a union of nodes names it), a widget must be of exactly the
class that the type's connector takes, a combo box for str needs ``Choice``, the labels of an enumeration come
from its ``label`` method, an unknown name of an enumeration is an error, a stale reference stays until
somebody notices. ``connectGui`` returns nothing, as in every Slicer so far (its issue 7547);
``connectParametersToGui`` returns the tag that ``disconnectGui`` takes.
"""

from __future__ import annotations

import enum
import typing
import weakref

import slicer
import vtk

# Wrappers that were tied to a GUI. Slicer's observer above keeps them too; once Python's garbage collector
# has cleared such a cycle through a VTK object, the next event crashes.
_kept: list = []


class Default:
    def __init__(self, value) -> None:
        self.value = value


class WithinRange:
    def __init__(self, minimum, maximum) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within [{self.minimum}, {self.maximum}]")


class Choice:
    def __init__(self, choices) -> None:
        self.choices = choices

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {self.choices}")


class Decimals:
    def __init__(self, value) -> None:
        self.value = value


class SingleStep:
    def __init__(self, value) -> None:
        self.value = value


class _Parameter:
    def __init__(self, owner, name, hint) -> None:
        self.name = name
        self.notes = getattr(hint, "__metadata__", ())
        self.type = hint.__origin__ if self.notes else hint
        union = typing.get_args(self.type) if typing.get_origin(self.type) is typing.Union else ()
        self.types = tuple(t for t in union if t is not type(None)) or (self.type,)
        if not all(isinstance(t, type) for t in self.types):
            raise TypeError(f"Unable to create serializer for {owner.__name__} member {name}: {self.type}")
        self.is_node = all(issubclass(t, slicer.vtkMRMLNode) for t in self.types)
        self.none_index = union.index(type(None)) if type(None) in union else None
        self.is_union = bool(union)
        if union and not self.is_node:
            raise TypeError(f"{owner.__name__} member {name}: only unions of nodes are supported here")
        if union:
            self.type = slicer.vtkMRMLNode
        self.is_enum = issubclass(self.type, enum.Enum)
        if not (self.is_node or self.is_enum or self.type in (str, int, float, bool)):
            raise TypeError(f"Unable to create serializer for {owner.__name__} member {name}: {self.type}")
        defaults = [n.value for n in self.notes if isinstance(n, Default)]
        if name in owner.__dict__:
            self.default = owner.__dict__[name]
        elif defaults:
            self.default = defaults[0]
        elif self.is_node:
            self.default = None
        else:
            self.default = next(iter(self.type)) if self.is_enum else self.type()

    def _names(self):
        """Where the node keeps it: under its name, or for a union under the name and the type's number."""
        count = len(self.types) + (self.none_index is not None)
        return [f"{self.name}.{n}" for n in range(count)] if self.is_union else [self.name]

    def is_in(self, node):
        return any(node.HasParameter(name) for name in self._names())

    def validate(self, value):
        if self.is_node and value is None:
            if self.is_union and self.none_index is None:
                raise TypeError(f"{self.name}: Unable to write value 'None': the union does not name None")
            return
        wanted = (int, float) if self.type is float else self.types
        if not isinstance(value, wanted):
            raise TypeError(f"{self.name}: {value!r} is not a {self.type.__name__}")
        for note in self.notes:
            if hasattr(note, "validate"):
                note.validate(value)

    def write(self, node, value):
        self.validate(value)
        if self.is_union:
            for name in self._names():
                node.UnsetParameter(name)
                node.RemoveNodeReferenceIDs(name)
            kinds = [t if value is not None else type(None) for t in self.types]
            index = self.none_index if value is None else [isinstance(value, t) for t in kinds].index(True)
            name = f"{self.name}.{index}"
            node.SetParameter(name, "")
            if value is not None:
                node.SetNodeReferenceID(name, value.GetID())
        elif self.is_node:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, value.name if self.is_enum else str(value))

    def read(self, node):
        if not self.is_in(node):  # closing the scene empties the node
            self.write(node, self.default)
        if self.is_union:
            name = next(name for name in self._names() if node.HasParameter(name))
            return node.GetNodeReference(name)
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.is_enum:
            if text not in self.type.__members__:
                raise ValueError(f"Found {text!r} in parameter node but it is not a name in {self.type!r}")
            return self.type[text]
        return text == "True" if self.type is bool else self.type(text)


class _Connector:
    """A widget and a parameter: which signal tells of a change, how to read and to write."""

    def __init__(self, widget, parameter) -> None:
        import ctk
        import qt

        self.widget, self.parameter, kind = widget, parameter, type(widget)
        if parameter.is_node and kind is slicer.qMRMLNodeComboBox:
            widget.nodeTypes = [
                t.__name__ for t in parameter.types
            ]  # overrides what the .ui says, as in Slicer
            self.signal, self.read, self.write = (
                widget.currentNodeChanged,
                widget.currentNode,
                widget.setCurrentNode,
            )
        elif parameter.type is bool and kind is qt.QCheckBox:
            self._property("stateChanged", "checked")
        elif parameter.type is bool and kind is qt.QPushButton:
            if not widget.checkable:
                raise RuntimeError(
                    "a push button for a bool must be checkable (Slicer makes it so, and warns)"
                )
            self._property("toggled", "checked")
        elif parameter.type is float and kind in (qt.QDoubleSpinBox, ctk.ctkSliderWidget):
            limits = [n for n in parameter.notes if isinstance(n, WithinRange)]
            if not limits:
                raise RuntimeError("a slider needs WithinRange")
            widget.minimum, widget.maximum = limits[0].minimum, limits[0].maximum
            self._property("valueChanged", "value")
        elif parameter.type is int and kind in (qt.QSpinBox, qt.QSlider):
            limits = [n for n in parameter.notes if isinstance(n, WithinRange)]
            low, high = (limits[0].minimum, limits[0].maximum) if limits else (-(2**31), 2**31 - 1)
            widget.setRange(low, high)
            self._property("valueChanged", "value")
        elif parameter.is_enum and kind is qt.QComboBox:
            label = getattr(parameter.type, "label", lambda member: member.name)
            self._choices([(label(member), member) for member in parameter.type])
        elif parameter.type is str and kind is qt.QComboBox:
            choice = [n for n in parameter.notes if isinstance(n, Choice)]
            if not choice:
                raise RuntimeError("a combo box for str needs the Choice annotation")
            self._choices([(c, c) for c in choice[0].choices])
        elif parameter.type is str and kind is qt.QLineEdit:
            self._property("textChanged", "text")
        else:
            raise RuntimeError(
                f"Unable to create GUI connector from {parameter.type} {parameter.name} to {kind.__name__}"
            )

    def _property(self, signal, name):
        self.signal = getattr(self.widget, signal)
        self.read = lambda: getattr(self.widget, name)
        self.write = lambda value: setattr(self.widget, name, value)

    def _choices(self, pairs):
        self.widget.clear()
        for label, _ in pairs:
            self.widget.addItem(label)
        values = [value for _, value in pairs]
        self.signal = self.widget.currentIndexChanged
        self.read = lambda: values[self.widget.currentIndex]
        self.write = lambda value: setattr(self.widget, "currentIndex", values.index(value))

    def connect(self, callback):
        self._slot = lambda *_: callback()
        self.signal.connect(self._slot)

    def disconnect(self):
        self.signal.disconnect(self._slot)


def parameterNodeWrapper(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: _Parameter(cls, name, hint) for name, hint in hints.items()}

    def init(self, parameterNode, prefix=None):
        self.parameterNode = parameterNode
        self._guis, self._next_tag = {}, 0
        self._updating = False
        self._cache = {}
        self._writing = False
        for parameter in parameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default)
        refresh(self)
        # A strong reference from the observer would close a cycle through the VTK object; once Python's
        # garbage collector has cleared that, the next event crashes. Slicer's own wrapper uses a weak one
        # too.
        weak = weakref.ref(self)
        self._tag = parameterNode.AddObserver(
            vtk.vtkCommand.ModifiedEvent, lambda *_: weak() and refresh(weak())
        )

    def delete(self):
        self.parameterNode.RemoveObserver(self._tag)

    def refresh(self):
        if not self._writing:
            self._cache = {name: p.read(self.parameterNode) for name, p in parameters.items()}

    def put(self, name, value):
        self._writing = True
        try:
            with slicer.util.NodeModify(self.parameterNode):
                parameters[name].write(self.parameterNode, value)
                self._cache[name] = parameters[name].read(self.parameterNode)
        finally:
            self._writing = False

    def connectGui(self, gui):
        widgets = {}
        for widget in gui.__dict__.values():
            name = widget.property("SlicerParameterName")
            if name:
                widgets[name] = widget
        connectParametersToGui(self, widgets)  # and returns nothing

    def connectParametersToGui(self, widgets):
        for name in widgets:
            if name not in parameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
        connectors = {name: _Connector(widget, parameters[name]) for name, widget in widgets.items()}
        self._next_tag += 1
        tag = self._next_tag - 1
        self._guis[tag] = connectors
        for name, connector in connectors.items():
            connector.write(self._cache[name])

            def changed(name=name, connector=connector):
                if not self._updating:
                    put(self, name, connector.read())

            connector.connect(changed)

        def update(*_):
            if self._updating:
                return
            self._updating = True
            try:
                for mapping in self._guis.values():
                    for name, connector in mapping.items():
                        connector.write(self._cache[name])
            finally:
                self._updating = False

        self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, update)  # never removed, as in Slicer
        if self not in _kept:
            _kept.append(self)
        return tag

    def disconnectGui(self, tag):
        for connector in self._guis.pop(tag, {}).values():
            connector.disconnect()

    for name in parameters:
        setattr(
            cls,
            name,
            property(lambda self, n=name: self._cache[n], lambda self, value, n=name: put(self, n, value)),
        )
    cls.__init__, cls.__del__ = init, delete
    cls.connectGui, cls.connectParametersToGui = connectGui, connectParametersToGui
    cls.disconnectGui = disconnectGui
    cls.allParameters = parameters
    cls.AddObserver = lambda self, event, callback, priority=0.0: self.parameterNode.AddObserver(
        event, callback, priority
    )
    for method in ("RemoveObserver", "Modified", "StartModify", "EndModify"):
        setattr(cls, method, lambda self, *a, method=method: getattr(self.parameterNode, method)(*a))
    return cls


def exported() -> dict:
    classes = (parameterNodeWrapper, Default, WithinRange, Choice, Decimals, SingleStep)
    return {c.__name__: c for c in classes}
