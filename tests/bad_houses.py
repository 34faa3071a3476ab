"""A small house that keeps every rule, and changes to it that break one rule each: (rule, files, what it says)."""

NODE = '''"""A node."""
from comfy_api.latest import io

from ..techniques.skip import skip
from .input_checks import check_inputs
from .sockets import Plan


class LodestarSkip(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarSkip", display_name="Skip", category="Lodestar/Techniques", description="Skips.",
            inputs=[io.Model.Input("model", tooltip="What to patch."), Plan.Input("plan", tooltip="The take.")],
            outputs=[io.Model.Output()])

    @classmethod
    @check_inputs
    def execute(cls, model, plan):
        return io.NodeOutput(skip(model))
'''
GOOD = {
    "__init__.py": """'''The pack.'''
from importlib.util import find_spec

if find_spec("comfy_api"):
    from .nodes import comfy_entrypoint
""",
    "techniques/rope.py": '"""RoPE."""\nimport math\n\nimport torch\n\nPI = math.pi\n',
    "techniques/skip.py": '"""Skip."""\nfrom .rope import PI\n\n\ndef skip(model):\n    return PI, model\n',
    "backbones/attach.py": '"""The door."""\n\n\ndef attach(model):\n    return model.clone().add_wrapper("x", 1)\n',
    "backbones/audio.py": '"""Speech."""\n\n\ndef encode():\n    import transformers\n    return transformers\n',
    "pipelines/take/take.py": '"""The driver."""\nimport logging\n\nlogger = logging.getLogger("lodestar")\n',
    "host/session.py": '"""The join."""\nimport comfy.utils\n\nfrom ..backbones import attach\n'
                       'from ..pipelines import take\n\nPARTS = (comfy, attach, take)\n',
    "nodes/sockets.py": '"""Sockets."""\nfrom comfy_api.latest import io\n\nPlan = io.Custom("LODESTAR_PLAN")\n',
    "nodes/input_checks.py": '"""Checks."""\n\n\ndef check_inputs(execute):\n    return execute\n',
    "nodes/__init__.py": '"""Nodes."""\nfrom .skip import LodestarSkip\n\nNODES = [LodestarSkip]\n',
    "nodes/skip.py": NODE,
    "web/docs/LodestarSkip.md": "# Skip\n",
    "tests/golden/node_ids.json": '{"LodestarSkip": ["model", "plan"]}',
    "requirements.txt": "# no torch\neinops>=0.6\n",
    "pyproject.toml": 'dependencies = ["einops"]\n[tool.comfy]\nrequires-comfyui = ">=0.7.0"\n',
}


def module(body: str) -> str:
    return f'"""A module."""\n{body}\n'


def body(*lines: str) -> str:
    """A module with one function of these lines."""
    return module("def f(model=None):\n" + "\n".join("    " + line for line in lines))


def node(old: str, new: str) -> dict[str, str]:
    """The node file of the good house with one thing changed."""
    assert old in NODE
    return {"nodes/skip.py": NODE.replace(old, new)}


BAD = [
    ("import_law", {"techniques/a.py": module("import comfy.utils")}, "never know ComfyUI"),
    ("import_law", {"pipelines/a.py": body("import folder_paths")}, "never know ComfyUI"),
    ("import_law", {"techniques/a.py": module("from .skip import skip")}, "techniques may not import techniques.skip"),
    ("import_law", {"techniques/a.py": module("from . import skip")}, "techniques may not import techniques.skip"),
    ("import_law", {"techniques/a.py": module("import safetensors")}, "not safetensors"),
    ("import_law", {"techniques/a.py": body("import scipy")}, "not scipy"),
    ("import_law", {"techniques/audio/a.py": body("import cv2")}, "not cv2"),
    ("import_law", {"techniques/a.py": module("from ..pipelines import take")}, "may not import pipelines"),
    ("import_law", {"pipelines/a.py": module("from ..backbones.attach import attach")}, "may not import backbones"),
    ("import_law", {"pipelines/a.py": module("import transformers")}, "not transformers"),
    ("import_law", {"backbones/a.py": module("from ..nodes.sockets import Plan")}, "may not import nodes"),
    ("import_law", {"host/a.py": module("from ..nodes.sockets import Plan")}, "may not import nodes"),
    ("import_law", {"backbones/a.py": module("from ..host import session")}, "may not import host"),
    ("import_law", {"pipelines/a.py": module("from ..host import session")}, "may not import host"),
    ("import_law", {"backbones/deep/a.py": module("from ...pipelines.take import x")}, "may not import pipelines"),
    ("import_law", {"nodes/a.py": module("from .skip import LodestarSkip")}, "nodes may not import nodes.skip"),
    ("import_law", {"nodes/a.py": module("from lodestar.techniques import rope")}, "relative path"),
    ("import_law", {"__init__.py": module("from lodestar.nodes import comfy_entrypoint")}, "relative path"),
    ("lazy_imports", {"techniques/audio/a.py": module("import scipy.signal")}, "inside the function"),
    ("import_law", {"nodes/a.py": module("from ..backbones.backbone import ChunkRequest")}, "backbone.ChunkRequest"),
    ("import_law", {"nodes/a.py": module("from ..backbones.vae import encode_frames")}, "may not import backbones.vae"),
    ("import_law", {"nodes/a.py": module("from ..pipelines.take.take import make_take")},
     "may not import pipelines.take"),
    ("import_law", {"nodes/a.py": module("from ..pipelines import take")}, "may not import pipelines.take"),
    ("lazy_imports", {"backbones/a.py": module("import transformers")}, "inside the function"),
    ("lazy_imports", {"nodes/a.py": module("class A:\n    from librosa import load")}, "inside the function"),
    ("no_import_work", {"nodes/a.py": module("import os\nos.makedirs('x')")}, "runs at import"),
    ("no_import_work", {"nodes/a.py": module("import torch\nX = torch.cuda.is_available()")}, "is_available()"),
    ("no_import_work", {"nodes/a.py": module("class A:\n    x = open('x')")}, "open()"),
    ("no_import_work", {"nodes/a.py": module("def f(x=make()):\n    return x")}, "make()"),
    ("no_import_work", {"nodes/a.py": module("for x in ():\n    pass")}, "runs at import"),
    ("no_import_work", {"nodes/a.py": module("try:\n    import x\nexcept ImportError:\n    x = 1")}, "runs at"),
    ("no_import_work", {"nodes/__init__.py": module("if find_spec('comfy_api'):\n    x = 1")}, "runs at import"),
    ("size", {"techniques/a.py": module("x = 1\n" * 400)}, "the limit is 400"),
    ("size", {"web/a.js": "x;\n" * 401}, "the limit is 400"),
    ("size", {"pipelines/a.py": body(*["x = 1"] * 60)}, "longer than 60"),
    ("size", node("        return io.NodeOutput(skip(model))", "        x = 1\n" * 16), "execute is longer"),
    ("module_headers", {"techniques/__init__.py": "x = 1\n"}, "no module header"),
    *(("size", {f"{room}/a.py": module("x = 1\n" * 400)}, "the limit is 400") for room in (
        "scripts", "training/puppet", "experiments/claims", "benchmarks", "tests/rig", "tests/comfy")),
    *(("module_headers", {f"{room}/a.py": "x = 1\n"}, "no module header") for room in (
        "scripts", "training/puppet", "experiments/claims", "benchmarks", "tests/rig", "tests/comfy")),
    *(("manners", {f"{room}/a.py": body("global x", "x = 1")}, "run state") for room in (
        "scripts/lib", "training", "experiments", "benchmarks", "tests/rig")),
    ("manners", {"training/a.py": module("import sys\nsys.path.append('x')")}, "sys.path"),
    ("manners", {"tests/rig/a.py": module("import os\n\n\ndef f(g):\n    os.link = g")}, "somebody else"),
    ("manners", {"pipelines/a.py": body("print(1)")}, "print"),
    ("manners", {"pipelines/a.py": body("global x", "x = 1")}, "run state"),
    ("manners", {"nodes/a.py": module("import sys\n\n\ndef f():\n    sys.path.append('x')")}, "sys.path"),
    ("manners", {"nodes/a.py": module("import comfy.ops\n\n\ndef f(g):\n    comfy.ops.cast = g")}, "somebody else"),
    ("manners", {"nodes/a.py": module("from os import environ\n\n\ndef f():\n    environ['x'] = '1'")}, "else"),
    ("manners", {"nodes/a.py": module("import comfy\n\n\ndef f(g):\n    setattr(comfy.ops, 'cast', g)")}, "else"),
    ("manners", {"nodes/a.py": module("import logging\nlog = logging.getLogger(__name__)")}, "one logger"),
    ("exceptions", {"nodes/a.py": body("try:", "    g()", "except:", "    h()")}, "names"),
    ("exceptions", {"nodes/a.py": body("try:", "    g()", "except (OSError, Exception):", "    h()")}, "names"),
    ("exceptions", {"nodes/a.py": body("try:", "    g()", "except OSError:", "    pass")}, "useful"),
    *(("exceptions", {f"{room}/a.py": module("with contextlib.suppress(Exception):\n    g()")}, "suppress")
      for room in ("scripts", "training", "experiments", "benchmarks", "tests/rig")),
    ("patcher_door", {"nodes/a.py": body("m.add_wrapper_with_key(1, 2, 3)")}, "attach.py"),
    ("patcher_door", {"backbones/a.py": body("m.add_object_patch('x', 1)")}, "attach.py"),
    ("patcher_door", {"backbones/a.py": body("m.set_model_attn2_patch(1)")}, "attach.py"),
    ("patcher_door", {"nodes/a.py": body("return guider.model_patcher.clone()")}, "attach.py"),
    ("node_classes_are_readable", node("    @check_inputs\n", ""), "its execute is @check_inputs"),
    ("node_classes_are_readable", node("(io.ComfyNode)", "(Base)"), "directly"),
    ("node_classes_are_readable", node('node_id="LodestarSkip"', "node_id=NAME"), "literal"),
    ("node_classes_are_readable", node("class Lodestar", "class Other"), "literal"),
    ("node_classes_are_readable", node("Lodestar/Tech", "video/"), "category"),
    ("node_classes_are_readable", node("display_name", "search_aliases"), "0.7.0 has no"),
    ("node_classes_are_readable", {"nodes/__init__.py": module("NODES = []")}, "not registered"),
    ("node_classes_are_readable", {"nodes/__init__.py": module("NODE_CLASS_MAPPINGS = {}")}, "comfy_entrypoint"),
    ("nodes_explain_themselves", node('"Skips."', '""'), "no description"),
    ("nodes_explain_themselves", node(', tooltip="The take."', ""), "plan has no tooltip"),
    ("nodes_explain_themselves", node('"The take."', '"a", advanced=True'), "`advanced`"),
    ("nodes_explain_themselves", {"web/docs/LodestarSkip.md": "\n"}, "missing or empty"),
    ("nodes_explain_themselves", {"web/docs/LodestarOld.md": "# Old\n"}, "no such node"),
    ("page_is_others", {"web/skip.js": "document.head.append(style);\n"}, "web/skip.js:1: document.head"),
    ("ids_are_forever", node("LodestarSkip", "LodestarJump"), "recorded and gone"),
    ("ids_are_forever", node('"plan", ', '"take", '), "must stay the first"),
    ("ids_are_forever", {"tests/golden/node_ids.json": '{"LodestarSkip": ["plan", "model"]}'}, "must stay"),
    ("ids_are_forever", {"tests/golden/node_ids.json": '{"LodestarSkip": ["model"]}'}, "record "),
    ("ids_are_forever", {"tests/golden/node_ids.json": "{}"}, "record "),
    ("metadata", {"requirements.txt": "einops\ntorchaudio\n"}, "ComfyUI's own"),
    ("metadata", {"requirements.txt": "einops\nxformers>=0.0.35\n"}, "ComfyUI's own"),
    ("metadata", {"requirements.txt": "einops==0.8.0\n"}, "loose lower bound"),
    ("metadata", {"requirements.txt": "--extra-index-url x\neinops\n"}, "loose lower bound"),
    ("metadata", {"requirements.txt": "einops # \u00e4\n"}, "ASCII"),
    ("metadata", {"requirements.txt": "einops\nsafetensors\n"}, "dependencies name"),
    ("metadata", {"pyproject.toml": 'dependencies = ["einops"]\n'}, "requires-comfyui"),
]
