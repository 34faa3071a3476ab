"""What nodes of core and of this pack put on the wires of a take, each with one widget changed, and their digests.

Run as a script in a process of its own it prints the digests: they must be the same in every process.
"""
import json
import sys

import comfy.samplers
import comfy.sd
import comfy_extras.nodes_cfg as cfg_nodes
import comfy_extras.nodes_context_windows as window_nodes
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_easycache as cache_nodes
import comfy_extras.nodes_hooks as hook_nodes
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_slg as slg_nodes
import comfy_extras.nodes_torch_compile as compile_nodes
import torch
from draws import random
from lodestar.backbones.comfy_values import ComfyValues
from lodestar.nodes.latent_stitch import LodestarLatentStitch
from lodestar.nodes.lookahead_anchor import LodestarLookaheadAnchor
from lodestar.nodes.narrative_keyframes import LodestarNarrativeKeyframe
from lodestar.nodes.reference_skip import LodestarReferenceSkip
from lodestar.nodes.speech_guidance import LodestarSpeechGuidance
from lodestar.pipelines.take.fingerprint import Fingerprints


def run(node, *args, **inputs):
    """The first output of a node class, of either of ComfyUI's two kinds."""
    if hasattr(node, "define_schema"):
        return node.execute(*args, **inputs).args[0]
    return getattr(node(), node.FUNCTION)(*args, **inputs)[0]


def digest(value) -> str:
    """Of one value alone; what has no fingerprint is an error here."""
    prints = Fingerprints(ComfyValues())
    found = prints.of(value, "value")
    assert not prints.unreadable, prints.unreadable
    return found


def lora(model, seed=0) -> dict[str, torch.Tensor]:
    """A LoRA file's tensors, rank 2, for the model's first attention."""
    name = "diffusion_model.blocks.0.self_attn.q"
    rows, columns = model.model.state_dict()[f"{name}.weight"].shape
    return {f"{name}.lora_up.weight": random(rows, 2, seed=seed),
            f"{name}.lora_down.weight": random(2, columns, seed=1), f"{name}.alpha": torch.tensor(2.0)}


def with_lora(model, strength=1.0, seed=0):
    return comfy.sd.load_lora_for_models(model, None, lora(model, seed), strength, 0.0)[0]


def text(seed=0):
    return [[random(1, 4, 4096, seed=seed), {"pooled_output": None}]]


def hooked(model, strength=1.0, seed=0, keyframe=0.5):
    """CONDITIONING with a LoRA that is put on while it is used, weaker from half of the steps on."""
    hooks = comfy.hooks.create_hook_lora(lora(model, seed), strength, 0.0)
    frames = run(hook_nodes.CreateHookKeyframe, strength_mult=1.0, start_percent=0.0)
    frames = run(hook_nodes.CreateHookKeyframe, strength_mult=keyframe, start_percent=0.5, prev_hook_kf=frames)
    hooks = run(hook_nodes.SetHookKeyframes, hooks=hooks, hook_kf=frames)
    return run(hook_nodes.ConditioningSetProperties, text(), 1.0, "default", hooks=hooks)


def windows(model, **changes):
    inputs = {"context_length": 9, "context_overlap": 4, "context_schedule": "standard_uniform", "context_stride": 1,
              "closed_loop": False, "fuse_method": "pyramid", "freenoise": False}
    return run(window_nodes.WanContextWindowsManualNode, model, **{**inputs, **changes})


def anchor(model, distance=12.0, **changes):
    inputs = {"unit": "pixel frames", "placement": "lookahead", "index": 0.0, "schedule": ""}
    return run(LodestarLookaheadAnchor, model=model, distance=distance, **{**inputs, **changes})


def models(model) -> dict:
    """{what: MODEL}, pairwise different."""
    made = {
        "plain": model, "shift 8": run(advanced.ModelSamplingSD3, model, 8.0),
        "shift 5": run(advanced.ModelSamplingSD3, model, 5.0),
        "LoRA": with_lora(model), "LoRA at a half": with_lora(model, 0.5), "another LoRA": with_lora(model, seed=2),
        "both LoRAs": with_lora(with_lora(model), seed=2), "both, in turn": with_lora(with_lora(model, seed=2)),
        "EasyCache": run(cache_nodes.EasyCacheNode, model, 0.2, 0.15, 0.95, False),
        "EasyCache 0.3": run(cache_nodes.EasyCacheNode, model, 0.3, 0.15, 0.95, False),
        "LazyCache": run(cache_nodes.LazyCacheNode, model, 0.2, 0.15, 0.95, False),
        "windows": windows(model), "windows, another overlap": windows(model, context_overlap=8),
        "skipped layers": run(slg_nodes.SkipLayerGuidanceDiT, model, 3.0, 0.01, 0.15, "1", "1"),
        "skipped layers, scale 2": run(slg_nodes.SkipLayerGuidanceDiT, model, 2.0, 0.01, 0.15, "1", "1"),
        "one skipped layer": run(slg_nodes.SkipLayerGuidanceDiT, model, 3.0, 0.01, 0.15, "0", "1"),
        "CFG-zero": run(cfg_nodes.CFGZeroStar, model), "CFG norm": run(cfg_nodes.CFGNorm, model, 1.0),
        "rescaled": run(advanced.RescaleCFG, model, 0.7), "rescaled 0.6": run(advanced.RescaleCFG, model, 0.6),
        "compiled": run(compile_nodes.TorchCompileModel, model, "inductor"),
        "fp16": run(advanced.ModelComputeDtype, model, "fp16"),
        "anchor": anchor(model), "anchor farther": anchor(model, 16.0),
        "anchor behind": anchor(model, placement="past"),
        "skip": run(LodestarReferenceSkip, anchor(model), "hard", 1, 0.5),
        "stitch": run(LodestarLatentStitch, model, "re-encode"),
        "keyframe": run(LodestarNarrativeKeyframe, model, {"samples": random(1, 16, 1, 8, 8)}, 1.0),
        "keyframe later": run(LodestarNarrativeKeyframe, model, {"samples": random(1, 16, 1, 8, 8)}, 2.0),
        "another keyframe": run(LodestarNarrativeKeyframe, model, {"samples": random(1, 16, 1, 8, 8, seed=1)}, 1.0),
        "much": anchor(run(cache_nodes.EasyCacheNode, run(advanced.ModelSamplingSD3, with_lora(model), 8.0), 0.2, 0.15,
                           0.95, False)),
    }
    if hasattr(comfy.sd, "load_bypass_lora_for_models"):    # ComfyUI 0.33
        made["bypassed LoRA"] = comfy.sd.load_bypass_lora_for_models(model, None, lora(model), 1.0, 0.0)[0]
        made["bypassed LoRA at a half"] = comfy.sd.load_bypass_lora_for_models(model, None, lora(model), 0.5, 0.0)[0]
    return made


def guiders(model) -> dict:
    return {
        "basic": run(custom.BasicGuider, model, text()), "another prompt": run(custom.BasicGuider, model, text(1)),
        "cfg 2": run(custom.CFGGuider, model, text(), text(1), 2.0),
        "cfg 3": run(custom.CFGGuider, model, text(), text(1), 3.0),
        "dual": run(custom.DualCFGGuider, model, text(), text(1), text(2), 2.0, 3.0, "regular"),
        "dual, nested": run(custom.DualCFGGuider, model, text(), text(1), text(2), 2.0, 3.0, "nested"),
        "speech": run(LodestarSpeechGuidance, model, text(), text(1), 2.0, 3.0, False),
        "speech, CFG-zero": run(LodestarSpeechGuidance, model, text(), text(1), 2.0, 3.0, True),
        "hooks": run(custom.BasicGuider, model, hooked(model)),
        "hooks, weaker": run(custom.BasicGuider, model, hooked(model, 0.5)),
        "hooks, another LoRA": run(custom.BasicGuider, model, hooked(model, seed=2)),
        "hooks, another keyframe": run(custom.BasicGuider, model, hooked(model, keyframe=0.25)),
    }


def samplers() -> dict:
    return {
        "euler": run(custom.KSamplerSelect, "euler"), "heun": run(custom.KSamplerSelect, "heun"),
        "uni_pc": run(custom.KSamplerSelect, "uni_pc"), "dpm_fast": run(custom.KSamplerSelect, "dpm_fast"),
        "ancestral": run(custom.SamplerEulerAncestral, 1.0, 1.0),
        "ancestral, eta 0.5": run(custom.SamplerEulerAncestral, 0.5, 1.0),
        "sde": run(custom.SamplerDPMPP_2M_SDE, "midpoint", 1.0, 1.0, "cpu"),
        "sde, heun": run(custom.SamplerDPMPP_2M_SDE, "heun", 1.0, 1.0, "cpu"),
        "seed 3": run(custom.RandomNoise, 3), "seed 4": run(custom.RandomNoise, 4),
        "no noise": run(custom.DisableNoise),
    }


def everything(model) -> dict:
    return {**models(model), **guiders(model), **samplers()}


if __name__ == "__main__":
    loaded = comfy.sd.load_diffusion_model(sys.argv[1], model_options={"dtype": torch.float32})
    sys.stdout.write(json.dumps({what: digest(value) for what, value in everything(loaded).items()}) + "\n")
