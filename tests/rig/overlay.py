"""What the pack touches of ComfyUI, laid over a table of the names and signatures of one ComfyUI, without running it.

`python tests/rig/overlay.py COMFYUI_FOLDER` writes tests/golden/comfyui_newest.json again from a ComfyUI at hand, and
says what would break there. The table has what we touch and nothing else: facts, no code.
"""
import argparse
import ast
import inspect
import json
import runpy
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from pathlib import Path

import touch_points

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "golden" / "comfyui_newest.json"
FLOORS = ("networks", "backbones", "host", "nodes")    # networks call what ComfyUI hands them
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "comfyui_version", "folder_paths", "latent_preview",
        "node_helpers", "server"}
HOMES = {"comfy_api.latest.io": "comfy_api.latest._io", "comfy_api.latest.ui": "comfy_api.latest._ui",
         "comfy_api.latest.InputImpl": "comfy_api.latest._input_impl.video_types"}     # whence ComfyUI gives them out
Parameter = inspect.Parameter
Signature = str | None      # of what can be called; of a class what its instances are made from


@dataclass(frozen=True)
class Touch:
    """`target`: dotted, from the module. `given`: how it is called, if it is; `bound`: on an object, not on the class;
    `partly`: with starred arguments, or some still to come."""
    where: str
    target: str
    given: tuple[int, tuple[str, ...]] | None = None
    bound: bool = False
    partly: bool = False


# ---------------------------------------------------------------- what we touch

def sources(root: Path) -> dict[str, ast.Module]:
    paths = [root / "__init__.py", *(path for floor in FLOORS for path in sorted((root / floor).rglob("*.py")))]
    return {path.relative_to(root).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths if path.is_file()}


@cache
def touches(root: Path = ROOT) -> list[Touch]:
    """Every name of ComfyUI's that our source has: imported, and on its objects as touch_points says."""
    return [touch for path, tree in sources(root).items() for touch in touches_of(path, tree)]


def targets() -> set[str]:
    """All that is asked of a ComfyUI, dotted."""
    return {touch.target for touch in touches()} | {*touch_points.STAND_INS.values(), *touch_points.ORDERS.values()}


def touches_of(path: str, tree: ast.Module) -> Iterator[Touch]:
    names = {}
    for node in ast.walk(tree):
        for alias, target, whole in imported(node):
            names[alias] = target
            yield Touch(f"{path}:{node.lineno}", whole)
    points = touch_points.POINTS.get(path, {})
    inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    called |= {id(node.args[0]): node for node in called.values() if ast.unparse(node.func) == "partial" and node.args}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Name, ast.Attribute)):
            continue
        point = points.get(ast.unparse(node)) if points else None
        target = point or (dotted(node, names) if node not in inner else None)
        if target:
            call, (*_, kind, name) = called.get(id(node)), ("", *target.split("."))
            given, partly = shape(call, node) if call else (None, False)
            on_an_object = point is not None and name[0].islower() and kind[:1].isupper()
            yield Touch(f"{path}:{node.lineno}", target, given, on_an_object, partly)


def imported(node: ast.AST) -> Iterator[tuple[str, str, str]]:
    """(our name, what it stands for, what is imported)."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] in HOST:
                yield (alias.asname, alias.name, alias.name) if alias.asname else (
                    alias.name.split(".")[0], alias.name.split(".")[0], alias.name)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module.split(".")[0] in HOST:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}", f"{node.module}.{alias.name}"


def dotted(node: ast.AST, names: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    before = dotted(node.value, names) if isinstance(node, ast.Attribute) else None
    return f"{before}.{node.attr}" if before else None


def shape(call: ast.Call, node: ast.AST) -> tuple[tuple[int, tuple[str, ...]], bool]:
    """How many arguments and which keywords, and whether that is only a part of them."""
    arguments = call.args if call.func is node else call.args[1:]
    plain = [argument for argument in arguments if not isinstance(argument, ast.Starred)]
    keywords = tuple(keyword.arg for keyword in call.keywords if keyword.arg)
    partly = len(plain) < len(arguments) or len(keywords) < len(call.keywords) or call.func is not node
    return (len(plain), keywords), partly


# ---------------------------------------------------------------- what a ComfyUI has

def table_of(comfyui: Path) -> dict:
    """The table of what we touch of the ComfyUI in that folder."""
    files: dict[str, dict] = {}
    kept: dict[str, set[str]] = {}
    for target in sorted(targets()):
        file, name = placed(target, lambda path: (comfyui / path).is_file())
        if file is not None:
            if file not in files:
                files[file] = names_in(ast.parse((comfyui / file).read_text("utf-8")))
            kept.setdefault(file, set()).update(accumulate(name.split("."), "{}.{}".format))
    version = runpy.run_path(str(comfyui / "comfyui_version.py"))["__version__"]
    return {"version": version, "unread": [], "files": {
        file: {"names": {name: names[name] for name in sorted(kept[file] & names.keys())}}
        for file, names in sorted(files.items())}}


def placed(target: str, there) -> tuple[str | None, str]:
    """(the file of its module, the name in it) of a dotted target; `there` tells whether a file is."""
    for given_out, home in HOMES.items():
        if target == given_out or target.startswith(f"{given_out}."):
            target = home + target.removeprefix(given_out)
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        module = "/".join(parts[:length])
        file = next((path for path in (f"{module}.py", f"{module}/__init__.py") if there(path)), None)
        if file:
            return file, ".".join(parts[length:])
    return None, target


def names_in(tree: ast.Module) -> dict[str, Signature]:
    """Every name of a module, dotted below its classes, what they inherit from classes of the same file included."""
    found: dict[str, Signature] = {}
    collect(tree.body, "", found)
    return found


def collect(body: Iterable[ast.AST], prefix: str, found: dict[str, Signature]) -> None:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            collect_function(node, prefix, found)
        elif isinstance(node, ast.ClassDef):
            collect_class(node, prefix, found)
        elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With | ast.For):
            for part in ("body", "handlers", "orelse", "finalbody"):
                collect(getattr(node, part, ()), prefix, found)
        else:
            found |= {prefix + name: None for name in bound_by(node)}


def bound_by(node: ast.AST) -> list[str]:
    """The names that a statement makes; of ComfyUI's command line those of its switches, below `args`."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.args:
        switch = node.value.args[0]
        named = isinstance(switch, ast.Constant) and str(switch.value).startswith("--")
        return ["args." + switch.value.removeprefix("--").replace("-", "_")] if named else []
    return [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]


def collect_function(node: ast.FunctionDef | ast.AsyncFunctionDef, prefix: str, found: dict[str, Signature]) -> None:
    """With what it sets on `self`."""
    kinds = {ast.unparse(decorator) for decorator in node.decorator_list}
    found[prefix + node.name] = None if "property" in kinds else written(node.args, "classmethod" in kinds)
    for own in ast.walk(node) if prefix else ():
        if isinstance(own, ast.Attribute) and isinstance(own.ctx, ast.Store) and \
                isinstance(own.value, ast.Name) and own.value.id == "self":
            found.setdefault(prefix + own.attr, None)


def collect_class(node: ast.ClassDef, prefix: str, found: dict[str, Signature]) -> None:
    name = prefix + node.name
    inherited: dict[str, Signature] = {}
    for base in map(ast.unparse, reversed(node.bases)):
        home = next((place for place in (prefix + base, base) if place in found and place != name), None)
        if home:
            inherited |= {name + other.removeprefix(home): sign for other, sign in found.items()
                          if other == home or other.startswith(f"{home}.")}
    collect(node.body, f"{name}.", found)
    own = {other: sign for other, sign in found.items() if other.startswith(f"{name}.")}
    made = inherited.get(name) or "(*args, **kwargs)"       # from another module, or of no kind of its own
    if init := own.get(f"{name}.__init__"):
        made = "(" + init[1:].removeprefix("self").removeprefix(", ")
    elif any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
        made = "(" + ", ".join(ast.unparse(line.target) + ("=..." if line.value else "") for line in fields) + ")"
    found |= {**inherited, **own, name: made}


def written(arguments: ast.arguments, drop_first: bool = False) -> str:
    """A signature without annotations and values: `(self, x, y=..., **kwargs)`."""
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [default and ast.Constant(...) for default in arguments.kw_defaults]
    if drop_first:
        arguments.args = arguments.args[1:]
    return f"({ast.unparse(arguments)})"


def signature(text: str) -> inspect.Signature:
    arguments = ast.parse(f"def f{text}: ...").body[0].args
    plain, first = [*arguments.posonlyargs, *arguments.args], -len(arguments.defaults)
    found = [Parameter(argument.arg, Parameter.POSITIONAL_OR_KEYWORD,
                       default=Parameter.empty if place < len(plain) + first else ...)
             for place, argument in enumerate(plain)]
    found += [Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL)] if arguments.vararg else []
    found += [Parameter(argument.arg, Parameter.KEYWORD_ONLY, default=... if default else Parameter.empty)
              for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    found += [Parameter(arguments.kwarg.arg, Parameter.VAR_KEYWORD)] if arguments.kwarg else []
    return inspect.Signature(found)


# ---------------------------------------------------------------- one laid over the other

def problems(table: Mapping, without: Collection[str] = (), root: Path = ROOT) -> list[str]:
    """What would break on that ComfyUI, a line each. `without`: what it need not have."""
    found = []
    for where, target, misfit in asked(root):
        sign, gone = looked_up(table, target)
        says = gone if target not in without else ""
        if sign and (why := misfit(sign)):
            says = f"{target}{sign}: {why}"
        if says:
            found.append(f"{where}: {says}")
    return list(dict.fromkeys(found))


def asked(root: Path) -> Iterator[tuple[str, str, Callable[[str], str | None]]]:
    """(where, what is asked of ComfyUI there, what says why its signature does not do)."""
    for touch in touches(root):
        yield touch.where, touch.target, partial(call_misfit, touch)
    for (path, ours), target in touch_points.STAND_INS.items():
        yield path, target, partial(stand_in_misfit, root / path, ours)
    for (path, ours), target in touch_points.ORDERS.items():
        yield path, target, partial(order_misfit, root / path, ours)


def looked_up(table: Mapping, target: str) -> tuple[Signature, str]:
    """(its signature, what is said where it is not there)."""
    file, name = placed(target, {*table["files"], *table["unread"]}.__contains__)
    if file is None:
        return None, f"{target} lies in a module that the table of {table['version']} does not have"
    names = table["files"].get(file, {}).get("names")
    if names is None or not name or name.endswith("__"):
        return None, ""
    return names.get(name), "" if name in names else f"{file} of ComfyUI {table['version']} has no {name}"


def call_misfit(touch: Touch, sign: str) -> str | None:
    return why_not(signature(sign), touch) if touch.given else None


def stand_in_misfit(path: Path, ours: str, sign: str) -> str | None:
    own = signature(written(function_at(path, ours).args))
    return None if takes(own, signature(sign)) else f"{ours}{own} does not take all that it does"


def order_misfit(path: Path, ours: str, sign: str) -> str | None:
    names, theirs = constant_at(path, ours), tuple(signature(sign).parameters)[1:]
    return None if theirs[:len(names)] == names else f"{ours} is {names}"


def why_not(sign: inspect.Signature, touch: Touch) -> str | None:
    count, keywords = touch.given
    try:
        (sign.bind_partial if touch.partly else sign.bind)(*[None] * (count + touch.bound), **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return None


def takes(ours: inspect.Signature, theirs: inspect.Signature) -> bool:
    """Whether ours can be called as theirs is: what must be given by place, the rest by name; or all by name."""
    named = [parameter for parameter in theirs.parameters.values() if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]
    first = [parameter.name for parameter in named if parameter.default is Parameter.empty]
    first = first if first[:1] == ["self"] else ["executor", *first]
    rest = {parameter.name: None for parameter in named if parameter.default is not Parameter.empty}
    own = [*ours.parameters][:1] != ["self"] and first[0] == "self" and "executor" not in ours.parameters
    for count in (len(first), 1):
        try:
            ours.bind(*first[own:count], **rest, **dict.fromkeys(first[count:]))
            return True
        except TypeError:
            continue
    return False


def function_at(path: Path, name: str) -> ast.FunctionDef:
    """The function of that name, dotted below classes and functions."""
    node: ast.AST = ast.parse(path.read_text("utf-8"))
    for part in name.split("."):
        node = next(child for child in ast.walk(node) if child is not node and getattr(child, "name", "") == part)
    assert isinstance(node, ast.FunctionDef), name
    return node


def constant_at(path: Path, name: str) -> tuple:
    """What is assigned to that name, dotted below a class."""
    kind, _, own = name.rpartition(".")
    body = next(node.body for node in ast.walk(ast.parse(path.read_text("utf-8")))
                if getattr(node, "name", "") == kind or (not kind and isinstance(node, ast.Module)))
    return next(ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign | ast.AnnAssign)
                and node.value is not None
                and ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) == own)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path, metavar="COMFYUI_FOLDER", help="the newest version's")
    new = table_of(parser.parse_args().comfyui)
    TABLE.write_text(json.dumps(new, indent=1) + "\n", "utf-8")
    sys.exit("\n".join(problems(new, touch_points.GUARDED)) or 0)
