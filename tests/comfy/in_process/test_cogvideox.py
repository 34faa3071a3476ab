"""CogVideoX and CogVideoX 1.5 on ComfyUI's own network: positions, pairs of latents, tables, skips, takes."""
import math
import types

import av
import comfy.samplers
import comfy.sd
import folder_paths
import pytest
import tiny_cogvideox
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from draws import random
from lodestar import backbones
from lodestar.host.chunk_sampler import Sampling
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip

rig = pytest.importorskip("cogvideox_models", reason="this ComfyUI has no CogVideoX", exc_type=ImportError)
ROTARY = [name for name in tiny_cogvideox.MODELS if name != "2b"]


@pytest.fixture(scope="module", params=ROTARY)
def model(request, tiny_models):
    return rig.load(tiny_models, request.param)


@pytest.fixture(scope="module")
def with_table(tiny_models):
    return rig.load(tiny_models, "2b")


def pairs(model):
    return model.model.diffusion_model.patch_size_t or 1


def rotary_at(model, times):
    """The network's own frequencies for token frames at whole `times`."""
    module = model.model.diffusion_model
    rows = module._get_rotary_emb(4, 4, int(max(times)) + 1, torch.device("cpu"))
    return tuple(torch.cat([part[int(time) * 16:(int(time) + 1) * 16] for time in times]) for part in rows)


def by_hand(model, x, anchor, times):
    """The bare network on the chunk and an anchor, each token frame at its time."""
    module, own = model.model.diffusion_model, anchor.repeat_interleave(pairs(model), 2)
    if module.in_channels > 16:
        scale = backbones.find(model).picture_scale
        x = torch.cat([x, random(1, 16, *x.shape[2:], seed=4)], 1)
        own = torch.cat([own, own * scale], 1)
    seen, whole = rotary_at(model, times), torch.cat([x, own], 2)
    module._get_rotary_emb = lambda *_, **__: seen
    try:
        with torch.inference_mode():
            ofs = torch.full((1,), 2.0) if module.ofs_proj_dim else None
            sampling = model.model.model_sampling
            time = sampling.timestep(torch.full((1,), 1.5)).float()
            velocity = module(whole, time, random(1, rig.TEXT, tiny_cogvideox.TEXT_DIM, seed=3), ofs=ofs)
            return sampling.calculate_denoised(torch.full((1,), 1.5), velocity[:, :, :x.shape[2]], x[:, :16])
    finally:
        del module._get_rotary_emb


# ---------------------------------------------------------------- positions

def test_with_no_technique_it_is_the_bare_model(model):
    for x in (rig.noise(), rig.noise(5)):
        assert torch.equal(rig.apply(rig.at(model), x), rig.apply(model, x))


@pytest.mark.parametrize("distance", [1, 5, 5001])
def test_an_anchor_stands_ahead_of_the_chunk(model, distance):
    """At n-1+d, counted in latents: of pairs, half of that."""
    x, anchor = rig.noise(), rig.picture()
    own = [*range(rig.FRAMES // pairs(model)), (rig.FRAMES - 1 + distance) // pairs(model)]
    found = rig.apply(rig.at(model, LookaheadAnchor(distance, latents=anchor)), x)
    wanted = by_hand(model, x, model.model.process_latent_in(anchor), own)
    assert found.shape == x.shape and (found - wanted).abs().max() < 1e-4
    other = rig.apply(rig.at(model, LookaheadAnchor(distance, latents=rig.picture(seed=9))), x)
    assert (other - found).abs().max() > 1e-3 and (rig.apply(model, x) - found).abs().max() > 1e-3
    assert "_get_rotary_emb" not in vars(model.model.diffusion_model)


@pytest.mark.parametrize("name", ROTARY)
def test_positions_are_exact_in_bfloat16_at_5001(tiny_models, name):
    half, seen = rig.load(tiny_models, name, torch.bfloat16), []
    hook = half.model.diffusion_model.blocks[0].register_forward_pre_hook(
        lambda _, __, given: seen.append(given["image_rotary_emb"]), with_kwargs=True)
    try:
        rig.apply(rig.at(half, LookaheadAnchor(5001, latents=rig.picture())), rig.noise())
    finally:
        hook.remove()
    cosine, sine = seen[0]
    angles = (rig.FRAMES - 1 + 5001) / pairs(half) * 10000.0 ** -(torch.arange(0, 16, 2).double() / 16)
    assert cosine.dtype == sine.dtype == torch.float32
    assert torch.allclose(cosine[-1, :16:2].double(), angles.cos(), atol=1e-6)
    assert torch.allclose(sine[-1, 1:16:2].double(), angles.sin(), atol=1e-6)


# ---------------------------------------------------------------- a table of positions

def test_the_table_goes_on_beyond_its_end(with_table):
    x, anchor, text = rig.noise(1, rig.LARGE), rig.picture(size=rig.LARGE), tiny_cogvideox.TEXT_TOKENS
    found = rig.apply(rig.at(with_table, LookaheadAnchor(20, latents=anchor)), x)
    module, own = with_table.model.diffusion_model, with_table.model.diffusion_model.patch_embed.pos_embedding
    rows = own[:, text:].unflatten(1, (13, -1))
    ahead = rows[:, :1].clone()
    ahead[..., :48] = tiny_cogvideox.sines(torch.tensor([20]), 48)
    module.patch_embed.pos_embedding = torch.cat([own[:, :text], rows[:, :1].flatten(1, 2), ahead.flatten(1, 2)], 1)
    try:
        wanted = rig.apply(with_table, torch.cat([x, with_table.model.process_latent_in(anchor)], 2))[:, :, :1]
    finally:
        module.patch_embed.pos_embedding = own
    assert (found - wanted).abs().max() < 1e-3
    assert (rig.apply(rig.at(with_table), x) - found).abs().max() > 1e-3 and module.patch_embed.pos_embedding is own


def test_a_trained_table_has_its_own_rows_alone(with_table):
    embed, x, anchor = with_table.model.diffusion_model.patch_embed, rig.noise(1, rig.LARGE), rig.picture(
        size=rig.LARGE)
    own = embed.pos_embedding
    embed.pos_embedding = own + 0.1 * random(*own.shape, seed=8)
    try:
        inside = rig.apply(rig.at(with_table, LookaheadAnchor(12, latents=anchor)), x)
        assert inside.isfinite().all()
        with pytest.raises(ValueError, match="at latent 13, but this CogVideoX learned its positions.*latents 0 to 12"):
            rig.apply(rig.at(with_table, LookaheadAnchor(13, latents=anchor)), x)
    finally:
        embed.pos_embedding = own


def test_a_table_is_for_one_size_and_length(with_table):
    backbone = backbones.find(with_table)
    assert backbone.one_size and backbone.size == (720, 480)
    with pytest.raises(ValueError, match="got 64x64, .* in a table for 720x480 alone"):
        rig.inputs_of(with_table)
    with pytest.raises(ValueError, match="got 14 latents, .* in a table for 13. Make chunks of at most 49 frames"):
        rig.inputs_of(with_table, 14, size=rig.LARGE)
    with pytest.raises(ValueError, match="a table for 720x480 alone, got 64x64"):
        rig.apply(rig.at(with_table, LookaheadAnchor(3, latents=rig.picture())), rig.noise())


# ---------------------------------------------------------------- attention

@pytest.mark.parametrize(("technique", "hidden"), [
    (ReferenceSkip(radius=0), {2}), (ReferenceSkip(radius=1), {1, 2, 3}), (ReferenceSkip(radius=9), set(range(6)))])
def test_a_skip_is_a_dense_mask_between_frames(model, technique, hidden):
    """Of two latents in a token frame it is enough that one skips. Text sees the reference in any case."""
    size, count = pairs(model), rig.FRAMES // pairs(model)
    rows = {latent // size for latent in hidden}
    mask = torch.zeros(rig.TEXT + 16 * (count + 1), rig.TEXT + 16 * (count + 1))
    for row in rows:
        mask[rig.TEXT + 16 * row:rig.TEXT + 16 * (row + 1), -16:] = -math.inf

    def masked(function, q, k, v, *args, **kwargs):
        return function(q, k, v, *args, **{**kwargs, "mask": mask})

    masks = []

    def theirs(function, q, k, v, *args, **kwargs):
        masks.append(kwargs.get("mask"))
        return function(q, k, v, *args, **kwargs)

    anchor, x = LookaheadAnchor(placement="in chunk", index=2, latents=rig.picture()), rig.noise()
    found = rig.apply(rig.at(model, anchor, technique), x, options={"optimized_attention_override": theirs})
    wanted = rig.apply(rig.at(model, anchor), x, options={"optimized_attention_override": masked})
    assert (found - wanted).abs().max() < 1e-4 and masks and not any(mask is not None for mask in masks)
    assert (found - rig.apply(rig.at(model, anchor), x)).abs().max() > 1e-3


# ---------------------------------------------------------------- chunks

@pytest.mark.parametrize(("name", "latents", "known", "asked", "behind"), [
    ("5b", 13, 0, 13, 0), ("5b", 13, 3, 10, 0), ("15", 21, 0, 22, 0), ("15", 22, 0, 22, 0), ("15", 21, 5, 16, 0),
    ("15", 20, 5, 16, 1), ("15_i2v", 21, 0, 22, 0), ("15_i2v", 21, 5, 22, 0), ("5b_i2v", 13, 3, 13, 0)])
def test_a_chunk_is_whole_token_frames(tiny_models, name, latents, known, asked, behind):
    model = rig.load(tiny_models, name)
    context = rig.picture(known, seed=5) if known else None
    inputs = rig.inputs_of(model, latents, context, rig.picture())
    sampled = torch.arange(asked).float().view(1, 1, -1, 1, 1)
    new = inputs.new_latents(sampled, known).flatten().tolist()
    assert inputs.samples.shape[2] == asked and len(new) == latents - known
    assert new == list(range(asked))[asked - len(new) - behind:asked - behind]
    if inputs.context is not None:
        assert torch.equal(inputs.context[:, :, -known:], context)
        assert inputs.context.shape[2] % pairs(model) == 0


@pytest.mark.parametrize("name", ["5b_i2v", "15_i2v"])
def test_pictures_and_context_reach_the_model_as_trained(tiny_models, name):
    """CogVideoX 1.5's are divided by the scale factor; all else is multiplied, which ComfyUI does."""
    model = rig.load(tiny_models, name)
    scale, seen = model.model.latent_format.scale_factor, []
    for context in (None, rig.picture(3, seed=5)):
        inputs = rig.inputs_of(model, 5, context, rig.picture())
        hook = model.model.diffusion_model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            rig.sample(rig.at(model), inputs, 3.0)
        finally:
            hook.remove()
        known = rig.picture() if context is None else context
        factor = 1 / scale if name == "15_i2v" else scale
        lead, count = pairs(model) - 1, known.shape[2]
        for x in seen:
            assert torch.allclose(x[-1:, 16:, lead:lead + count], known * factor, atol=1e-5)
            assert torch.allclose(x[:1, 16:, lead:lead + count], known * factor, atol=1e-5)
            assert not x[:, 16:, lead + count:].any()
        seen.clear()


def test_context_counts_and_comes_first(tiny_models):
    """T2V's stands before the chunk: moved behind it, it does something else."""
    for name in ("5b", "15"):
        model = rig.load(tiny_models, name)
        x, context = rig.noise(), rig.picture(4, seed=5)
        found, other, none = (rig.apply(rig.at(model, LatentStitch(), context=known), x) for known in (
            context, rig.picture(4, seed=6), None))
        assert (found - other).abs().max() > 1e-3 and (found - none).abs().max() > 1e-3
        assert torch.equal(none, rig.apply(model, x))
        times = [*range(4 // pairs(model), 10 // pairs(model)), *range(4 // pairs(model))]
        odd = rig.apply(rig.at(model, LatentStitch(), context=context[:, :, 1:]), x)
        assert odd.isfinite().all()
        seen = rotary_at(model, times)
        module = model.model.diffusion_model
        module._get_rotary_emb = lambda *_, seen=seen, **__: seen
        try:
            wanted = rig.apply(model, torch.cat([x, model.model.process_latent_in(context)], 2))[:, :, :rig.FRAMES]
        finally:
            del module._get_rotary_emb
        assert (found - wanted).abs().max() < 1e-4


# ---------------------------------------------------------------- what does not fit

def test_samplers_that_scale_the_noise_are_refused(model):
    backbone = backbones.find(model)
    backbone.check_sampler(rig.VOID_DDIM())
    with pytest.raises(ValueError, match="got dpmpp_2m, wanted VOID Sampler"):
        backbone.check_sampler(comfy.samplers.sampler_object("dpmpp_2m"))


def test_inpainting_is_not_among_them():
    weights = {key: torch.zeros(shape) for key, shape in tiny_cogvideox.cogvideox(48, True).items()}
    inpainting = comfy.sd.load_diffusion_model_state_dict(weights)
    with pytest.raises(ValueError, match="got CogVideoX .*which Lodestar does not support"):
        backbones.find(inpainting)


# ---------------------------------------------------------------- a take

@pytest.mark.parametrize("name", ["5b", "15_i2v"])
def test_a_take_of_three_chunks(tiny_models, tmp_path, name):
    model, seconds = rig.load(tiny_models, name), 5 if name == "5b" else 3
    patched = backbones.attach.with_technique(model, LookaheadAnchor(3))
    audio = {"waveform": torch.zeros(1, 1, seconds * 16000), "sample_rate": 16000}
    take = LodestarPlanTake.execute(model=patched, audio=audio, fps=0.0, script="", width=64, height=64,
                                    chunk_frames=21, overlap_frames=5, seed_step=1, max_seconds=0.0).args[0]
    guider, text = comfy.samplers.CFGGuider(patched), [[random(1, 7, tiny_cogvideox.TEXT_DIM, seed=3), {}]]
    guider.set_conds(text, text)
    guider.set_cfg(3.0)
    folder_paths.set_output_directory(str(tmp_path))
    session = TakeSession(TakeInputs(patched, rig.vae(tiny_models), take.plan, torch.rand(1, 64, 64, 3)),
                          Sampling(Noise_RandomNoise(3), guider, rig.VOID_DDIM(), rig.SIGMAS), take,
                          types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))
    with torch.inference_mode():
        path = session.make("take/one", False).path
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert video.frames == seconds * backbones.find(model).fps and video.average_rate == backbones.find(model).fps
    assert len(take.plan.chunks) == 3
