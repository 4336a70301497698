"""The small mistakes that are made on purpose, one at a time, in the source of one module.

A mutant is one node of the syntax tree and what stands in its place: a comparison, a boolean or an
arithmetic operator, a number, a result, a condition, a statement that is left out. Texts are left
alone, as what operators read is not pinned word by word, and so are assertions, annotations and
decorators: no behaviour hangs on them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
CALLS = {"max": "min", "min": "max", "any": "all", "all": "any", "sorted": "list"}
NEGATED_BY_COMPARISON = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
UNTOUCHED = (ast.Assert, ast.JoinedStr, ast.arg, ast.Import, ast.ImportFrom)
UNTOUCHED_FIELDS = ("decorator_list", "annotation", "returns")


@dataclass(frozen=True, slots=True)
class Mutant:
    path: Path
    function: str
    """The outermost function or method that holds it, or empty: then it matters at import."""
    target: str
    """The name that has another value, if it matters at import."""
    first_line: int
    last_line: int
    """Of the statement; of a compound one only the head."""
    name: str
    """What is changed into what, and where; the same while the function stays the same."""
    holder: ast.AST
    field: str
    index: int | None
    replacement: ast.AST

    def apply(self) -> None:
        """Change the tree that this mutant was made from."""
        if self.index is None:
            setattr(self.holder, self.field, self.replacement)
        else:
            getattr(self.holder, self.field)[self.index] = self.replacement
        ast.fix_missing_locations(self.replacement)


def mutants_of(path: Path, tree: ast.Module) -> Iterator[Mutant]:
    seen: Counter[str] = Counter()

    def visit(
        node: ast.AST, scope: str, function: str, target: str, lines: tuple[int, int]
    ) -> Iterator[Mutant]:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef):
            target = name_of(node)
        if isinstance(node, ast.stmt):
            last = node.end_lineno or node.lineno
            body = getattr(node, "body", None)
            lines = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else last)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}" if scope else node.name
        for field, value in ast.iter_fields(node):
            if field in UNTOUCHED_FIELDS:
                continue
            inside = function
            if isinstance(node, ast.FunctionDef) and field == "body":
                inside = function or scope
            for index, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST) or isinstance(child, UNTOUCHED):
                    continue
                at = index if isinstance(value, list) else None
                for replacement in replacements(child, node, at_import=not inside):
                    what = f"{path.stem} {inside or scope}: {brief(child)} -> {brief(replacement)}"
                    seen[what] += 1
                    name = what if seen[what] == 1 else f"{what} #{seen[what]}"
                    own = isinstance(child, ast.stmt)
                    first, last = (child.lineno, child.end_lineno) if own else lines
                    ast.copy_location(replacement, child)
                    yield Mutant(
                        path, inside, target, first, last, name, node, field, at, replacement
                    )
                yield from visit(child, scope, inside, target, lines)

    yield from visit(tree, "", "", "", (1, 1))


def name_of(node: ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def mentions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield each line of a module with the names in it."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name):
                yield node.lineno, name
                if isinstance(node, ast.FunctionDef):
                    yield node.body[-1].lineno, name
            case ast.keyword(arg=str(name)):
                yield node.lineno, name


def brief(node: ast.AST) -> str:
    """Return the node's source on one line; of compound statements the head."""
    return "nothing" if isinstance(node, ast.Pass) else ast.unparse(node).strip().split("\n")[0]


def replacements(node: ast.AST, holder: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                swapped = [*ops[:index], COMPARISONS[type(op)](), *ops[index + 1 :]]
                yield changed(node, ops=swapped)
        # At import `A | B` is a type.
        case ast.BinOp(op=op) if not (at_import and isinstance(op, ast.BitOr)):
            yield changed(node, op=ARITHMETIC[type(op)]())
        case ast.AugAssign(op=op):
            yield changed(node, op=ARITHMETIC[type(op)]())
            yield ast.Pass()
        case ast.BoolOp(op=op):
            yield changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            keywords = [] if name == "sorted" else node.keywords
            yield changed(node, func=ast.Name(CALLS[name], ast.Load()), keywords=keywords)
        case ast.Return(value=value) if value and not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Expr(value=ast.Call()) | ast.Delete() | ast.Raise():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript() | ast.Tuple(), *_]):
            yield ast.Pass()
    is_condition = (
        node is getattr(holder, "test", None) or node in getattr(holder, "ifs", ())
    ) and not isinstance(holder, ast.Assert)
    if is_condition and not is_negated_otherwise(node):
        yield ast.UnaryOp(ast.Not(), copy(node))


def is_negated_otherwise(node: ast.AST) -> bool:
    match node:
        case ast.Compare(ops=[op]):
            return isinstance(op, NEGATED_BY_COMPARISON)
        case ast.UnaryOp(op=ast.Not()):
            return True
    return False


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy with other fields."""
    other = copy(node)
    for field, value in fields.items():
        setattr(other, field, value)
    return other
