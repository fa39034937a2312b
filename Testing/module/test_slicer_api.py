"""The module asks Slicer, CTK and Qt only for what they have, in every supported version.

The facts are in ``Testing/slicer_harness/api``; ``slicer_harness/strict.py`` applies them whenever the other
tests run the module. Here is what running does not reach, and that the rules and stand-ins hold.
"""

from __future__ import annotations

import ast
import inspect
import json
import xml.etree.ElementTree as ElementTree

import pytest
import slicer
import slicer_harness
from slicer_harness import strict
from slicer_harness.fixtures import (
    FakeRegister,
    add_pair,
    add_points,
    fixed_points,
)

MODULE = slicer_harness.REPOSITORY / "ProgressiveRegistration"
FILES = [
    MODULE / "ProgressiveRegistration.py",
    *sorted((MODULE / "ProgressiveRegistrationSlicer").glob("*.py")),
    *sorted((MODULE / "Scripts").glob("*.py")),
    *sorted((MODULE / "Testing" / "Python").glob("*.py")),
]
PYTHON = json.loads((strict.API / "python.json").read_text(encoding="utf-8"))
OLDEST = PYTHON["versions"][0]


def trees():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


def dotted(node) -> str:
    """ "slicer.util.loadUI" of the expression; "" where it is none of names and dots."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


# ---------- the rules refuse what PythonQt refuses


def as_the_module(source: str, **names):
    """Run lines as if they stood in one of the module's files."""
    exec(compile(source, str(MODULE / "made_up.py"), "exec"), names)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("label.text()", "'str' object is not callable"),
        ("label.colour = 'red'", "creating new attributes on C\\+\\+ objects is not allowed"),
        ("label.elide", "QLabel has no attribute named 'elide'"),
        ("label.text = None", "does not accept an object of type NoneType"),
        ("label.text = 3", "does not accept an object of type int"),
        ("label.setText(None)", "None is not a str"),
        ("label.setText('a', 'b')", "takes 1 arguments"),
        ("button.connect('clicked(int)', print)", "has no signal clicked\\(int\\)"),
        ("button.connect('clicked', print)", "has no signal clicked"),
        ("combo.connect('currentIndexChanged(QString)', print)", "has no signal"),  # gone in Qt 6
        ("selector.count", "qMRMLNodeComboBox has no attribute named 'count'"),  # it is no QComboBox
        ("selector.currentIndex", "has no attribute named 'currentIndex'"),
        ("section.setTitle('a')", "ctkCollapsibleButton has no attribute named 'setTitle'"),
        ("import qt; qt.QWebEngineView", "no table in Testing/slicer_harness/api knows this class"),
        ("table.horizontalHeader().setTitle('a')", "QHeaderView has no attribute named 'setTitle'"),
        ("import qt; qt.QTableWidgetItem('a').hide()", "QTableWidgetItem has no attribute named 'hide'"),
    ],
)
def test_strict_rules(panel, source, words):
    names = {
        "label": panel.ui.messageLabel,
        "button": panel.ui.applyButton,
        "combo": panel.ui.presetComboBox,
        "selector": panel.ui.fixedVolumeSelector,
        "section": panel.ui.viewCollapsibleButton,
        "table": panel.ui.treTable,
    }
    with pytest.raises((AttributeError, ValueError, TypeError), match=words):
        as_the_module(source, **names)


def test_strict_rules_let_through_what_is_there(panel):
    as_the_module(
        "label.text = 'a'; label.setText('b'); assert label.text == 'b'\n"
        "button.connect('clicked(bool)', print); button.connect('clicked()', print)\n"
        "table.horizontalHeader().stretchLastSection = True\n"
        "assert table.horizontalHeader().stretchLastSection is True",
        label=panel.ui.messageLabel,
        button=panel.ui.undoButton,
        table=panel.ui.treTable,
    )


# ---------- what running the module does not reach


def test_every_name_of_qt_and_ctk_is_known():
    unknown = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            name = dotted(node) if isinstance(node, ast.Attribute) else ""
            parts = name.split(".")
            if len(parts) < 2 or not (parts[0] in ("qt", "ctk") or name.startswith("slicer.q")):
                continue
            known = strict.facts(parts[1])
            members = () if known is None else {*known["enums"], *known["static"], *known["methods"]}
            if known is None or (len(parts) > 2 and parts[2] not in members):
                unknown.add(f"{path.name}:{node.lineno} {name}")
    assert unknown == set()


def test_form_has_only_classes_properties_and_signals_that_exist():
    root = ElementTree.parse(MODULE / "Resources" / "UI" / "ProgressiveRegistration.ui").getroot()
    kinds = {w.get("name"): w.get("class") for w in root.iter("widget")}
    problems = []
    for widget in root.iter("widget"):
        known = strict.facts(widget.get("class"))
        if known is None:
            problems.append(widget.get("class"))
            continue
        for prop in widget.findall("property"):
            given = {"geometry", "minimumSize", "maximumSize", "buddy"}  # QtDesigner's own
            if prop.get("stdset") != "0" and prop.get("name") not in {*known["properties"], *given}:
                problems.append(f"{widget.get('name')}.{prop.get('name')}")
    for connection in root.iter("connection"):
        sender = strict.facts(kinds[connection.findtext("sender")])
        receiver = strict.facts(kinds[connection.findtext("receiver")])
        if connection.findtext("signal") not in sender["signals"]:
            problems.append(connection.findtext("signal"))
        if connection.findtext("slot").split("(")[0] not in receiver["methods"]:
            problems.append(connection.findtext("slot"))
    assert problems == []


def kind_by_name() -> dict[str, str]:
    """Object name -> class of the form's widgets."""
    root = ElementTree.parse(MODULE / "Resources" / "UI" / "ProgressiveRegistration.ui").getroot()
    return {w.get("name"): w.get("class") for w in root.iter("widget")}


def source_of(node, kinds: dict) -> str | None:
    """The class of what an expression gives: ``<any>.ui.name``, ``slicer.app``, its layout manager, a widget
    that is made."""
    if isinstance(node, ast.Call):
        called = dotted(node.func)
        made = called.split(".")[-1] if called.startswith(("qt.", "ctk.", "slicer.q")) else None
        return "qMRMLLayoutManager" if called == "slicer.app.layoutManager" else made
    parts = dotted(node).split(".")
    if parts == ["slicer", "app"]:
        return "qSlicerApplication"
    return kinds.get(parts[-1]) if len(parts) >= 2 and parts[-2] == "ui" else None


def named_in(function, kinds: dict) -> dict[str, str]:
    """Local name, or ``self.name`` -> class: of assignments and of loops over widgets, where there is one."""
    found: dict = {}
    for node in ast.walk(function):
        pairs = []
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            pairs = [(node.targets[0], node.value)]
        elif isinstance(node, ast.For) and isinstance(node.iter, (ast.Tuple, ast.List)):
            pairs = [(node.target, each) for each in node.iter.elts]
        for target, value in pairs:
            if dotted(target).count(".") == dotted(target).startswith("self."):
                found.setdefault(dotted(target), set()).add(source_of(value, kinds))
    return {name: of.pop() for name, of in found.items() if len(of) == 1 and None not in of}


def wrong_attributes(tree, kinds: dict) -> list[str]:
    """Attributes that the real class lacks, properties that are called, methods that are read."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    wrong = {}
    own = {name: kind for name, kind in named_in(tree, kinds).items() if name.startswith("self.")}
    for scope in (tree, *functions):
        names = {**own, **named_in(scope, kinds)} if scope is not tree else own
        for node in ast.walk(scope):
            if not isinstance(node, ast.Attribute):
                continue
            kind = source_of(node.value, kinds) or names.get(dotted(node.value))
            if kind is None or strict.facts(kind) is None:
                continue
            known = strict.facts(kind)
            is_property, is_method = node.attr in known["properties"], node.attr in known["methods"]
            pythonqt = node.attr in ("connect", "disconnect", "name", "className", "delete")
            fits = is_method if id(node) in called else is_property
            if not (fits or pythonqt or node.attr in known["signal names"]):
                wrong[node.lineno, kind, node.attr] = f"{node.lineno} {kind}.{node.attr}"
    return sorted(wrong.values())


def test_attributes_of_widgets_and_of_the_application_exist_and_are_used_as_what_they_are():
    """``self.ui.name.text()`` and ``if self.ui.name.currentNode:`` both look right and are wrong; a name that
    does not exist may stand where no test comes by."""
    kinds = kind_by_name()
    assert {
        path.name: wrong_attributes(tree, kinds) for path, tree in trees() if wrong_attributes(tree, kinds)
    } == {}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("self.ui.applyButton.setTitle('a')", ["QPushButton.setTitle"]),
        ("self._panel.ui.messageLabel.text()", ["QLabel.text"]),
        ("x = self.ui.fixedVolumeSelector.currentNode", ["qMRMLNodeComboBox.currentNode"]),
        ("button = self.ui.applyButton; button.setTitle('a')", ["QPushButton.setTitle"]),
        ("for b in (self.ui.applyButton, self.ui.undoButton): b.hidden = 1", ["QPushButton.hidden"]),
        ("t = qt.QTimer(); t.setSingle(True); t.start(3)", ["QTimer.setSingle"]),
        ("self.s = slicer.qMRMLNodeComboBox(); self.s.count", ["qMRMLNodeComboBox.count"]),
        ("slicer.app.openFile('a')", ["qSlicerApplication.openFile"]),
        ("slicer.app.layoutManager().resetViews()", ["qMRMLLayoutManager.resetViews"]),
        ("m = slicer.app.layoutManager(); m.resetSliceViews(); m.threeDViewCount(1)", [
            "qMRMLLayoutManager.threeDViewCount"
        ]),
        ("self.ui.applyButton.click(); self.ui.applyButton.text = 'a'", []),
    ],
)  # fmt: skip
def test_wrong_attributes_are_found_without_running_them(line, found):
    tree = ast.parse(f"def never(self):\n    {line}")
    assert [word.split(" ")[1] for word in wrong_attributes(tree, kind_by_name())] == found


def calls_of_slicer():
    """(where, table name, function, call) of every call that python.json should know."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = dotted(node.func)
            for table in set(PYTHON) - {"versions"}:
                if name.startswith(table + ".") and name.count(".") == table.count(".") + 1:
                    yield f"{path.name}:{node.lineno}", table, name.rsplit(".", 1)[1], node
            if isinstance(node.func, ast.Name) and node.func.id == "pip_ensure":
                yield f"{path.name}:{node.lineno}", "slicer.packaging", "pip_ensure", node
            if isinstance(node.func, ast.Attribute) and node.func.attr == "installTorch":
                yield f"{path.name}:{node.lineno}", "PyTorchUtils.PyTorchUtilsLogic", "installTorch", node


def test_functions_of_slicer_are_called_as_every_supported_version_takes_them():
    found = list(calls_of_slicer())
    assert len(found) > 10
    problems = []
    for where, table, name, call in found:
        fact = PYTHON[table].get(name)
        if fact is None:
            problems.append(f"{where} {table}.{name} is in no table")
            continue
        if fact.get("class"):
            continue
        named = [k.arg for k in call.keywords if k.arg]
        if len(call.args) > len(fact["arguments"]) or not (set(named) <= set(fact["arguments"])):
            problems.append(f"{where} {name}{fact['arguments']}")
        if version(fact["since"]) > version(OLDEST) and name != "pip_ensure":  # imported in a try
            problems.append(f"{where} {name} is new in {fact['since']}")
    assert problems == []


def version(text: str) -> tuple:
    return tuple(int(part) for part in text.split("."))


def test_what_only_new_versions_have_is_imported_in_a_try():
    """``from slicer.packaging import pip_ensure`` fails before 5.11."""
    for path, tree in trees():
        guarded = {
            id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in PYTHON:
                for alias in node.names:
                    since = PYTHON[node.module][alias.name]["since"]
                    assert version(since) <= version(OLDEST) or id(node) in guarded, (
                        f"{path.name}: {alias.name}"
                    )


# ---------- the tables and the stand-ins agree with what is installed here


def test_table_of_slicer_util_agrees_with_the_installed_one():
    for name, fact in PYTHON["slicer.util"].items():
        function = getattr(slicer.util, name)
        if not fact.get("class"):
            kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            parameters = inspect.signature(function).parameters.values()
            installed = [p.name for p in parameters if p.kind in kinds]
            assert installed[: len(fact["arguments"])] == fact["arguments"], name


def test_tables_of_qt_agree_with_the_qt_that_is_installed():
    """PySide6 is Qt 6: every property, signal and enumerator of a table must be there."""
    from PySide6 import QtCore, QtGui, QtWidgets

    qt_table = json.loads((strict.API / "qt.json").read_text(encoding="utf-8"))
    missing = []
    for name, table in qt_table.items():
        cls = next(getattr(m, name) for m in (QtWidgets, QtGui, QtCore) if hasattr(m, name))
        if table.get("namespace") or table.get("value"):
            missing += [f"{name}.{e}" for e in table.get("enums", ()) if not hasattr(cls, e)]
            missing += [f"{name}.{m}" for m in table.get("methods", {}) if not hasattr(cls, m)]
            continue
        meta = cls.staticMetaObject
        missing += [f"{name}.{p}" for p in table.get("properties", {}) if meta.indexOfProperty(p) < 0]
        missing += [f"{name}: {s}" for s in table.get("signals", ()) if meta.indexOfSignal(s) < 0]
        missing += [f"{name}.{e}" for e in table.get("enums", ()) if not hasattr(cls, e)]
        missing += [
            f"{name}.{m}" for m in table.get("methods", {}) if not hasattr(cls, m.removesuffix("_"))
            and not hasattr(cls, m)
        ]  # fmt: skip
    assert missing == []


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: slicer.app, "qSlicerApplication"),
        (lambda: slicer.app.layoutManager(), "qMRMLLayoutManager"),
        (lambda: slicer.app.layoutManager().sliceWidget("Red"), "qMRMLSliceWidget"),
    ],
)
def test_stand_ins_that_are_no_widgets_have_nothing_that_the_real_ones_lack(scene, make, kind):
    own = {"logics", "make_scene", "emit", "without_window", "name", "size", "logic", "image", "fit"}
    public = {name for name in dir(make()) if name[0] != "_"} - own - {"connect", "disconnect"}
    known = strict.facts(kind)
    # the part that the harness answers for several classes at once: qMRMLSliceWidget and its controller
    assert public <= {*known["properties"], *known["methods"]}


# ---------- no window


@pytest.fixture
def no_window(monkeypatch):
    """``Slicer --no-main-window``: there is no layout manager."""
    monkeypatch.setattr(slicer.app, "without_window", True)
    assert slicer.app.layoutManager() is None


def test_sample_data_logic_and_self_test_work_without_a_window(scene, module, no_window):
    from ProgressiveRegistrationSlicer import sample_data

    small = {"size": (48, 48, 32), "spacing": (7.2, 7.2, 10.0), "tips": 200, "landmarks": 6}
    fixed, moving, fixed_list, moving_list = sample_data.load(None, **small)
    logic = module.ProgressiveRegistrationLogic(FakeRegister())
    result = logic.register(fixed, moving, warped=True, jacobian=True, moving_landmarks=[moving_list])
    errors = logic.landmarkErrors(fixed_list, moving_list, result.transform)
    model = scene.AddNewNodeByClass("vtkMRMLModelNode")
    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    logic.storeLandmarkErrors(errors, moving_list, table, model)
    assert table.GetNumberOfRows() == 6
    result.undo()


def test_panel_works_without_slice_views(scene, module, no_window):
    widget = slicer_harness.open_module(module)
    fixed, moving = add_pair()
    p = widget._parameterNode
    p.fixedVolume, p.movingVolume = fixed, moving
    p.fixedLandmarks, p.movingLandmarks = add_points(fixed_points()), add_points(fixed_points() + 1)
    widget.logic._register = FakeRegister()
    widget.ui.applyButton.click()
    assert slicer_harness.process_events_until(lambda: widget._task is None)
    assert "Registered in" in widget.ui.messageLabel.text
    for mode in range(1, widget.ui.fusionComboBox.count):
        widget.ui.fusionComboBox.setCurrentIndex(mode)
    widget.tre.jump(0)
    widget.ui.undoButton.click()
    slicer_harness.close_module(widget)
