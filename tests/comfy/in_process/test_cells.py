"""Every technique, and what other nodes put on a model, on every family: it works, or is refused with the reason.

What came out stands in tests/golden/cells.json, from which the table of backbones is drawn: `python
scripts/tabulate_backbones.py`.
"""
import json
from fractions import Fraction
from pathlib import Path

import comfy.sd
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from draws import random
from families import FAMILIES, LATENTS, SIZE, FamilyChunk, load_family
from lib import environment
from lodestar.backbones import attach
from lodestar.backbones.speech_guider import guide_speech
from lodestar.host.remakes import CLOSE, hold_end
from lodestar.techniques.custom_background import CustomBackground
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.persistent_latents import Memory, PersistentLatents
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.reference_tokens import Tokens
from lodestar.techniques.video_reference import VideoReference

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "cells.json"
PACK = Path(__file__).resolve().parents[3]
INSIDE = {"placement": "in chunk", "index": 2}
SAME = 1e-4         # between two ways to compute one thing, in float32


@pytest.fixture(scope="module", params=[name for name, family in FAMILIES.items() if family.exists])
def chunk(request, tiny_models) -> FamilyChunk:
    return FamilyChunk(FAMILIES[request.param], load_family(request.param, tiny_models / "models"))


def differ(one, other) -> bool:
    return (one - other).abs().max().item() > 10 * SAME


def same(one, other) -> bool:
    return (one - other).abs().max().item() < SAME


def anchor(chunk, seed=12, distance=3.0, **place):
    return LookaheadAnchor(distance, latents=None if chunk.family.alone else chunk.picture(seed), **place)


def check_anchor(chunk):
    """What it shows and where it stands both count; the chunk stays as long as it was."""
    plain, near = chunk.sample(), chunk.sample(anchor(chunk))
    assert near.shape == plain.shape and near.isfinite().all() and differ(near, plain)
    other = chunk.sample(anchor(chunk, seed=13), picture=13 if chunk.family.alone else 6)
    assert differ(near, other) and differ(near, chunk.sample(anchor(chunk, distance=30)))


def check_keyframes(chunk):
    """Before its time it stands where the anchor would; after it, the anchor does again."""
    stories = [(anchor(chunk), NarrativeKeyframes().plus(Fraction(9), chunk.picture(seed))) for seed in (14, 15)]
    early = [chunk.sample(*story, seconds=1) for story in stories]
    late = [chunk.sample(*story, seconds=9) for story in stories]
    assert differ(*early) and torch.equal(*late) and torch.equal(late[0], chunk.sample(anchor(chunk)))


def check_skip(chunk):
    """In a first chunk, where no context attends to it for them: what no frame attends to changes none."""
    def shown(seed, *skip):
        own = LookaheadAnchor(3, **INSIDE) if chunk.family.own_reference else anchor(chunk, seed, **INSIDE)
        picture = seed if chunk.family.own_reference else 6
        return chunk.sample(own, *skip, chunk=0, picture=picture)

    seen, hidden = ([shown(seed, *skip) for seed in (12, 13)] for skip in ((), (ReferenceSkip(radius=LATENTS + 3),)))
    near = shown(12, ReferenceSkip())
    changed, left = ((one - other).norm().item() for one, other in (seen, hidden))
    assert left < changed / 2 if chunk.family.joint else same(*hidden)
    assert differ(*seen) and differ(near, seen[0]) and differ(near, hidden[0])


def check_stitch(chunk):
    """What was handed over counts, comes out as it went in where it lies in the chunk, and is not made again."""
    made, inputs = [chunk.sample(context=seed) for seed in (7, 17)], chunk.inputs()
    assert differ(*made)
    whole = chunk.run(chunk.guider_at(chunk.guider(chunk.model), (), inputs), inputs)
    repeated = inputs.before + (0 if inputs.context is not None else chunk.repeated)
    assert torch.equal(whole[:, :, repeated:repeated + made[0].shape[2]], made[0])
    if inputs.noise_mask is not None and inputs.context is None:
        assert same(whole[:, :, :2], chunk.picture(7, 2))


def check_persistent(chunk):
    """Further pictures of the person count, and what was handed over, in the model's channels or beside the chunk."""
    technique = PersistentLatents(3)

    def made(picture, motion):
        pictures = chunk.picture(picture, 2)
        if not chunk.backbone.memory_in_channels():
            return chunk.sample(technique, identity=pictures, context=motion)
        memory = Memory(technique.arrange(chunk.picture(6), pictures), chunk.picture(motion))
        return chunk.sample(technique, persistent=memory)

    one = made(12, 7)
    assert one.isfinite().all() and differ(one, made(13, 7)) and differ(one, made(12, 17))


def check_video_reference(chunk):
    """What the selected tokens show counts, and where it stands; what is around them counts for nothing."""
    chunk.backbone.check_video_reference(audio=False)
    latents = chunk.picture(12, 3)
    keep = torch.zeros(3, SIZE[0] // 2, SIZE[1] // 2, dtype=torch.bool)
    keep[:, 1:3, 1:3] = True
    around = latents.clone()
    around[..., :2, :] += 1

    def made(latents, **place):
        return chunk.sample(VideoReference(latents, Tokens(keep), **place), steps=1)

    plain, one = chunk.sample(steps=1), made(latents)
    assert one.shape == plain.shape and one.isfinite().all() and differ(one, plain)
    assert torch.equal(one, made(around)) and differ(one, made(chunk.picture(13, 3)))
    assert differ(one, made(latents, distance=30))


def check_background(chunk):
    """What the scene shows counts, but not where the person is to be; of a later chunk the take's first latent."""
    chunk.backbone.check_background()
    keep = torch.ones(1, SIZE[0] // 2, SIZE[1] // 2, dtype=torch.bool)
    keep[:, 1:, 1:3] = False
    scene = chunk.picture(12)
    under = scene.clone()
    under[..., 2:, 2:6] += 1

    def made(latents, **place):
        return chunk.sample(CustomBackground(latents, Tokens(keep)), steps=1, **place)

    plain, one, later = chunk.sample(steps=1), made(scene), made(scene, opening=chunk.picture(14))
    assert one.isfinite().all() and differ(one, plain) and torch.equal(one, made(under))
    assert differ(later, one) and torch.equal(later, made(chunk.picture(13), opening=chunk.picture(14)))


def check_speech_guidance(chunk):
    """Text and speech each have a scale of their own."""
    if chunk.backbone.audio_shape is None:
        raise ValueError("no audio conditioning")
    inputs = chunk.inputs()

    def guided(text_scale, audio_scale):
        guider = guide_speech(chunk.model, chunk.prompt(3), chunk.prompt(4), text_scale, audio_scale, False)
        return chunk.run(chunk.guider_at(guider, (anchor(chunk),), inputs), inputs)

    both = guided(3.0, 2.0)
    assert both.isfinite().all() and differ(both, guided(3.0, 4.0)) and differ(both, guided(4.0, 2.0))


def check_lora(chunk):
    """In either order; each changes the result of the other alone."""
    key = f"diffusion_model.{chunk.family.attention}"
    weight = chunk.model.model.state_dict()[f"{key}.weight"]
    lora = {f"{key}.lora_A.weight": random(4, weight.shape[1], seed=20),
            f"{key}.lora_B.weight": random(weight.shape[0], 4, seed=21)}

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, dict(lora), 1.0, 0.0)[0]

    outside = with_lora(attach.with_technique(chunk.model, anchor(chunk)))
    made = chunk.sample(*attach.techniques_of(outside), model=outside)
    assert differ(made, chunk.sample(anchor(chunk))) and differ(made, chunk.sample(model=with_lora(chunk.model)))
    inside = attach.with_technique(with_lora(chunk.model), anchor(chunk))
    assert torch.equal(made, chunk.sample(*attach.techniques_of(inside), model=inside))


def check_easycache(chunk):
    """It skips calls of the model beside an anchor, in either order."""
    calls = []

    def count(function, *args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    def run(model):
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = count
        calls.clear()
        return chunk.sample(*attach.techniques_of(model), model=model, steps=6), len(calls)

    def ease(model):
        return EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]

    anchored = attach.with_technique(chunk.model, anchor(chunk))
    (inside, calls_inside), (outside, calls_outside) = run(ease(anchored)), run(
        attach.with_technique(ease(chunk.model), anchor(chunk)))
    assert calls_inside == calls_outside < run(anchored)[1]
    assert torch.equal(inside, outside) and differ(inside, run(ease(chunk.model))[0])


def check_context_windows(chunk):
    """Three latents a window, in either order."""
    def window(model):
        return WanContextWindowsManualNode.execute(model, 9, 4, "standard_static", 1, False, "flat", False).args[0]

    outside = window(attach.with_technique(chunk.model, anchor(chunk)))
    inside = attach.with_technique(window(chunk.model), anchor(chunk))
    made = chunk.sample(*attach.techniques_of(outside), model=outside)
    assert torch.equal(made, chunk.sample(*attach.techniques_of(inside), model=inside)) and made.isfinite().all()
    assert differ(made, chunk.sample(model=window(chunk.model))) and differ(made, chunk.sample(anchor(chunk)))


def check_attention_override(chunk):
    """Another pack's, assigned without chaining what was there: it is called, without masks, and changes nothing."""
    masks = []

    def theirs(function, q, k, v, *args, **kwargs):
        masks.append(kwargs.get("mask"))
        return function(q, k, v, *args, **kwargs)

    techniques = anchor(chunk, **INSIDE), ReferenceSkip()
    model = chunk.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = theirs
    made = chunk.sample(*techniques, model=model, steps=1)
    assert masks and torch.equal(made, chunk.sample(*techniques, steps=1))


def check_compile(chunk):
    """Compiled, as core's node compiles, it follows every change of the anchor and the skip."""
    torch._dynamo.reset()
    compiled = chunk.model.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", options={
        "guard_filter_fn": lambda guards: ["transformer_options" not in guard.name for guard in guards]})
    skip = () if chunk.family.alone else (ReferenceSkip(),)
    for techniques in ((), (anchor(chunk),), (anchor(chunk, **INSIDE), *skip)):
        made = chunk.sample(*techniques, model=compiled, steps=1)
        assert same(made, chunk.sample(*techniques, steps=1)), techniques


COLUMNS = {
    "lookahead anchor": check_anchor, "narrative keyframes": check_keyframes, "reference skip": check_skip,
    "latent stitch": check_stitch, "persistent latents": check_persistent,
    "video reference": check_video_reference, "custom background": check_background,
    "speech guidance": check_speech_guidance,
    "LoRA": check_lora, "EasyCache": check_easycache, "context windows": check_context_windows,
    "attention override": check_attention_override, "torch.compile": check_compile}


def refusal_of(error: Exception) -> str:
    """The first sentence of an error that the pack raised. Another one is raised again."""
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    raised_in = Path(frame.tb_frame.f_code.co_filename)
    if not raised_in.is_relative_to(PACK) or raised_in.name == "families.py":
        raise error
    return str(error).split(". ")[0]


@pytest.mark.parametrize("column", [pytest.param(column, marks=pytest.mark.slow if "compile" in column else ())
                                    for column in COLUMNS])
def test_a_cell_is_what_the_table_says(chunk, column, comfyui_version, record_property):
    try:
        COLUMNS[column](chunk)
        found = "works"
    except (ValueError, RuntimeError, NotImplementedError) as error:
        found = refusal_of(error).replace(chunk.backbone.name, "the model")
    record_property("cell", json.dumps([comfyui_version, chunk.family.title, column, found]))
    cells = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found == cells.get(comfyui_version, cells[environment.NEWEST])[chunk.family.title].get(column)


def test_without_a_technique_no_bit_changes(chunk):
    """The first chunk, against the same model with nothing of the pack on it."""
    if not chunk.family.by_core:
        return
    inputs = chunk.inputs(chunk=0)
    bare = chunk.guider(chunk.model)
    for name in bare.original_conds:
        values = {**inputs.conditions, **(inputs.uncond if name == "negative" else {})}
        bare.original_conds[name] = [{**entry, **values} for entry in bare.original_conds[name]]
    ours = chunk.guider_at(chunk.guider(chunk.model), (), inputs, chunk=0)
    assert torch.equal(chunk.run(ours, inputs), chunk.run(bare, inputs))


@pytest.mark.once
def test_the_end_of_a_chunk_that_is_made_again_is_held_and_leads_its_frames(chunk):
    """What the next chunk went on from comes out as it was, and what is before it is another for it."""
    def made(seed):
        inputs, end = chunk.inputs(), chunk.picture(seed, 2)
        held = hold_end(inputs, end)
        guider = chunk.guider_at(chunk.guider(chunk.model), (anchor(chunk),), held)
        latents = inputs.new_latents(chunk.run(guider, held), chunk.repeated)
        assert (latents[:, :, -2:] - end).abs().mean() / end.std() < CLOSE
        return latents[:, :, :-2]

    assert differ(made(40), made(41))
