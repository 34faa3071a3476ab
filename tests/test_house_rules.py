"""The house rules as a test: it reads the source with `ast` and needs neither torch nor ComfyUI.

Each rule is a function from a repository root to the lines that break it. It must find nothing here, and must find
something in each small bad house of `bad_houses.py`, so that a rule which sees nothing cannot pass.
"""
import ast
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import BESIDE, FLOORS, Function, Source, beside, floors, name_of, read, root_of, sources

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {"techniques": {"techniques"}, "networks": {"techniques", "networks"},
              "backbones": {"techniques", "networks", "backbones"},
              "pipelines": {"techniques", "networks", "pipelines"},
              "host": {"techniques", "backbones", "pipelines", "host"},
              "nodes": {"techniques", "backbones", "pipelines", "host", "nodes"}}
NOUNS = {"timeline", "layout", "visibility", "rope", "kv_cache", "technique", "speaker_masks", "sparse_blocks",
         "attention_guidance", "protocols", "reference_tokens", "closed_span"}
SHARED = {"techniques": NOUNS, "nodes": {"sockets", "input_checks"}}    # what a floor's own files may share
NETWORKS_IN = {"headless", "metrics"}   # the rooms of the pipelines that know networks
FAMILY_FLOORS = ("networks", "backbones")   # whose folders do not know each other, `audio` aside
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "nodes", "node_helpers",
        "execution", "latent_preview"}
LIBRARIES = {"techniques": {"torch", "einops", "numpy"}, "networks": {"torch", "einops", "numpy", "safetensors"},
             "pipelines": {"torch", "einops", "numpy", "av", "safetensors", "PIL", "cv2"}}
ROOM_LIBRARIES = {"techniques/audio": {"scipy", "librosa"}, "techniques/spoilt_pictures.py": {"cv2"},
                  "pipelines/metrics": {"scipy"}, "pipelines/headless": {"diffusers"}}    # beside their floor's
WITHOUT_HOST = ("techniques", "networks", "pipelines")
HEAVY = {"transformers", "diffusers", "librosa", "cv2", "numba", "sklearn", "scipy", "skimage", "kornia", "matplotlib"}
CALLS_AT_IMPORT = {"getLogger", "compile", "field", "frozenset", "tuple", "dict", "set", "range", "namedtuple", "len"}
PATCHER_DOORS = re.compile(r"add_(wrapper|callback|object_patch|weight_wrapper|patches|hook_patches)\w*|set_model_\w+|"
                           r"set_(injections|attachments|additional_models)|patch_model|model_patches_to")
SCHEMA_FIELDS = {"node_id", "display_name", "category", "inputs", "outputs", "hidden", "description", "is_input_list",
                 "is_output_node", "is_deprecated", "is_experimental", "is_api_node", "not_idempotent", "enable_expand"}
FILE_LINES, FUNCTION_LINES, EXECUTE_LINES = 400, 60, 15
NODES_KNOW = {           # of the floors below host, beside the rooms of the families: how a model is found and loaded,
    "backbones": ("attach", "find", "recipes", "backbone.Backbone", "images", "socket_values", "speech_guider",
                  "high_low_guider", "take_checks", "weight_loading",      # plan and story, what is reported
                  "student_files"),
    "pipelines": ("take.driving", "take.driving_story", "take.plan", "take.plan_view", "take.settings",
                  "take.story", "metrics", "training")}
FINDS_THE_PACK = {       # files that put folders on sys.path, so that commands find the pack and each other
    "scripts/lib/pack.py", "scripts/lib/environment.py", "scripts/test.py", "scripts/make_workflows.py",
    "training/__init__.py", "experiments/__init__.py", "benchmarks/in_process.py", "benchmarks/run.py",
    "tests/rig/check_golden.py", "tests/rig/golden.py", "tests/rig/translations.py", "tests/rig/forked_server.py",
    "tests/rig/neighbours.py", "tests/rig/comfy_cli.py", "tests/rig/reliability.py"}
ASSIGNED = {            # what is assigned to outside the pack, and nowhere else
    "scripts/lib/pack.py": ("sys.path", "sys.modules"),             # the pack under its name
    "backbones/train_host.py": ("comfy.model_management.in_training",),     # as core's own trainer says that it trains
    "scripts/lib/environment.py": ("comfy.cli_args.args.",),        # ComfyUI in this process, on CPU
    "benchmarks/in_process.py": ("comfy.cli_args.args.",),
    "tests/rig/golden.py": ("sys.modules",),                        # itself under its name, for what it imports
    "tests/rig/killed_streams.py": ("plan.CHUNK_SECONDS",),         # a take of a second has chunks to be killed in
    "tests/rig/killed_takes.py": ("os.link", "shutil.copyfileobj", "safe_files.BLOCK_BYTES")}   # kills in them

Declaration = ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.ClassDef | ast.Pass | Function


# ---------------------------------------------------------------- the import law

def import_law(root: Path):
    """The stairs only go down, and ComfyUI is known only above them."""
    for source in floors(root):
        for node, parts, ours in source.imports():
            if parts[0] == "lodestar":
                yield source.at(node, "the pack imports itself by a relative path")
            elif not source.floor:
                continue
            elif not ours and parts[0] in HOST and source.floor in WITHOUT_HOST:
                yield source.at(node, f"{source.floor} never know ComfyUI ({parts[0]})")
            elif not ours and not allowed_library(source, parts[0]):
                yield source.at(node, f"{source.floor} may use {sorted(LIBRARIES[source.floor])}, not {parts[0]}")
            elif ours and not may_import(root, source, parts):
                yield source.at(node, f"{source.floor} may not import {'.'.join(parts)}")


def may_import(root: Path, source: Source, parts: tuple[str, ...]) -> bool:
    """Whether a file of a floor may know a module of the pack, given from the root."""
    floor, room = parts[0], parts[1] if len(parts) > 1 and (root / parts[0] / parts[1]).is_dir() else ""
    own_room = source.path.parts[1] if len(source.path.parts) > 2 else ""
    if floor not in MAY_IMPORT[source.floor]:
        return False
    if source.floor == "nodes" and floor in NODES_KNOW and len(parts) > 1:
        module = ".".join(parts[1:]) + "."
        family = floor in FAMILY_FLOORS and room != ""
        return family or any(module.startswith(f"{known}.") for known in NODES_KNOW[floor])
    if floor == "networks" and source.floor == "pipelines":
        return own_room in NETWORKS_IN
    if floor == "techniques" and source.floor == "networks":
        return parts[1] in NOUNS
    if floor != source.floor or source.path.name == "__init__.py":
        return True
    if floor in FAMILY_FLOORS:
        return room in ("", own_room, "audio", "wan")    # wan: what those on ComfyUI's WanModel are built on
    return floor not in SHARED or parts[1] in SHARED[floor] or (room != "" and room == own_room)


def allowed_library(source: Source, module: str) -> bool:
    if source.floor not in LIBRARIES or module in sys.stdlib_module_names or module == "__future__":
        return True
    rooms = (source.path.parent, source.path)
    return module in LIBRARIES[source.floor].union(*(ROOM_LIBRARIES.get(room.as_posix(), set()) for room in rooms))


def lazy_imports(root: Path):
    """Heavy libraries are imported where they are used; importing the pack stays cheap."""
    for source in floors(root):
        inside = {node for function in ast.walk(source.tree) if isinstance(function, Function)
                  for node in ast.walk(function)}
        for node, parts, ours in source.imports():
            if not ours and parts[0] in HEAVY and node not in inside:
                yield source.at(node, f"{parts[0]} is imported inside the function that needs it")


def no_import_work(root: Path):
    """Module and class bodies hold names, not work: docstring, imports, plain values, functions, classes."""
    for source in floors(root):
        scopes = [source.tree, *(node for node in source.tree.body if isinstance(node, ast.ClassDef))]
        for node in (statement for scope in scopes for statement in scope.body):
            if not is_declaration(node, source):
                yield source.at(node, "runs at import")
            for call in source.calls(ast.Tuple(executed_now(node), ast.Load())):
                name = name_of(call.func)
                if name not in CALLS_AT_IMPORT and not name[:1].isupper() and not isinstance(node, ast.If):
                    yield source.at(call, f"{name}() is called at import")


def is_declaration(node: ast.stmt, source: Source) -> bool:
    if isinstance(node, ast.If):  # the one guard lets the lower floors live without ComfyUI
        guard = ast.unparse(node.test)
        return guard == "TYPE_CHECKING" or (source.path.name == "__init__.py" and not source.floor
                                            and guard == "find_spec('comfy_api')")
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, Declaration)


def executed_now(node: ast.stmt) -> list[ast.expr]:
    """The expressions of a statement that run when the module is imported, default values included."""
    if isinstance(node, Function):
        return [*node.args.defaults, *(value for value in node.args.kw_defaults if value)]
    return [node.value] if isinstance(node, ast.Assign | ast.AnnAssign) and node.value else []


# ---------------------------------------------------------------- size and manners

def size(root: Path):
    for path in sorted(path for folder in {*FLOORS, *BESIDE, "tests", "web"} - {"tests/rig"}
                       for path in (root / folder).rglob("*") if path.suffix in (".py", ".js", ".mjs")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            yield f"{path.relative_to(root).as_posix()}: {lines} lines, the limit is {FILE_LINES}"
    for source in {*floors(root), *beside(root), *sources(root, "tests")}:
        for node in (node for node in ast.walk(source.tree) if isinstance(node, Function)):
            if node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                yield source.at(node, f"{node.name} is longer than {FUNCTION_LINES} lines")
            if source.floor == "nodes" and node.name == "execute" and \
                    node.end_lineno - node.body[0].lineno + 1 > EXECUTE_LINES:
                yield source.at(node, f"execute is longer than {EXECUTE_LINES} lines: the work is a lower floor's")


def module_headers(root: Path):
    for source in {*floors(root), *beside(root), *sources(root, "tests")}:
        if not ast.get_docstring(source.tree):
            yield source.at(source.tree, "no module header: which paper or what, and what we changed")


def manners(root: Path):
    """No `global`, nothing outside the pack assigned to, one logger; no print on the floors; sys.path is left alone."""
    for source in [*floors(root), *beside(root)]:
        imported = {parts[-1] if isinstance(node, ast.ImportFrom) else parts[0]
                    for node, parts, ours in source.imports() if not ours}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Global):
                yield source.at(node, "run state is an argument, never a module's")
            elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
                if source.path.as_posix() not in FINDS_THE_PACK:
                    yield source.at(node, "sys.path is not ours")
            elif isinstance(node, ast.Assign | ast.AugAssign | ast.Delete):
                yield from (source.at(node, f"{target} belongs to somebody else") for target in foreign(node, imported)
                            if not target.startswith(ASSIGNED.get(source.path.as_posix(), ("\0",))))
        yield from manners_of_calls(source, imported)


def manners_of_calls(source: Source, imported: set[str]) -> Iterator[str]:
    for call in source.calls():
        if name_of(call.func) == "print" and source.floor:
            yield source.at(call, "print: use the logger")
        elif name_of(call.func) == "setattr" and root_of(call.args[0]) in imported:
            yield source.at(call, f"{ast.unparse(call.args[0])} belongs to somebody else")
        elif name_of(call.func) == "getLogger" and ast.unparse(call.args[0]) != "'lodestar'":
            yield source.at(call, 'the one logger is logging.getLogger("lodestar")')


def foreign(node: ast.Assign | ast.AugAssign | ast.Delete, imported: set[str]) -> list[str]:
    """What it assigns to that is part of something imported."""
    targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
    return [ast.unparse(target) for target in targets
            if isinstance(target, ast.Attribute | ast.Subscript) and root_of(target) in imported]


def exceptions(root: Path):
    """`except` names its exception and does something useful."""
    broad = {"Exception", "BaseException"}
    for source in [*floors(root), *beside(root)]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler):
                caught = {name_of(part) for part in ast.walk(node.type)} if node.type else broad
                if caught & broad:
                    yield source.at(node, "except names what it expects")
                elif all(isinstance(line, ast.Pass) for line in node.body):
                    yield source.at(node, "except does something useful")
            elif isinstance(node, ast.Call) and name_of(node.func) == "suppress" and \
                    broad & {name_of(argument) for argument in node.args}:
                yield source.at(node, "suppress names what it expects")


def patcher_door(root: Path):
    """Only backbones/attach.py touches a ModelPatcher."""
    for source in floors(root):
        for call in source.calls():
            if source.path.as_posix() == "backbones/attach.py" or not isinstance(call.func, ast.Attribute):
                continue
            owner = ast.unparse(call.func.value).rpartition(".")[2]
            if PATCHER_DOORS.fullmatch(call.func.attr):
                yield source.at(call, f"{call.func.attr} is called in backbones/attach.py and nowhere else")
            elif call.func.attr == "clone" and re.search("model|patcher", owner):
                yield source.at(call, f"{owner}.clone() is called in backbones/attach.py and nowhere else")


# ---------------------------------------------------------------- nodes

def node_classes(root: Path) -> Iterator[tuple[Source, ast.ClassDef, dict[str, ast.expr]]]:
    """(source, class, Schema keywords) of every node class, read without importing it."""
    for source in sources(root, "nodes"):
        for node in (node for node in source.tree.body if isinstance(node, ast.ClassDef)):
            if any(getattr(member, "name", "") == "define_schema" for member in node.body):
                schema = next((call for call in source.calls(node) if name_of(call.func) == "Schema"), None)
                yield source, node, {word.arg: word.value for word in schema.keywords} if schema else {}


def inputs_of(expression: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.Call]]:
    """(id, call) of each io.X.Input in order; the inputs of a dynamic option are `parent.child`."""
    for child in ast.iter_child_nodes(expression):
        if isinstance(child, ast.Call) and name_of(child.func) == "Input":
            named = child.args[0] if child.args else next((w.value for w in child.keywords if w.arg == "id"), None)
            name = prefix + str(getattr(named, "value", ast.unparse(named) if named else "?"))
            yield name, child
            yield from inputs_of(child, name + ".")
        else:
            yield from inputs_of(child, prefix)


def node_classes_are_readable(root: Path):
    """Class name == literal node_id, direct base io.ComfyNode: the Manager's scanner and old workflows depend on it.
    `execute` gets its inputs checked, all of them, by what their sockets are."""
    entry = root / "nodes" / "__init__.py"
    registered = {name_of(name) for name in ast.walk(read(root, entry).tree) if isinstance(name, ast.Name)}
    for source, node, schema in node_classes(root):
        if node.name not in registered:
            yield source.at(node, f"{node.name} is not registered in nodes/__init__.py")
        if [ast.unparse(base) for base in node.bases] != ["io.ComfyNode"]:
            yield source.at(node, f"{node.name} inherits io.ComfyNode directly, and nothing else")
        if not any(getattr(member, "name", "") == "execute"
                   and "check_inputs" in map(ast.unparse, member.decorator_list)
                   for member in node.body if isinstance(member, Function)):
            yield source.at(node, f"{node.name}: its execute is @check_inputs, so that every input is")
        if not node.name.startswith("Lodestar") or getattr(schema.get("node_id"), "value", None) != node.name:
            yield source.at(node, f"{node.name} has node_id={node.name!r} as a literal, beginning with Lodestar")
        if not str(getattr(schema.get("category"), "value", "")).startswith("Lodestar"):
            yield source.at(node, f"{node.name} has a category Lodestar/…")
        yield from (source.at(node, f"{node.name}: ComfyUI 0.7.0 has no Schema field {key}")
                    for key, value in schema.items() if key not in SCHEMA_FIELDS
                    and not (key is None and ast.unparse(value).startswith("search_words(")))     # it asks which it is
    for source in floors(root):
        if "NODE_CLASS_MAPPINGS" in source.text:
            yield source.at(source.tree, "comfy_entrypoint is the only registration")


def nodes_explain_themselves(root: Path):
    """A description per node, a tooltip per input, a help page per node and no page without one."""
    names = set()
    for source, node, schema in node_classes(root):
        names.add(node.name)
        if not getattr(schema.get("description"), "value", None):
            yield source.at(node, f"{node.name} has no description")
        for name, call in inputs_of(schema.get("inputs", ast.List([], ast.Load()))):
            words = {word.arg: word.value for word in call.keywords}
            if not words.get("tooltip") or getattr(words["tooltip"], "value", "dynamic") in ("", None):
                yield source.at(call, f"{node.name}.{name} has no tooltip")
            if "advanced" in words:
                yield source.at(call, f"{node.name}.{name}: ComfyUI 0.7.0 has no `advanced`")
        page = root / "web" / "docs" / f"{node.name}.md"
        if not page.is_file() or not page.read_text(encoding="utf-8").strip():
            yield f"web/docs/{node.name}.md: missing or empty"
    for page in sorted((root / "web" / "docs").glob("*.md")):
        if page.stem not in names:
            yield f"web/docs/{page.name}: no such node"


def page_is_others(root: Path):
    """Our scripts put elements into our widgets and style sheets beside the page's own, nothing into its head or body:
    all packs share these."""
    for path in sorted((root / "web").rglob("*.js")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"document\.(head|body)\b", line):
                yield f"{path.relative_to(root).as_posix()}:{number}: document.head and document.body are everybody's"


def ids_are_forever(root: Path):
    """tests/golden/node_ids.json holds {node: [inputs in order]}; it grows at the end and never changes."""
    golden = root / "tests" / "golden" / "node_ids.json"
    recorded = json.loads(golden.read_text(encoding="utf-8")) if golden.is_file() else {}
    current = {node.name: [name for name, _ in inputs_of(schema["inputs"])] if "inputs" in schema else []
               for _, node, schema in node_classes(root)}
    for name, inputs in recorded.items():
        if name not in current:
            yield f"{name} is recorded and gone: renames go through node replacement"
        elif current[name][:len(inputs)] != inputs:
            yield f"{name}: recorded inputs {inputs} must stay the first, in this order; found {current[name]}"
    for name, inputs in current.items():
        if len(recorded.get(name, [])) < len(inputs) or name not in recorded:
            yield f'{golden.name}: record "{name}": {json.dumps(inputs)}'


def metadata(root: Path):
    """requirements.txt can be installed beside any ComfyUI; pyproject says the same and names the floor."""
    text = (root / "requirements.txt").read_text(encoding="utf-8")
    if not text.isascii():
        yield "requirements.txt: ASCII only"
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in lines if line}
    for line in filter(None, lines):
        if not re.fullmatch(r"[A-Za-z0-9_.-]+(>=[0-9.]+)?", line):
            yield f"requirements.txt: {line!r} is more than a loose lower bound"
    yield from (f"requirements.txt: {name} is ComfyUI's own to choose" for name in sorted(names)
                if name.startswith("torch") or name == "xformers")
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    if not listed or set(re.findall(r'"([A-Za-z0-9_.-]+)', listed[1])) != names:
        yield "pyproject.toml: dependencies name what requirements.txt names"
    if not re.search(r'^requires-comfyui = ">=\d+\.\d+\.\d+"', project, re.MULTILINE):
        yield "pyproject.toml: [tool.comfy] requires-comfyui is missing"


RULES = (import_law, lazy_imports, no_import_work, size, module_headers, manners, exceptions, patcher_door,
         node_classes_are_readable, nodes_explain_themselves, page_is_others, ids_are_forever, metadata)
HOUSES = runpy.run_path(str(Path(__file__).with_name("bad_houses.py")))
GOOD_HOUSE, BAD_HOUSES = HOUSES["GOOD"], HOUSES["BAD"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(rule):
    if found := list(rule(ROOT)):
        pytest.fail("\n".join(["", *found]), pytrace=False)


def build(root: Path, house: dict[str, str]) -> Path:
    for name, text in house.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_house_passes(rule, tmp_path):
    assert list(rule(build(tmp_path, GOOD_HOUSE))) == []


@pytest.mark.parametrize(("rule", "change", "says"), BAD_HOUSES)
def test_a_bad_house_is_found(rule, change, says, tmp_path):
    found = list(globals()[rule](build(tmp_path, GOOD_HOUSE | change)))
    assert any(says in line for line in found), found


def test_every_rule_has_a_bad_house():
    assert {rule for rule, _, _ in BAD_HOUSES} == {rule.__name__ for rule in RULES}
