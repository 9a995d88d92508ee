"""Mutants of a module: the same source with one small mistake in it, the kind of mistake that people make.

| of | mutants |
|---|---|
| comparison | `<` as `<=` and as `>=`, and so on; `==` as `!=`; `in` as `not in`; `is` as `is not` |
| arithmetic, logic | `+` as `-`, `*` as `/`, `&` as `|`, `and` as `or` and the other way; `not`, `~`, `-` left out |
| number | one more and one less; a fraction a tenth larger; `True` as `False` |
| text | another text: a column, a state, a word of a sentence |
| method | its opposite (`min_horizontal` as `max_horizontal`, `is_null` as `is_not_null`); or not called at all |
| argument | one left out of `select`, `with_columns`, `coalesce`, ...; one element of a tuple, list, set or dict |
| branch | a `when` that never holds; an `otherwise` of null; an `if` that holds when it should not |

No mutant is made of docstrings, annotations, decorators and imports, nor of an addition to a text (always a crash).
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
OPERATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
OPPOSITES = (
    ("min_horizontal", "max_horizontal"), ("any_horizontal", "all_horizontal"), ("rolling_min", "rolling_max"),
    ("cum_min", "cum_max"), ("min", "max"), ("first", "last"), ("any", "all"), ("floor", "ceil"),
    ("is_null", "is_not_null"), ("forward_fill", "backward_fill"), ("head", "tail"),
)  # fmt: skip
OPPOSITE = {name: other for pair in OPPOSITES for name, other in (pair, pair[::-1])}
LEFT_OUT = frozenset({
    "abs", "cast", "ceil", "clip", "drop_nulls", "explode", "fill_nan", "fill_null", "filter", "floor", "forward_fill",
    "over", "round", "shift", "sort", "sqrt", "unique",
})  # fmt: skip
SEVERAL = frozenset({
    "select", "with_columns", "agg", "coalesce", "min_horizontal", "max_horizontal", "any_horizontal", "all_horizontal",
    "filter", "over", "sort", "group_by", "drop", "concat",
})  # fmt: skip
NEVER_MUTATED = ("annotation", "returns", "decorator_list", "type_params")
SHOWN_MAX, AROUND = 100, 40  # characters: of a mutant that is shown whole, and around the difference of a longer one
OTHER_TEXT = "mutated"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: where it is, what stood there and what stands there now."""

    module: str
    where: str  # the function, method or class around it, `<module>` outside of all
    line: int
    statement: tuple[int, int]  # first and last line of the statement around it
    parent: ast.AST = field(repr=False)
    name: str  # field of `parent` that is replaced
    index: int | None  # place in the field where it is a list
    old: ast.AST = field(repr=False)
    new: ast.AST = field(repr=False)

    @property
    def original(self) -> str:
        return _difference(*self._texts())

    @property
    def mutated(self) -> str:
        return _difference(*self._texts()[::-1])

    def _texts(self) -> tuple[str, str]:
        """What stood there and what stands there now; a constant with the expression around it."""
        if not isinstance(self.old, ast.Constant) or not isinstance(self.parent, ast.expr | ast.keyword):
            return _shown(self.old), _shown(self.new)
        value = getattr(self.parent, self.name)
        changed = self.new if self.index is None else [*value[: self.index], self.new, *value[self.index + 1 :]]
        return _shown(self.parent), _shown(_changed(self.parent, **{self.name: changed}))

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.module, self.where, self.original, self.mutated


@dataclass(frozen=True, slots=True)
class Site:
    """A node with its place in the tree."""

    node: ast.AST
    parent: ast.AST
    name: str
    index: int | None
    where: str
    statement: tuple[int, int]


def _children(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    for name, value in ast.iter_fields(node):
        if name in NEVER_MUTATED:
            continue
        if isinstance(value, ast.AST):
            yield value, name, None
        elif isinstance(value, list):
            yield from ((item, name, index) for index, item in enumerate(value) if isinstance(item, ast.AST))


def _is_docstring(site: Site) -> bool:
    return isinstance(site.parent, ast.Expr) and isinstance(site.node, ast.Constant)


def _sites(node: ast.AST, where: str = "<module>", statement: tuple[int, int] = (1, 1)) -> Iterator[Site]:
    """Every node below `node` that may be mutated, in the order of the source."""
    for child, name, index in _children(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            continue
        around, lines = where, statement
        if isinstance(child, ast.stmt):
            compound = isinstance(child, ast.FunctionDef | ast.ClassDef | ast.If | ast.For | ast.With | ast.Try)
            last = child.lineno if compound else (child.end_lineno or child.lineno)
            lines = (child.lineno, last)
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            around = child.name if where == "<module>" else f"{where}.{child.name}"
        site = Site(child, node, name, index, around, lines)
        if not _is_docstring(site):
            yield site
            yield from _sites(child, around, lines)


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _without(items: list[ast.expr], index: int) -> list[ast.expr]:
    return items[:index] + items[index + 1 :]


def _is_text(node: ast.AST) -> bool:
    """Whether a text is added to here: `-` in place of `+` could only crash."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _of_operators(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                for other in COMPARED[type(operator)]:
                    yield _changed(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
        case ast.BinOp() if type(node.op) in OPERATED and not _is_text(node):
            yield _changed(node, op=OPERATED[type(node.op)]())
        case ast.BoolOp():
            yield _changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp():
            yield node.operand


def _of_constants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Constant(value=bool(truth)):
            yield _changed(node, value=not truth)
        case ast.Constant(value=int(number)):
            yield from (_changed(node, value=number + 1), _changed(node, value=number - 1))
        case ast.Constant(value=float(number)):
            yield _changed(node, value=number * 1.1 if number else 1.0)
        case ast.Constant(value=str(text)):
            yield _changed(node, value=OTHER_TEXT if text else OTHER_TEXT[0])


def _of_calls(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.Call):
        return
    function = node.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if called in OPPOSITE:
        yield _changed(
            node, func=_changed(function, **{"attr" if isinstance(function, ast.Attribute) else "id": OPPOSITE[called]})
        )
    if isinstance(function, ast.Attribute) and called in LEFT_OUT:
        yield function.value
    if called in SEVERAL and len(node.args) + len(node.keywords) > 1:
        yield from (_changed(node, args=_without(node.args, place)) for place in range(len(node.args)))
        yield from (
            _changed(node, keywords=node.keywords[:place] + node.keywords[place + 1 :])
            for place in range(len(node.keywords))
        )
    if called == "when":
        yield _changed(node, args=[ast.Constant(False)], keywords=[])
    if called == "otherwise" and not (isinstance(node.args[0], ast.Constant) and node.args[0].value is None):
        yield _changed(node, args=[ast.Constant(None)])


def _of_displays(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Tuple(ctx=ast.Load()) | ast.List(ctx=ast.Load()) | ast.Set() if len(node.elts) > 1:
            yield from (_changed(node, elts=_without(node.elts, place)) for place in range(len(node.elts)))
        case ast.Dict() if len(node.keys) > 1:
            for place in range(len(node.keys)):
                keys = node.keys[:place] + node.keys[place + 1 :]
                yield _changed(node, keys=keys, values=_without(node.values, place))


def _of_branches(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.If() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield _changed(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.comprehension() if node.ifs:
            yield from (_changed(node, ifs=_without(node.ifs, place)) for place in range(len(node.ifs)))


def _new_nodes(site: Site) -> Iterator[ast.AST]:
    if isinstance(site.parent, ast.Subscript) and site.name == "slice" and isinstance(site.node, ast.Tuple):
        return  # parameters of a type
    if isinstance(site.parent, ast.JoinedStr) and not isinstance(site.node, ast.Constant | ast.FormattedValue):
        return
    if isinstance(site.node, ast.JoinedStr) and site.name == "format_spec":
        return
    for kind in (_of_operators, _of_constants, _of_calls, _of_displays, _of_branches):
        yield from kind(site.node)


def _shown(node: ast.AST) -> str:
    """The source of a node; of an `if` only its condition."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node)))


def _shared(text: str, other: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))


def _difference(text: str, other: str) -> str:
    """What `text` has that `other` has not, with the words around it; all of it where both are short.

    >>> _difference("coalesce(a.filter(b), c)", "coalesce(c)"), _difference("xy" * 60 + "1", "xy" * 60 + "2")
    ('coalesce(a.filter(b), c)', '... xyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxy1')
    """
    if max(len(text), len(other)) <= SHOWN_MAX:
        return text
    same = _shared(text, other)
    back = min(_shared(text[::-1], other[::-1]), min(len(text), len(other)) - same)
    first, last = max(0, same - AROUND), min(len(text), len(text) - back + AROUND)
    return ("... " if first else "") + text[first:last] + (" ..." if last < len(text) else "")


def mutants(module: str, tree: ast.Module) -> list[Mutant]:
    """Every mutant of `tree`, in the order of the source; `apply` puts one of them in place.

    >>> [found.mutated for found in mutants("m", ast.parse("def f(x): return x.sort() <= 5"))]
    ['x.sort() < 5', 'x.sort() > 5', 'x', 'x.sort() <= 6', 'x.sort() <= 4']
    """
    return [
        Mutant(
            module, site.where, getattr(site.node, "lineno", site.statement[0]), site.statement,
            site.parent, site.name, site.index, site.node, new,
        )
        for site in _sites(tree)
        for new in _new_nodes(site)
    ]  # fmt: skip


def apply(mutant: Mutant) -> None:
    """Change the tree that `mutant` was made of. There is no way back: call it in a process of its own."""
    if mutant.index is None:
        setattr(mutant.parent, mutant.name, mutant.new)
    else:
        getattr(mutant.parent, mutant.name)[mutant.index] = mutant.new
