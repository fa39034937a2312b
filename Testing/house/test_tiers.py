"""``make quick`` leaves out the tests of slow_tests.txt, and that list holds tests that there are."""

from __future__ import annotations

import ast

from tiers import TESTING, choose, is_slow, slow_tests


def test_every_slow_test_exists():
    assert slow_tests()
    for name in sorted(slow_tests()):
        path, _, test = name.partition("::")
        tree = ast.parse((TESTING / path).read_text(encoding="utf-8"))
        assert not test or test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, name


def test_slow_tests_are_marked(request):
    for item in request.session.items:
        assert bool(item.get_closest_marker("slow")) == is_slow(item, slow_tests()), item.nodeid


def test_the_dearest_tests_are_the_slow_ones():
    costs = {"a": 5.0, "b": 1.0, "c": 30.0, "d": 2.0}
    assert choose(costs, 8.0) == ["c"]
    assert choose(costs, 3.5) == ["a", "c"]
    assert choose(costs, 100.0) == []
