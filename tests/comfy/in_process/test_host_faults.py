"""Faults that ComfyUI has on the way of a talking take, and where it is held that our path has none of them.

FAULTS names a test for each; those that no other file has are below.
"""
import json
import re
from pathlib import Path

import comfy.sd
import comfy.utils
import pytest
import torch
from families import FAMILIES, FamilyChunk, load_family
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from safetensors.torch import save_file

FAULTS = {
    "S2V in context windows: every window has the first one's speech":
        "test_s2v_audio.py::test_context_windows_get_the_audio_features_of_the_whole_take",
    "S2V: a chunk's first latents have a standstill for their speech":
        "test_s2v_audio.py::test_every_chunk_gets_the_audio_features_of_the_whole_take",
    "S2V behind motion frames: timesteps reach other tokens than theirs":
        "test_s2v_timesteps.py::test_every_token_gets_its_own_timestep_at_every_length",
    "InfiniteTalk in context windows: crash": "test_infinitetalk.py::test_context_windows_have_their_own_audio",
    "InfiniteTalk at a CFG that is not 1: crash":
        "test_infinitetalk.py::test_any_guidance_works_and_the_known_latents_stay",
    "InfiniteTalk, a batch: every row has the first one's speech":
        "test_infinitetalk.py::test_rows_of_a_batch_have_their_own_speech",
    "InfiniteTalk without a start image: UnboundLocalError":
        "test_infinitetalk.py::test_foreign_parts_are_refused_by_name",
    "InfiniteTalk, two speakers: one behind the other instead of both at once":
        "test_two_speakers.py::test_each_audio_stream_is_what_its_speaker_says",
    "InfiniteTalk goes on from all frames so far, in RAM": "test_host_faults.py::test_a_chunk_needs_its_overlap_alone",
    "InfiniteTalk beside an anchor: a shape error in the middle of a step":
        "test_host_faults.py::test_core_s_infinitetalk_beside_an_anchor_is_refused",
    "HuMo: speech ends at 30 s, and every chunk has that of the first":
        "test_humo.py::test_a_later_chunk_has_the_audio_of_the_whole_take",
    "HuMo without speech: crash": "test_humo.py::test_without_speech_or_picture_it_runs",
    "HuMo in context windows: its references are cut off": "test_host_faults.py::test_humo_refuses_context_windows",
    "Whisper stops at 30 s": "test_audio_encoder.py::test_whisper_does_not_stop_at_30_seconds",
    "wav2vec2 takes the whole speech at once":
        "test_audio_encoder.py::test_working_memory_does_not_grow_with_the_speech",
    "Context windows all count from 0": "test_global_time.py::test_windows_at_their_places_give_what_one_call_gives",
    "Positions from 256 on are merged in bf16": "test_rope_precision.py::test_an_anchor_stands_at_5005_exactly",
    "The autoregressive Wan calls no wrapper: anchors would do nothing":
        "test_host_faults.py::test_the_autoregressive_wan_is_refused_by_name",
    "A node that replaced forward switches wrappers off": "test_wan.py::test_a_node_that_replaced_forward_is_refused",
    "A patch that no layer asks for does nothing": "test_other_patches.py::",
}


@pytest.mark.once
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_test(fault):
    file, _, name = FAULTS[fault].partition("::")
    source = (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {name or 'test_'}", source, re.MULTILINE)


def chunk_of(name, tiny_models):
    if not FAMILIES[name].exists:
        pytest.skip("this ComfyUI does not have it")
    return FamilyChunk(FAMILIES[name], load_family(name, tiny_models / "models"))


def test_a_chunk_needs_its_overlap_alone(tiny_models):
    backbone = chunk_of("infinitetalk", tiny_models).backbone
    overlap = backbone.overlap_frames // 4 + 1
    assert backbone.context_latents(overlap) == overlap
    assert LatentStitch(backbone.handover).handover_frames(overlap) == backbone.overlap_frames == 9


def test_core_s_infinitetalk_beside_an_anchor_is_refused(tiny_models):
    """Its attention divides all tokens by the chunk's frames."""
    chunk = chunk_of("wan21_i2v", tiny_models)
    model = chunk.model.clone()
    model.model_options["transformer_options"]["audio_embeds"] = torch.zeros(1, 6, 32, 768)
    with pytest.raises(ValueError, match="core's InfiniteTalk node.*Use Lodestar's InfiniteTalk node"):
        chunk.sample(LookaheadAnchor(3, latents=chunk.picture(5)), model=model, steps=1)
    assert chunk.sample(model=model, steps=1).isfinite().all()      # nothing beside the chunk: core's as it was


def test_humo_refuses_context_windows(tiny_models):
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
    chunk = chunk_of("humo_1_7b", tiny_models)
    model = WanContextWindowsManualNode.execute(chunk.model, 9, 4, "standard_static", 1, False, "flat", False).args[0]
    with pytest.raises(ValueError, match="context windows: HuMo 1.7B has its references behind the last latent"):
        chunk.sample(model=model, steps=1)


def test_the_autoregressive_wan_is_refused_by_name(tiny_models, tmp_path):
    pytest.importorskip("comfy.ldm.wan.ar_model")
    weights = comfy.utils.load_torch_file(str(tiny_models / "models" / "diffusion_models" /
                                              "lodestar_tiny_wan21_t2v.safetensors"))
    save_file(weights, tmp_path / "ar.safetensors", {"config": json.dumps({"transformer": {"causal_ar": True}})})
    model = comfy.sd.load_diffusion_model(str(tmp_path / "ar.safetensors"))
    with pytest.raises(ValueError, match="got WAN21_CausalAR .*which Lodestar does not support"):
        backbones.find(model)
    with pytest.raises(ValueError, match="WAN21_CausalAR"):
        attach.with_technique(model, LookaheadAnchor(3))
