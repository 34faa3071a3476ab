"""Anchors, skip and stitched context on ComfyUI's own Wan models, against forwards written by hand."""
import comfy.model_base
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition

NAMES = ["wan21_t2v", "wan21_i2v", "wan22_ti2v", "wan22_s2v"]


@pytest.fixture(scope="module", params=NAMES)
def model(request, tiny_models, wan):
    return wan.load(tiny_models, request.param)


@pytest.fixture(scope="module", params=NAMES[:3])
def plain_model(request, tiny_models, wan):
    return wan.load(tiny_models, request.param)


def capture_rope(model):
    """A clone that records the RoPE frequencies its blocks receive, in one list per call."""
    seen, clone = [], model.clone()
    clone.model_options["transformer_options"] = {**clone.model_options["transformer_options"], "patches_replace": {
        "dit": {("double_block", 0): lambda args, extra: (seen.append(args["pe"]), extra["original_block"](args))[1]}}}
    return clone, seen


def test_an_empty_technique_list_is_bit_identical(model, wan):
    x = wan.noise(model)
    patched = attach.install_techniques(model, (), ChunkPosition())
    assert torch.equal(wan.apply(patched, x), wan.apply(model, x))


def test_nothing_stays_on_the_model(model, wan):
    x = wan.noise(model)
    before = wan.apply(model, x)
    keys = set(vars(model.model.diffusion_model))
    anchored = attach.with_technique(model, LookaheadAnchor(5, latents=wan.picture(model)))
    assert not torch.equal(wan.apply(anchored, x), before)
    assert set(vars(model.model.diffusion_model)) == keys
    assert torch.equal(wan.apply(model, x), before)


@pytest.mark.parametrize("distance", [1, 3, 30, 4.5])
def test_anchor_equals_a_forward_written_by_hand(plain_model, wan, distance):
    """The unpatched module's own forward_orig on [chunk | anchor], the anchor's frequencies from ComfyUI's rope."""
    model, x, latents = plain_model, wan.noise(plain_model), wan.picture(plain_model)
    anchored = attach.with_technique(model, LookaheadAnchor(distance, latents=latents))
    result = wan.apply(anchored, x)
    assert result.shape == x.shape
    module, conds = model.model.diffusion_model, wan.conditions(model)
    clean = model.model.process_latent_in(latents)
    if module.in_dim == 36:
        clean = torch.cat([clean, torch.ones(1, 4, 1, *wan.SIZE), clean], dim=1)
    given = x if "c_concat" not in conds else torch.cat([x, conds["c_concat"]], dim=1)
    ids = [module.rope_encode(wan.FRAMES, *wan.SIZE, dtype=torch.float32),
           module.rope_encode(1, *wan.SIZE, t_start=wan.FRAMES - 1 + distance, dtype=torch.float32)]
    timestep = model.model.model_sampling.timestep(torch.tensor([0.7])).float()
    times = torch.cat([timestep.expand(wan.FRAMES), torch.zeros(1)])[None]
    with torch.inference_mode():
        velocity = module.forward_orig(torch.cat([given, clean], dim=2), times, conds["c_crossattn"],
                                       freqs=torch.cat(ids, dim=1))[:, :, :wan.FRAMES]
    expected = x - 0.7 * velocity
    assert (result - expected).abs().max() < 2e-5


def test_at_distance_one_with_the_chunk_s_timestep_rows_are_core_s_own_concat(tiny_models, wan):
    model = wan.load(tiny_models, "wan21_t2v")
    latents = wan.picture(model)
    anchored, patched_rows = capture_rope(attach.with_technique(model, LookaheadAnchor(1, latents=latents)))
    plain, core_rows = capture_rope(model)
    wan.apply(anchored, wan.noise(model))
    wan.apply(plain, wan.noise(model), time_dim_concat=model.model.process_latent_in(latents))
    assert torch.equal(patched_rows[0], core_rows[0])


@pytest.mark.parametrize("distance", [1, 7, 400])
def test_the_anchor_s_rope_frequencies_are_the_ones_asked_for(model, wan, distance):
    latents = None if "s2v" in type(model.model).__name__.lower() else wan.picture(model)
    anchored, seen = capture_rope(attach.with_technique(model, LookaheadAnchor(distance, latents=latents)))
    wan.apply(anchored, wan.noise(model))
    module = model.model.diffusion_model
    asked = module.rope_encode(1, *wan.SIZE, t_start=wan.FRAMES - 1 + distance, dtype=torch.float32)
    start = wan.FRAMES * asked.shape[1]
    assert torch.equal(seen[0][:, start:start + asked.shape[1]], asked)
    assert torch.equal(seen[0][:, :start], module.rope_encode(wan.FRAMES, *wan.SIZE, dtype=torch.float32))


def test_rope_frequencies_stay_exact_in_bfloat16(tiny_models, wan):
    """ComfyUI builds the ids in the model's dtype: at 261 bfloat16 would give the frequencies of 260."""
    model = wan.load(tiny_models, "wan21_t2v", torch.bfloat16)
    anchored, seen = capture_rope(attach.with_technique(model, LookaheadAnchor(256, latents=wan.picture(model))))
    wan.apply(anchored, wan.noise(model).bfloat16())
    module = model.model.diffusion_model
    asked = module.rope_encode(1, *wan.SIZE, t_start=261, dtype=torch.float32)
    assert torch.equal(seen[0][:, -asked.shape[1]:], asked)
    assert not torch.equal(asked, module.rope_encode(1, *wan.SIZE, t_start=261, dtype=torch.bfloat16))


def test_s2v_reference_at_its_own_place_is_unpatched(tiny_models, wan):
    model = wan.load(tiny_models, "wan22_s2v")
    x = wan.noise(model)
    same = attach.with_technique(model, LookaheadAnchor(30 - (wan.FRAMES - 1)))
    near = attach.with_technique(model, LookaheadAnchor(4))
    assert torch.equal(wan.apply(same, x), wan.apply(model, x))
    assert (wan.apply(near, x) - wan.apply(model, x)).abs().max() > 1e-3


def test_s2v_takes_further_anchors_as_reference_frames(tiny_models, wan):
    model = wan.load(tiny_models, "wan22_s2v")
    x, latents = wan.noise(model), wan.picture(model)
    both = attach.with_technique(attach.with_technique(model, LookaheadAnchor(4)), LookaheadAnchor(9, latents=latents))
    assert wan.apply(both, x).shape == x.shape
    own = wan.conditions(model)["reference_latent"]
    two = torch.cat([own, model.model.process_latent_in(latents)], dim=2)
    side_by_side = attach.with_technique(model, LookaheadAnchor(4))
    assert (wan.apply(side_by_side, x, reference_latent=two) - wan.apply(both, x)).abs().max() > 1e-4   # 9, not 5
    adjacent = attach.with_technique(side_by_side, LookaheadAnchor(5, latents=latents))
    assert torch.equal(wan.apply(side_by_side, x, reference_latent=two), wan.apply(adjacent, x))


@pytest.mark.parametrize("skip", [ReferenceSkip(), ReferenceSkip("soft", 1, 0.3), ReferenceSkip(radius=2)],
                         ids=["hard", "soft", "radius 2"])
def test_skip_equals_a_dense_mask(model, wan, skip):
    """A mask over all tokens, added in an attention override of its own, on the same anchored model."""
    x = wan.noise(model)
    latents = None if hasattr(model.model.diffusion_model, "frame_packer") else wan.picture(model)
    anchored = attach.with_technique(model, LookaheadAnchor(placement="in chunk", index=2, latents=latents))
    tokens, masked_calls = 16, []

    def masked(function, q, k, v, *args, **kwargs):
        if q.shape[1] == k.shape[1] and q.shape[1] >= (wan.FRAMES + 1) * tokens:
            bias = torch.zeros(q.shape[1], k.shape[1])
            for frame in range(wan.FRAMES):
                away = abs(frame - 2)
                if away <= skip.radius:
                    factor = 0.0 if skip.mode == "hard" or away == 0 else skip.factor
                    bias[frame * tokens:(frame + 1) * tokens,
                         wan.FRAMES * tokens:(wan.FRAMES + 1) * tokens] = torch.tensor(factor).log()
            masked_calls.append(1)
            kwargs["mask"] = bias
        return function(q, k, v, *args, **kwargs)

    expected = wan.apply(anchored, x, options={"optimized_attention_override": masked})
    result = wan.apply(attach.with_technique(anchored, skip), x)
    assert masked_calls and (result - expected).abs().max() < 1e-5
    assert (result - wan.apply(anchored, x)).abs().max() > 1e-4


def test_skip_tells_self_attention_from_text_of_the_same_length(tiny_models, wan):
    model = wan.load(tiny_models, "wan21_t2v")
    x, anchor = wan.noise(model), LookaheadAnchor(placement="in chunk", index=2, latents=wan.picture(model))
    skipped = attach.with_technique(attach.with_technique(model, anchor), ReferenceSkip())
    tokens = (wan.FRAMES + 1) * 16
    text = wan.random(1, tokens, 4096, seed=9)
    calls = []

    def counted(function, q, k, v, *args, **kwargs):
        calls.append((q.shape[1], k.shape[1]))
        return function(q, k, v, *args, **kwargs)

    wan.apply(skipped, x, c_crossattn=text, options={"optimized_attention_override": counted})
    blocks = len(model.model.diffusion_model.blocks)
    assert calls.count((tokens, tokens)) == blocks                       # cross-attention, whole
    assert calls.count((48, tokens - 16)) == calls.count((tokens - 48, tokens)) == blocks


def test_stitched_context_equals_a_forward_written_by_hand(tiny_models, wan):
    model = wan.load(tiny_models, "wan21_t2v")
    context, x = wan.picture(model, frames=2), wan.noise(model)
    stitched = attach.install_techniques(model, (LatentStitch(),), ChunkPosition(context=context))
    module = model.model.diffusion_model
    rows = [module.rope_encode(wan.FRAMES, *wan.SIZE, t_start=2, dtype=torch.float32),
            module.rope_encode(2, *wan.SIZE, dtype=torch.float32)]
    timestep = model.model.model_sampling.timestep(torch.tensor([0.7])).float()
    with torch.inference_mode():
        velocity = module.forward_orig(torch.cat([x, model.model.process_latent_in(context)], dim=2),
                                       torch.cat([timestep.expand(wan.FRAMES), torch.zeros(2)])[None],
                                       wan.conditions(model)["c_crossattn"], freqs=torch.cat(rows, dim=1))
    assert (wan.apply(stitched, x) - (x - 0.7 * velocity[:, :, :wan.FRAMES])).abs().max() < 2e-5


def test_an_unsupported_model_is_refused_by_name(tiny_models, wan):
    model = wan.load(tiny_models, "wan21_t2v")
    base = model.model
    base.__class__ = comfy.model_base.WAN21_Vace
    try:
        with pytest.raises(ValueError, match="WAN21_Vace.*Supported: .*Wan 2.1 T2V.*Wan 2.2 S2V"):
            backbones.find(model)
    finally:
        base.__class__ = comfy.model_base.WAN21


def test_an_anchor_from_another_latent_space_or_size_is_refused(plain_model, wan):
    model = plain_model
    channels = model.model.latent_format.latent_channels
    for latents, message in ((wan.random(1, 4, 1, *wan.SIZE), "4 channels.*another model's VAE"),
                             (wan.random(1, channels, 1, 4, 6), "6x4.*width and height")):
        anchored = attach.with_technique(model, LookaheadAnchor(3, latents=latents))
        with pytest.raises(ValueError, match=message):
            wan.apply(anchored, wan.noise(model))


def test_a_node_that_replaced_forward_is_refused(model, wan):
    anchored = attach.with_technique(model, LookaheadAnchor(3, latents=wan.picture(model)))
    module = model.model.diffusion_model
    module.forward_orig = lambda *args, **kwargs: args[0]
    try:
        with pytest.raises(RuntimeError, match="replaced this model's forward_orig.*TeaCache"):
            wan.apply(anchored, wan.noise(model))
    finally:
        del module.forward_orig
    module.forward_orig = type(module).forward_orig.__get__(module)   # what a restored object patch leaves behind
    try:
        wan.apply(anchored, wan.noise(model))
    finally:
        del module.forward_orig


def test_the_wrapper_sits_under_our_key_alone(model):
    clone = attach.with_technique(model, LookaheadAnchor(3))
    assert attach.patch_of(model) is None and len(clone.get_wrappers(WrappersMP.DIFFUSION_MODEL, "lodestar")) == 1
    twice = attach.with_technique(attach.with_technique(clone, ReferenceSkip()), ReferenceSkip("soft"))
    assert [type(technique) for technique in attach.techniques_of(twice)] == [LookaheadAnchor, ReferenceSkip]
    assert attach.technique_of(twice, ReferenceSkip).mode == "soft"
