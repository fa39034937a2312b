"""What the extension ships: file lists, the form, catalog entries, icons, Python versions;
CMake runs if it is here."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "ProgressiveRegistration"
PACKAGES = ("ProgressiveRegistrationLib", "ProgressiveRegistrationSlicer")
UI = MODULE / "Resources" / "UI" / "ProgressiveRegistration.ui"
NOT_SHIPPED = {".pyc"}


def listed(variable: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    body = re.search(rf"set\({variable}\n(.*?)\n  \)", text, re.DOTALL).group(1)
    return {line.strip().replace("${MODULE_NAME}", "ProgressiveRegistration") for line in body.splitlines()}


def present(folder: str) -> set[str]:
    files = (p for p in (MODULE / folder).rglob("*") if p.is_file() and p.suffix not in NOT_SHIPPED)
    return {p.relative_to(MODULE).as_posix() for p in files if "Models" not in p.parts}


def test_every_python_file_is_in_the_cmake_list_and_every_listed_one_exists():
    found = {"ProgressiveRegistration.py"}
    for folder in (*PACKAGES, "Scripts"):
        found |= {name for name in present(folder) if name.endswith(".py")}
    assert listed("MODULE_PYTHON_SCRIPTS") == found


def test_every_resource_is_in_the_cmake_list_and_every_listed_one_exists():
    found = present("Resources")
    for package in PACKAGES:
        found |= {name for name in present(package) if not name.endswith(".py")}
    assert listed("MODULE_PYTHON_RESOURCES") == found


def module_files() -> list[Path]:
    return [MODULE / name for name in sorted(listed("MODULE_PYTHON_SCRIPTS"))]


@pytest.mark.parametrize("path", module_files(), ids=lambda p: p.name)
def test_files_are_python_3_9(path):
    """Slicer 5.6 has Python 3.9: its grammar, and no ``X | Y`` evaluated at run time."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    assert not [n for n in ast.walk(tree) if n.__class__.__name__ in ("Match", "TryStar")]
    if "from __future__ import annotations" not in source:
        hints = [
            n.annotation for n in ast.walk(tree) if isinstance(n, (ast.AnnAssign, ast.arg)) and n.annotation
        ]
        assert not [h for h in hints for n in ast.walk(h) if isinstance(n, ast.BinOp)]


def test_the_engine_knows_no_slicer():
    knowing = set()
    for path in (MODULE / "ProgressiveRegistrationLib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] in ("slicer", "qt", "ctk", "vtk") for name in names):
                knowing.add(path.name)
    assert knowing == set()


# ---------- the form


def widgets():
    return list(ElementTree.parse(UI).getroot().iter("widget"))


def property_of(widget, name):
    found = [p for p in widget.findall("property") if p.get("name") == name]
    return found[0] if found else None


def test_form_names_only_parameters_that_exist():
    source = (MODULE / "ProgressiveRegistrationSlicer" / "parameter_node.py").read_text(encoding="utf-8")
    wrapper = next(
        n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and "ParameterNode" in n.name
    )
    parameters = {n.target.id for n in wrapper.body if isinstance(n, ast.AnnAssign)}
    named = [
        property_of(w, "SlicerParameterName").findtext("string")
        for w in widgets()
        if property_of(w, "SlicerParameterName") is not None
    ]
    assert len(named) == len(set(named))
    assert set(named) <= parameters
    # shown by other means: lists filled at run time, and nodes made by buttons
    assert parameters - set(named) == {
        "fixedSegment",
        "movingSegment",
        "modelName",
        "device",
        "errorTable",
        "errorModel",
    }


def test_every_node_selector_gets_the_scene():
    selectors = {w.get("name") for w in widgets() if w.get("class") == "qMRMLNodeComboBox"}
    connected = {
        c.findtext("receiver")
        for c in ElementTree.parse(UI).getroot().iter("connection")
        if c.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
    }
    assert selectors == connected


def test_everything_that_can_be_clicked_has_a_tool_tip():
    kinds = {
        "qMRMLNodeComboBox",
        "QComboBox",
        "QCheckBox",
        "QPushButton",
        "ctkSliderWidget",
        "ctkPathLineEdit",
    }
    without = [
        w.get("name") for w in widgets() if w.get("class") in kinds and property_of(w, "toolTip") is None
    ]
    assert not without


def test_texts_of_the_form_can_be_translated_and_names_cannot():
    for prop in ElementTree.parse(UI).getroot().iter("property"):
        text = prop.find("string")
        if text is not None and prop.get("name") in ("text", "toolTip", "noneDisplay"):
            assert text.get("notr") is None
        if prop.get("name") == "SlicerParameterName":
            assert text.get("notr") == "true"


def test_texts_of_the_panel_are_whole_sentences_for_translators():
    """``_`` takes literals: an f-string would never be found by the translation tools."""
    for path in (MODULE / "ProgressiveRegistrationSlicer").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_":
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"


def test_errors_that_the_panel_shows_can_be_translated():
    """What is raised as InputError in the Slicer parts is ``_("...")`` or ``_("...").format(...)``."""
    for path in (MODULE / "ProgressiveRegistrationSlicer").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                text = node.args[0]
                if isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute):
                    text = text.func.value
                assert isinstance(text, ast.Call), f"{path.name}:{node.lineno}"
                assert getattr(text.func, "id", "") == "_", f"{path.name}:{node.lineno}"


# ---------- catalog entries and pictures


def test_catalog_entry_has_only_the_allowed_keys():
    entry = json.loads((ROOT / "ProgressiveRegistration.json").read_text(encoding="utf-8"))
    required = {"$schema", "category", "scm_url"}
    optional = {
        "scm_revision",
        "scm_type",
        "build_dependencies",
        "build_subdirectory",
        "enabled",
        "tier",
        "dicom_support_rule",
    }
    assert required <= set(entry) <= required | optional
    assert entry["build_dependencies"] == ["PyTorch"]


def test_both_catalog_entries_and_cmake_agree():
    entry = json.loads((ROOT / "ProgressiveRegistration.json").read_text(encoding="utf-8"))
    old = dict(
        line.split(" ", 1)
        for line in (ROOT / "ProgressiveRegistration.s4ext").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    cmake = dict(
        re.findall(r'set\((EXTENSION_\w+) "([^"]*)"\)', (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    )
    assert old["scmurl"] == entry["scm_url"]
    assert old["category"] == entry["category"] == cmake["EXTENSION_CATEGORY"]
    assert [old["depends"]] == entry["build_dependencies"] == [cmake["EXTENSION_DEPENDS"]]
    for old_key, key in (
        ("homepage", "EXTENSION_HOMEPAGE"),
        ("contributors", "EXTENSION_CONTRIBUTORS"),
        ("description", "EXTENSION_DESCRIPTION"),
        ("iconurl", "EXTENSION_ICONURL"),
        ("screenshoturls", "EXTENSION_SCREENSHOTURLS"),
    ):
        assert old[old_key] == cmake[key]


def test_pictures_that_the_catalog_names_are_in_the_repository():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    paths = re.findall(r"/main/([\w./-]+\.png)", text)
    assert len(paths) == 3
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_icon_has_the_size_that_the_catalog_asks_for():
    header = (MODULE / "Resources" / "Icons" / "ProgressiveRegistration.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (128, 128)


# ---------- CMake

FAKE_SLICER = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
"""
# The checks of Slicer's own macros: mandatory names, no unknown keyword, every file exists.
FAKE_MACROS = """
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(BUILD_TESTING ON)
foreach(name HOMEPAGE CATEGORY CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${name}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${name} is empty")
  endif()
endforeach()
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT DEFINED MY_NAME)
    message(FATAL_ERROR "wrong arguments: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(value ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${value})
      message(FATAL_ERROR "given nonexistent file '${value}'")
    endif()
    get_filename_component(folder ${value} DIRECTORY)
    install(FILES ${value} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}/${folder})
  endforeach()
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(MY_TEST "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${MY_TEST_SCRIPT})
    message(FATAL_ERROR "no test script ${MY_TEST_SCRIPT}")
  endif()
  message(STATUS "test: ${MY_TEST_SCRIPT}")
endmacro()
"""


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_cmake_configures_and_what_it_installs_can_be_imported(tmp_path):
    fake = tmp_path / "slicer"
    fake.mkdir()
    (fake / "SlicerConfig.cmake").write_text(FAKE_SLICER)
    (fake / "UseSlicer.cmake").write_text(FAKE_MACROS)
    (fake / "Nothing.cmake").write_text("")
    build, installed = tmp_path / "build", tmp_path / "installed"
    command = [
        "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(build),
        f"-DSlicer_DIR={fake}",
        f"-DCMAKE_INSTALL_PREFIX={installed}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "test: ProgressiveRegistration.py" in done.stdout
    assert "test: ProgressiveRegistrationSceneTest.py" in done.stdout
    done = subprocess.run(
        ["cmake", "--install", str(build)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scripts = installed / "lib" / "qt-scripted-modules"
    for name in listed("MODULE_PYTHON_SCRIPTS") | listed("MODULE_PYTHON_RESOURCES"):
        assert (scripts / name).read_bytes() == (MODULE / name).read_bytes()
    models = {p.name for p in (ROOT / "Resources" / "Models").glob("*.json")}
    assert {p.name for p in (scripts / "ProgressiveRegistrationLib" / "Models").glob("*.json")} == models
    code = (
        f"import sys; sys.path.insert(0, {str(scripts)!r}); import ProgressiveRegistrationLib as lib; "
        "from ProgressiveRegistrationLib import geometry, landmarks, lungs, quality, report; "
        "assert report and quality and lungs and landmarks and geometry; print(lib.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert str(scripts) in done.stdout, done.stderr[-2000:]


# ---------- what Slicer's own CTest runs


def test_scene_test_for_ctest_passes_on_slicer_core():
    pytest.importorskip("slicer", reason="slicer-core is not installed (extra slicer-tests)")
    pytest.importorskip("PySide6", reason="PySide6 is not installed (extra slicer-tests)")
    import importlib.util
    import unittest

    import slicer_harness

    slicer_harness.install()
    slicer_harness.load_module()
    path = MODULE / "Testing" / "Python" / "ProgressiveRegistrationSceneTest.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = unittest.TextTestRunner(stream=sys.stderr).run(
        unittest.defaultTestLoader.loadTestsFromModule(module)
    )
    assert result.testsRun == 2
    assert result.wasSuccessful()


# ---------- what the extensions catalog asks of a new entry


def test_catalog_list_is_met():
    """Licence, screenshots, a description and a tutorial, test data, logic apart, tests, one version."""
    assert "Apache License" in (ROOT / "LICENSE.txt").read_text(encoding="utf-8")[:400]
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    values = dict(re.findall(r'set\((EXTENSION_\w+) "([^"]*)"\)', cmake))
    assert 60 < len(values["EXTENSION_DESCRIPTION"]) < 400
    assert values["EXTENSION_DESCRIPTION"].endswith(".")
    for key in ("EXTENSION_HOMEPAGE", "EXTENSION_ICONURL"):
        assert values[key].startswith("https://")
    assert len(values["EXTENSION_SCREENSHOTURLS"].split()) >= 2
    name = values["EXTENSION_HOMEPAGE"].rsplit("/", 1)[1]
    assert name.startswith("Slicer")  # the repository's name, so that it is found
    tutorial = (MODULE / "README.md").read_text(encoding="utf-8")
    for heading in ("## Install", "## Register", "## Is it good?"):
        assert heading in tutorial
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", tutorial)
    assert len(pictures) >= 3
    for picture in pictures:
        assert (MODULE / picture).resolve().is_file(), picture
    source = (MODULE / "ProgressiveRegistration.py").read_text(encoding="utf-8")
    assert "class ProgressiveRegistrationLogic" in source
    assert "class ProgressiveRegistrationTest" in source
    assert "sample_data.register" in source
    assert "medical device" in source  # what it is not for


def test_catalog_entry_has_the_types_of_the_schema():
    entry = json.loads((ROOT / "ProgressiveRegistration.json").read_text(encoding="utf-8"))
    kinds = {"build_dependencies": list, "tier": int, "enabled": bool}
    for key, value in entry.items():
        assert isinstance(value, kinds.get(key, str)), key
    assert entry["$schema"].startswith("https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/")
    assert entry["scm_url"].startswith("https://")
    assert entry["scm_url"].endswith(".git")
    assert 1 <= entry["tier"] <= 5
    assert entry["scm_url"][: -len(".git")] in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def test_version_is_written_in_one_place():
    """Files that a version could hide in name none: it is the package's."""
    for name in ("CMakeLists.txt", "ProgressiveRegistration/CMakeLists.txt", "ProgressiveRegistration.json"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\d.])0\.\d+\.\d+(?![\d.])", text), name


def test_module_loads_those_modules_first_whose_nodes_its_parameters_name():
    """Slicer gives a module's node classes to Python when it loads that module."""
    owner = {
        "vtkMRMLMarkups": "Markups",
        "vtkMRMLSegmentationNode": "Segmentations",
        "vtkMRMLSequence": "Sequences",
    }
    text = (MODULE / "ProgressiveRegistrationSlicer" / "parameter_node.py").read_text(encoding="utf-8")
    source = (MODULE / "ProgressiveRegistration.py").read_text(encoding="utf-8")
    declared = re.search(r"parent\.dependencies = \[(.*?)\]", source).group(1)
    for prefix, name in owner.items():
        if prefix in text:
            assert f'"{name}"' in declared
