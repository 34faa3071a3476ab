"""The pack's own source as the house rules read it: rooms, files parsed once, imports and calls."""
import ast
import functools
from collections.abc import Iterator
from pathlib import Path

FLOORS = ("techniques", "networks", "backbones", "pipelines", "host", "nodes")
BESIDE = ("scripts", "training", "experiments", "benchmarks", "tests/rig")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """One Python file: its path from the root, its floor ("" outside the four), its tree."""

    def __init__(self, root: Path, path: Path):
        self.path = path.relative_to(root)
        self.floor = self.path.parts[0] if self.path.parts[0] in FLOORS else ""
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    def at(self, node: ast.AST, says: str) -> str:
        return f"{self.path.as_posix()}:{getattr(node, 'lineno', 1)}: {says}"

    def imports(self) -> Iterator[tuple[ast.stmt, tuple[str, ...], bool]]:
        """(statement, dotted parts, whether it is a module of the pack) of every import, wherever it stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, tuple(alias.name.split(".")), False) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = tuple(node.module.split(".")) if node.module else ()
                package = self.path.parts[:-1]
                module = package[:len(package) - node.level + 1] + module if node.level else module
                for alias in node.names:  # a name can be a module: from ..techniques import rope
                    yield node, module + (alias.name,), node.level > 0

    def calls(self, inside: ast.AST | None = None) -> Iterator[ast.Call]:
        return (node for node in ast.walk(inside or self.tree) if isinstance(node, ast.Call))


def name_of(function: ast.expr) -> str:
    """The last name of a dotted expression: `io.Float.Input` -> Input."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def root_of(expression: ast.expr) -> str:
    """The first name of a dotted expression: `comfy.ldm.x` -> comfy."""
    while isinstance(expression, ast.Attribute | ast.Subscript):
        expression = expression.value
    return getattr(expression, "id", "")


@functools.cache
def read(root: Path, path: Path) -> Source:
    """Parsed once, whatever the number of rules."""
    return Source(root, path)


def sources(root: Path, *folders: str) -> list[Source]:
    return [read(root, path) for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def floors(root: Path) -> list[Source]:
    return sources(root, *FLOORS) + [read(root, path) for path in [root / "__init__.py"] if path.is_file()]


def beside(root: Path) -> list[Source]:
    """What lies beside the floors and may use them: commands, training, experiments, benchmarks, the tests' rig."""
    return sources(root, *BESIDE)
