"""What mutates the rules is itself tested: which mistakes it makes, where it says they are, and that none is lost."""

import ast
import copy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.guardrails import sources
from tests.mutation.judged import gone, judged
from tests.mutation.mutants import apply, mutants
from tests.mutation.reach import ROOT, Reach
from tests.mutation.runner import KILLED, SURVIVED, ordered


def _of(source: str) -> list[str]:
    return [found.mutated for found in mutants("m", ast.parse(source))]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("a < b", ["a <= b", "a >= b"]),
        ("a == b", ["a != b"]),
        ("a in b", ["a not in b"]),
        ("a + b", ["a - b"]),
        ("a | b", ["a & b"]),
        ("a or b", ["a and b"]),
        ("~a", ["a"]),
        ("f(3)", ["f(4)", "f(2)"]),
        ("f(2.0)", ["f(2.2)"]),
        ("f(0.0)", ["f(1.0)"]),
        ("f(True)", ["f(False)"]),
        ("f('x')", ["f('mutated')"]),
        ("a.is_null()", ["a.is_not_null()"]),
        ("a.fill_null(b)", ["a"]),
        ("select(a, b)", ["select(b)", "select(a)"]),
        ("(a, b)", ["(b,)", "(a,)"]),
        ("{a: b, c: d}", ["{c: d}", "{a: b}"]),
        ("when(a).then(b)", ["when(False)"]),
        ("x.otherwise(b)", ["x.otherwise(None)"]),
        ("if a: pass", ["if not a"]),
        ("[x for x in y if x]", ["for x in y"]),
    ],
)
def test_each_kind_of_mistake_is_made(source: str, wanted: list[str]) -> None:
    assert [text.strip() for text in _of(source)] == wanted


@pytest.mark.parametrize(
    "source",
    [
        "'''says what it does'''",
        "def f(a: 'int') -> 'int': return a",
        "@g(1)\ndef f(a): return a",
        "from a import b",
        "x: dict[str, int] = y",
    ],
)
def test_what_says_nothing_about_behaviour_is_left_alone(source: str) -> None:
    assert _of(source) == []


def test_a_text_is_not_subtracted_from() -> None:
    assert _of("a + 'x'") == ["a + 'mutated'"]


def test_a_mutant_knows_its_function_and_its_line_and_is_put_in_place() -> None:
    tree = ast.parse("class C:\n    def f(self, a):\n        return a < 1\n")
    found = mutants("m", tree)[0]
    assert (found.where, found.line, found.original, found.mutated) == ("C.f", 3, "a < 1", "a <= 1")
    apply(found)
    assert "a <= 1" in ast.unparse(tree)


def test_every_mutant_of_every_module_compiles() -> None:
    for source in sources([]):
        for number in range(0, len(mutants(source.name, source.tree)), 150):
            tree = copy.deepcopy(source.tree)
            apply(mutants(source.name, tree)[number])
            compile(ast.fix_missing_locations(tree), source.name, "exec")


def test_no_judgement_is_of_a_mutant_that_is_gone_and_each_says_why() -> None:
    assert gone(judged(), [mutant for source in sources([]) for mutant in mutants(source.name, source.tree)]) == []


def test_a_judgement_without_a_reason_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "judged.toml"
    file.write_text("[[equivalent]]\nmodule = 'm'\nwhere = 'f'\noriginal = 'a'\nmutated = 'b'\nwhy = ' '\n")
    with pytest.raises(ValueError, match="must say why"):
        judged(file)


def test_tests_of_the_module_come_first_and_then_the_quick_ones_until_time_is_up() -> None:
    (source,) = sources(["ladder"])
    mutant = mutants(source.name, source.tree)[-1]
    own, quick, slow = "tests/guardrails/test_ladder.py::a", "tests/guardrails/test_caps.py::b", "guardrails/x.py::c"
    line = dict.fromkeys(range(*mutant.statement), ()) | {mutant.line: (slow, quick, own)}
    reach = Reach({"guardrails/ladder.py": line}, {own: 2.0, quick: 1.0, slow: 3.0, "elsewhere": 0.1})
    assert ordered(mutant, source.file, reach, 9.0) == [own, quick, slow]
    assert ordered(mutant, source.file, reach, 5.0) == [own, quick]


def test_what_runs_at_import_is_judged_by_the_tests_of_its_module_too() -> None:
    """A test that reads a table of the module runs none of its lines."""
    reads, runs, other = ("tests/guardrails/test_caps.py::a", "tests/guardrails/test_decide.py::b", "elsewhere")
    reach = Reach({"guardrails/caps.py": {1: (), 9: (runs,)}}, dict.fromkeys((reads, runs, other), 1.0))
    assert reach.of("guardrails/caps.py", 1, 1) == {reads, runs}
    assert reach.of("guardrails/caps.py", 9, 9) == {runs}


def test_a_mutant_dies_of_a_test_that_sees_it_and_lives_where_none_does() -> None:
    """The doctest of `severity` sees another order of the ladder; it does not see other words."""
    code = """
import ast
from tests.mutation.guardrails import sources
from tests.mutation.mutants import mutants
from tests.mutation.reach import ROOT, Reach
from tests.mutation.runner import judged_by_tests

(source,) = sources(["ladder"])
test = "guardrails/ladder.py::guardrails.ladder.severity"
for place in ("(NORMAL, CAUTIOUS, REDUCE_ONLY, HALTED)", "'the caps apply'"):
    mutant = next(found for found in mutants(source.name, source.tree) if ast.unparse(found.old) == place)
    print(judged_by_tests(mutant, source.tree, source.file, [test], Reach({}, {test: 0.1}))[0])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [KILLED, SURVIVED]
