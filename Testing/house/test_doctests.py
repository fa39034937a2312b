"""The examples in the docstrings of what people call first."""

from __future__ import annotations

import doctest
import importlib

import pytest

ENGINE = "ProgressiveRegistrationLib."
SHOWN = [
    "registration.register",
    "images.read_image",
    "geometry.Grid.from_image",
    "geometry.Box.grid",
    "field.DisplacementField",
    "transforms.map_points",
    "lungs.find_lungs",
    "landmarks.read_landmarks",
    "pairing.match_landmarks",
    "quality.tre",
    "statistics.statistics",
    "network.model.load_model",
    "phantom.pair.breathing_thorax",
]


def find(name: str):
    """(module, object) of a dotted name in the engine."""
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(ENGINE + ".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        found = module
        for part in parts[n:]:
            found = getattr(found, part)
        return module, found
    raise LookupError(name)


@pytest.mark.parametrize("name", SHOWN)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, shown = find(name)
    finder = doctest.DocTestFinder(recurse=False)
    tests = finder.find(shown, name, module=module, globs=vars(module).copy())
    examples = [test for test in tests if test.examples]
    assert examples, f"{name} shows no example"
    runner = doctest.DocTestRunner(verbose=False)
    said: list[str] = []
    for test in examples:
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
