"""Our touch points laid over the newest ComfyUI's names and signatures, which are kept as a table, not run.

A table from which something is gone, or in which something is called otherwise, must be found out.
"""
import ast
import copy
import json

import overlay
import pytest
import touch_points

pytestmark = pytest.mark.once
NEWEST = json.loads(overlay.TABLE.read_text(encoding="utf-8"))
PATCHER, WAN, IO = "comfy/model_patcher.py", "comfy/ldm/wan/model.py", "comfy_api/latest/_io.py"
BREAKS = [  # file, name, its signature now (None: gone), what is said of it
    (PATCHER, "ModelPatcher.add_wrapper_with_key", None, "has no ModelPatcher.add_wrapper_with_key"),
    (PATCHER, "ModelPatcher.add_patches", "(self, patches, strength, owner)", "missing a required argument: 'owner'"),
    (PATCHER, "ModelPatcher.object_patches_backup", None, "has no ModelPatcher.object_patches_backup"),
    (PATCHER, "ModelPatcher", "(model, devices)", "ModelPatcher(model, devices): "),
    ("comfy/model_management.py", "load_models_gpu", None, "has no load_models_gpu"),
    ("comfy/model_management.py", "load_models_gpu", "(models, memory_required=...)", "argument 'force_full_load'"),
    ("comfy/model_management.py", "unet_offload_device", "(device)", "missing a required argument: 'device'"),
    ("comfy/model_prefetch.py", "pause_malloc_graph", "(device)", "missing a required argument: 'device'"),
    ("comfy/cli_args.py", "args.disable_metadata", None, "has no args.disable_metadata"),
    ("comfy/model_base.py", "ModelType.FLOW", None, "has no ModelType.FLOW"),
    ("comfy/sd.py", "VAE.upscale_ratio", None, "has no VAE.upscale_ratio"),
    (WAN, "AudioInjector_WAN.forward", "(self, x, block_id, audio_emb)", "keyword argument 'audio_emb_global'"),
    (WAN, "WanModel._forward", "(self, x, context, timestep)", "WanCall.names is"),
    (WAN, "WanModel.rope_encode", "(self, t, h, w, source, t_start=...)", "rope_encode(self, t, h, w, source"),
    ("comfy/samplers.py", "CFGGuider.predict_noise", "(self, x, timestep, cond, model_options=..., seed=...)",
     "does not take"),
    ("comfy/sampler_helpers.py", "prepare_sampling", "(model)", "with_room(executor, model, "),
    ("comfy/ldm/modules/attention.py", "attention_basic", "(q, k, v, mask=...)", "attention_basic(q, k, v, mask=...)"),
    (IO, "NodeOutput", "(*args)", "unexpected keyword argument 'ui'"),
    (IO, "Latent.Output", None, "has no Latent.Output"),
    ("server.py", "PromptServer.send_sync", "(self, event, data)", "too many positional arguments"),
]


def test_nothing_is_missing_or_called_otherwise_in_the_newest_comfyui():
    assert overlay.problems(NEWEST) == []
    assert len(NEWEST["files"]) > 12


def test_every_touch_point_stands_in_our_source():
    sources = overlay.sources(overlay.ROOT)
    for path, points in touch_points.POINTS.items():
        written = {ast.unparse(node) for node in ast.walk(sources[path])
                   if isinstance(node, (ast.Name, ast.Attribute))}
        assert points.keys() <= written, path
    touched = {touch.target for touch in overlay.touches()}
    assert touch_points.GUARDED <= touched and len(touched) > 200


def test_the_table_has_what_we_touch_and_nothing_else():
    asked = {overlay.placed(target, NEWEST["files"].__contains__) for target in overlay.targets()}
    for file, known in NEWEST["files"].items():
        names = [f"{name}." for at, name in asked if at == file]
        assert [name for name in known["names"] if not any(each.startswith(f"{name}.") for each in names)] == [], file


@pytest.mark.parametrize(("file", "name", "now", "says"), BREAKS, ids=[f"{case[1]} {case[2]}" for case in BREAKS])
def test_a_break_is_found(file, name, now, says):
    table = copy.deepcopy(NEWEST)
    names = table["files"][file]["names"]
    assert name in names
    if now is None:
        del names[name]
    else:
        names[name] = now
    found = overlay.problems(table)
    assert found and all(says in line for line in found)


def test_a_module_that_nobody_has_read_is_found():
    table = copy.deepcopy(NEWEST)
    del table["files"]["comfy/lora.py"]
    assert "comfy.lora lies in a module that the table of" in overlay.problems(table)[0]
