"""HunyuanVideo on ComfyUI's own network: anchors, context, known frames and skips, against a call written by hand."""
import json

import comfy.clip_vision
import comfy.samplers
import comfy.sd
import comfy.utils
import hunyuan_models as rig
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from draws import random
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.backbone import ChunkRequest
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition

STEP = rig.SIGMA * 1000
NOISY = [STEP] * rig.FRAMES
INSIDE = {"placement": "in chunk", "index": 2}
CLOSE = 2e-4        # of values around 1, in float32, through four blocks written in two ways
GUIDING = torch.zeros(1)


@pytest.fixture(scope="module", params=rig.NAMES)
def model(request, tiny_models):
    return rig.load(tiny_models, request.param)


@pytest.fixture(scope="module")
def plain(tiny_models):
    """Text-to-video, and the model of "replace" image-to-video."""
    return rig.load(tiny_models, "hunyuan_t2v")


def noise(model, batch=1):
    return rig.latents(model, rig.FRAMES, batch, seed=1)


def given(model, x, *clean):
    """All channels of the chunk, and of clean frames, which are known."""
    conds, process = rig.conditions(model), model.model.process_latent_in
    beside = [conds["c_concat"]] if "c_concat" in conds else []
    frames = [torch.cat([x, *beside], 1)]
    for latents in map(process, clean):
        frames.append(torch.cat([latents, latents, torch.ones_like(latents[:, :1])], 1)[:, :frames[0].shape[1]])
    return torch.cat(frames, 2)


def anchored(model, seed=12, distance=3.0, **place):
    return attach.with_technique(model, LookaheadAnchor(distance, latents=rig.latents(model, seed=seed), **place))


def same(one, other):
    return (one - other).abs().max().item() < CLOSE


# ---------------------------------------------------------------- families

@pytest.mark.parametrize(("file", "name", "pixels", "frames"), [
    ("hunyuan_t2v", "HunyuanVideo", 8, 129), ("hunyuan_i2v", "HunyuanVideo I2V", 8, 129),
    ("hunyuan_skyreels", "SkyReels V1 I2V", 8, 97), ("hunyuan15", "HunyuanVideo 1.5", 16, 121)])
def test_each_checkpoint_has_its_backbone(tiny_models, file, name, pixels, frames):
    model = rig.load(tiny_models, file)
    found = backbones.find(model)
    assert (found.name, found.spatial_ratio, found.chunk_frames, found.fps) == (name, pixels, frames, 24)
    assert found.text_width(model.model) == rig.TEXT
    assert {name: value.shape for name, value in found.prompt_values(model.model).items()} == (
        {} if file == "hunyuan15" else {"pooled_output": (1, rig.POOLED)})


def test_super_resolution_is_refused_by_name(model, monkeypatch):
    monkeypatch.setattr(model.model.diffusion_model, "in_channels", 98)
    with pytest.raises(ValueError, match=r"got HunyuanVideo.*Supported: .*HunyuanVideo T2V and I2V .*1\.5"):
        backbones.find(model)


# ---------------------------------------------------------------- techniques

def test_the_call_by_hand_is_the_network_s(model):
    x = noise(model)
    assert same(rig.apply(model, x), rig.denoised(x, rig.by_hand(model, given(model, x), range(5), NOISY,
                                                                 rig.conditions(model))))


@pytest.mark.parametrize("distance", [1, 3, 40, 4.5])
def test_an_anchor_is_a_frame_at_its_time_without_noise(model, distance):
    x, latents = noise(model), rig.latents(model, seed=12)
    made = rig.apply(anchored(model, distance=distance), x)
    velocity = rig.by_hand(model, given(model, x, latents), [*range(5), 4 + distance], [*NOISY, 0.0],
                           rig.conditions(model))
    assert made.shape == x.shape and same(made, rig.denoised(x, velocity))
    assert not same(made, rig.apply(model, x)) and not same(made, rig.apply(anchored(model, distance=distance + 2), x))
    noisy = rig.by_hand(model, given(model, x, latents), [*range(5), 4 + distance], [*NOISY, STEP],
                        rig.conditions(model))
    assert not same(made, rig.denoised(x, noisy))


@pytest.mark.parametrize("name", ["hunyuan_t2v", "hunyuan15"])
def test_positions_are_float32_whatever_the_model_computes_in(tiny_models, name):
    """Core counts in the model's dtype: at 5,000 bfloat16 has 4,992."""
    model, seen = rig.load(tiny_models, name, torch.bfloat16), []
    far = anchored(model, distance=4996)
    far.model_options["transformer_options"] = {**far.model_options["transformer_options"], "patches_replace": {
        "dit": {("double_block", 0): lambda args, extra: (seen.append(args["pe"]), extra["original_block"](args))[1]}}}
    rig.apply(far, noise(model).bfloat16())
    per_frame, text = rig.tokens(model), seen[0].shape[2] - 6 * rig.tokens(model)
    first = text if not getattr(model.model.diffusion_model.double_blocks[0], "flipped_img_txt", False) else 0
    rows = seen[0][:, :, first:first + 6 * per_frame]
    side = int(per_frame ** 0.5)
    wanted = torch.tensor([[5000.0, row, column] for row in range(side) for column in range(side)])[None]
    assert rows.dtype == torch.float32
    assert torch.equal(rows[:, :, -per_frame:], model.model.diffusion_model.pe_embedder(wanted))
    wanted[..., 0] = 4992
    assert not torch.equal(rows[:, :, -per_frame:], model.model.diffusion_model.pe_embedder(wanted))


def test_context_is_clean_frames_before_the_chunk(plain):
    x, context = noise(plain), rig.latents(plain, 2, seed=13)
    stitched = attach.install_techniques(plain, (LatentStitch(),), ChunkPosition(context=context))
    velocity = rig.by_hand(plain, given(plain, x, context), [2, 3, 4, 5, 6, 0, 1], [*NOISY, 0.0, 0.0],
                           rig.conditions(plain))
    assert same(rig.apply(stitched, x), rig.denoised(x, velocity))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("techniques", [(), (LookaheadAnchor(3),)], ids=["alone", "anchor"])
def test_a_known_first_frame_has_its_own_timestep_in_every_block(plain, techniques, batch):
    """ComfyUI 0.33 modulates as many tokens of text in its single blocks; 0.7 stops at a batch of two."""
    x, picture = noise(plain), rig.latents(plain, seed=12)
    patched = attach.install_techniques(plain, techniques, ChunkPosition(reference=picture))
    clean = [picture] if techniques else []
    velocity = rig.by_hand(plain, given(plain, x, *clean), [*range(5), 7][:5 + len(clean)],
                           [0.0, *NOISY[1:], 0.0][:5 + len(clean)], rig.conditions(plain))
    made = rig.apply(patched, x.expand(batch, -1, -1, -1, -1).contiguous(), guiding_frame_index=GUIDING,
                     **{name: value.expand(batch, *[-1] * (value.ndim - 1))
                        for name, value in rig.conditions(plain).items()})
    wanted = rig.denoised(x, velocity)
    for row in made:     # what is made of the first frame itself is masked out
        assert same(row[:, 1:], wanted[0, :, 1:])


@pytest.mark.parametrize("skip", [ReferenceSkip(), ReferenceSkip("soft", 1, 0.3), ReferenceSkip(radius=9)],
                         ids=["hard", "soft", "everywhere"])
@pytest.mark.parametrize("padded", [False, True], ids=["no mask", "text mask"])
def test_skipped_queries_are_a_dense_mask(model, skip, padded):
    """Text sees everything, and what hides its own padding goes on hiding it."""
    x, latents, conds = noise(model), rig.latents(model, seed=12), rig.conditions(model)
    hidden, per_frame = {}, rig.tokens(model)
    text = 7 + (3 if "clip_fea" in conds else 0)
    bias = torch.zeros(text + 6 * per_frame, text + 6 * per_frame)
    for frame in range(5):
        away = abs(frame - 2)
        if away <= skip.radius:
            factor = 0.0 if skip.mode == "hard" or away == 0 else skip.factor
            bias[text + frame * per_frame:text + (frame + 1) * per_frame, -per_frame:] = torch.tensor(factor).log()
    if padded and "clip_fea" not in conds:
        hidden["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
        bias[:, 5:7] = torch.finfo(torch.float32).min
    made = rig.apply(attach.with_technique(anchored(model, **INSIDE), skip), x, **hidden)
    if not hidden:
        velocity = rig.by_hand(model, given(model, x, latents), [*range(5), 2], [*NOISY, 0.0], conds, bias)
        assert same(made, rig.denoised(x, velocity))
    masked = rig.apply(anchored(model, **INSIDE), x, options={"optimized_attention_override": dense(model, bias)},
                       **hidden)
    assert same(made, masked) and not same(made, rig.apply(anchored(model, **INSIDE), x, **hidden))


def dense(model, bias):
    """An attention override that adds a bias over all tokens, text first, in this ComfyUI's order."""
    text = len(bias) - 6 * rig.tokens(model)
    flipped = getattr(model.model.diffusion_model.double_blocks[0], "flipped_img_txt", False)

    def override(function, q, k, v, *args, **kwargs):
        if q.shape[2] == len(bias):
            kwargs["mask"] = bias.roll((-text, -text), (0, 1)) if flipped else bias
        return function(q, k, v, *args, **kwargs)
    return override


def test_no_mask_is_made_and_the_text_s_own_attention_is_left_alone(plain):
    calls = []

    def count(function, q, k, v, *args, **kwargs):
        calls.append((q.shape[2], k.shape[2], kwargs.get("mask")))
        return function(q, k, v, *args, **kwargs)

    skipped = attach.with_technique(anchored(plain, **INSIDE), ReferenceSkip())
    rig.apply(skipped, noise(plain), options={"optimized_attention_override": count})
    whole = 7 + 6 * rig.tokens(plain)
    band = 3 * rig.tokens(plain)
    assert calls[:2] == [(7, 7, None)] * 2 and all(mask is None for _, _, mask in calls)
    assert sorted(calls[2:]) == sorted([(band, whole - rig.tokens(plain), None), (whole - band, whole, None)] * 4)


def test_nothing_stays_on_the_model(model):
    x = noise(model)
    before, keys = rig.apply(model, x), set(vars(model.model.diffusion_model))
    assert torch.equal(rig.apply(attach.install_techniques(model, (), ChunkPosition()), x), before)
    rig.apply(anchored(model), x)
    assert torch.equal(rig.apply(model, x), before) and set(vars(model.model.diffusion_model)) == keys


# ---------------------------------------------------------------- beside others

def test_a_block_s_replacement_by_another_node_gets_the_levels(plain):
    x, seen = noise(plain), []

    def theirs(args, extra):
        seen.append(args["vec"].shape[1])
        return extra["original_block"](args)

    options = {"patches_replace": {"dit": {("single_block", 1): theirs}}}
    assert torch.equal(rig.apply(anchored(plain), x, options=options), rig.apply(anchored(plain), x)) and seen == [2]


@pytest.mark.parametrize(("conds", "says"), [
    ({"ref_latent": torch.zeros(1, 16, 1, *rig.SIZE)}, "reference latent of its own"),
    ({"control": {"input": [], "output": []}}, "ControlNet")])
def test_what_knows_nothing_of_the_layout_is_refused(plain, conds, says):
    rig.apply(attach.install_techniques(plain, (), ChunkPosition()), noise(plain), **conds)
    with pytest.raises(ValueError, match=says):
        rig.apply(anchored(plain), noise(plain), **conds)


@pytest.mark.slow
def test_a_compiled_model_follows_levels_as_much_as_positions(plain):
    """Under core's guard filter, in calls of one size."""
    torch._dynamo.reset()
    compiled = plain.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", options={
        "guard_filter_fn": lambda guards: ["transformer_options" not in guard.name for guard in guards]})
    x, one, results = noise(plain), rig.latents(plain, seed=12), []
    for place, skips, conds in (({}, (), {}), (INSIDE, (), {"guiding_frame_index": GUIDING}),
                                (INSIDE, (ReferenceSkip(),), {})):
        results.append([rig.apply(attach.install_techniques(patcher, (LookaheadAnchor(3, latents=one, **place), *skips),
                                                            ChunkPosition()), x, **conds)
                        for patcher in (plain, compiled)])
        assert same(*results[-1])
    assert not same(results[0][0], results[1][0]) and not same(results[1][0], results[2][0])


def test_glyphs_are_text_too(tiny_models):
    """HunyuanVideo 1.5 with its glyph encoder: its tokens stand before the video as the prompt's do."""
    path = tiny_models / "models" / "diffusion_models" / "lodestar_tiny_hunyuan15.safetensors"
    weights = comfy.utils.load_torch_file(str(path))
    for name, *shape in (("layernorm", 1472), ("fc1", 2048, 1472), ("fc2", 2048, 2048), ("fc3", 128, 2048)):
        weights[f"byt5_in.{name}.weight"] = random(*shape, seed=1) * 0.02
        weights[f"byt5_in.{name}.bias"] = torch.zeros(shape[0])
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
    glyphs, x, calls = {"txt_byt5": random(1, 4, 1472, seed=9)}, noise(model), []

    def count(function, q, k, v, *args, **kwargs):
        calls.append((q.shape[2], k.shape[2]))
        return function(q, k, v, *args, **kwargs)

    rig.apply(attach.with_technique(anchored(model, **INSIDE), ReferenceSkip()), x, **glyphs,
              options={"optimized_attention_override": count})
    whole, band = 4 + 3 + 7 + 6 * rig.tokens(model), 3 * rig.tokens(model)
    assert sorted(calls[2:]) == sorted([(band, whole - rig.tokens(model)), (whole - band, whole)] * 2)


# ---------------------------------------------------------------- chunks

def chunk(model, context=None, picture=True, given=(), **more):
    """What the sampler gets for a chunk of five latents whose picture is latent number 40."""
    backbone, shown = backbones.find(model), rig.latents(model, seed=40)
    height, width = (side * backbone.spatial_ratio for side in rig.SIZE)
    beside = backbone.concat_latent(lambda frames: shown, torch.zeros(1, height, width, 3) if picture else None, 5,
                                    height, width)
    return backbone.chunk_inputs(ChunkRequest(5, (shown.shape[1], *rig.SIZE), context, shown if picture else None,
                                              concat_latent=beside, given=frozenset(given), **more))


@pytest.mark.parametrize(("name", "given", "opens"), [
    ("hunyuan_t2v", (), False), ("hunyuan_t2v", ("guiding_frame_index", "pooled_output"), True),
    ("hunyuan_i2v", (), True), ("hunyuan_skyreels", (), True), ("hunyuan15", ("attention_mask",), False),
    ("hunyuan15", ("clip_vision_output",), True), ("hunyuan15", ("concat_latent_image",), True)])
def test_the_picture_opens_the_take_where_its_conditioning_says_so(tiny_models, caplog, name, given, opens):
    model = rig.load(tiny_models, name)
    shown, inputs = rig.latents(model, seed=40), chunk(model, given=given)
    with caplog.at_level("INFO"):
        assert chunk(model, given=given).samples.shape[2] == 5
    assert ("the reference is for anchors alone" in caplog.text) != opens
    if name == "hunyuan_t2v":
        assert (inputs.noise_mask is not None) == opens and inputs.conditions == (
            {"guiding_frame_index": 0} if opens else {})
        if opens:
            assert torch.equal(inputs.samples[:, :, :1], shown) and not inputs.samples[:, :, 1:].any()
            assert inputs.noise_mask[0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1]
        return
    beside, mask = inputs.conditions["concat_latent_image"], inputs.conditions["concat_mask"]
    assert inputs.noise_mask is None and mask[0, 0, :, 0, 0].tolist() == [1 - opens, 1, 1, 1, 1]
    assert torch.equal(beside[:, :, :1], shown) == opens and not beside[:, :, 1:].any()


@pytest.mark.parametrize("given", [(), ("guiding_frame_index", "clip_vision_output")])
def test_a_later_chunk_goes_on_from_what_was_handed_over(model, given):
    context = rig.latents(model, 2, seed=41)
    inputs = chunk(model, context, given=given)
    if model.model.concat_keys or "Video15" in type(model.model).__name__:
        beside, mask = inputs.conditions["concat_latent_image"], inputs.conditions["concat_mask"]
        assert torch.equal(beside[:, :, :2], context) and not beside[:, :, 2:].any() and inputs.context is None
        assert mask[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1, 1]
        assert inputs.new_latents(torch.zeros(1, 1, 5, 1, 1), 2).shape[2] == 3
        return
    assert inputs.context is context and inputs.samples.shape[2] == 3 and inputs.noise_mask is None
    assert inputs.conditions == {"guiding_frame_index": None}
    assert inputs.new_latents(torch.zeros(1, 1, 3, 1, 1), 2).shape[2] == 3


def test_padding_fills_what_nothing_is_known_of(tiny_models):
    """As SVI's: the picture stands in each window where nothing is known."""
    backbone, asked = backbones.find(rig.load(tiny_models, "hunyuan_i2v")), []

    def encode(frames):
        asked.append(len(frames))
        return torch.full((1, 16, (len(frames) + 3) // 4, 4, 4), float(len(frames)))

    page = torch.zeros(1, 32, 32, 3)
    beside = backbone.concat_latent(encode, page, 5, 32, 32, page)
    assert asked == [17, 1] and beside[0, 0, :, 0, 0].tolist() == [1, 17, 17, 17, 17]
    assert backbones.find(rig.load(tiny_models, "hunyuan_t2v")).concat_latent(encode, page, 5, 32, 32, page) is None


def test_the_sampler_leaves_the_picture_as_it_is_and_continues_from_it(plain):
    """Replace image-to-video as Long Take samples it: the first frame comes out as it went in."""
    inputs = chunk(plain, given=("guiding_frame_index",))
    guider = comfy.samplers.CFGGuider(plain)
    prompt = [[random(1, 7, rig.TEXT, seed=3), {"pooled_output": random(1, rig.POOLED, seed=4)}]]
    guider.set_conds(prompt, prompt)
    guider.set_cfg(2.0)
    at = attach.guider_at(guider, (), ChunkPosition(), inputs.conditions, inputs.uncond)
    made = at.sample(noise(plain), inputs.samples, comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, 3),
                     denoise_mask=inputs.noise_mask, disable_pbar=True, seed=1)
    assert torch.allclose(made[:, :, :1], rig.latents(plain, seed=40), atol=1e-5) and made.isfinite().all()


# ---------------------------------------------------------------- CLIP vision of a take

class Encoded(TakeInputs):
    """A take whose VAE is numbers of the model's latents' size."""

    def encode(self, frames):
        return rig.latents(self.model, (len(frames) + 3) // 4, seed=50)


def seeing(model, width, folder, picture_seed=1):
    """A take of one picture and core's own vision encoder, SigLIP as HunyuanVideo 1.5's, in a size of its own."""
    config = folder / "vision.json"
    config.write_text(json.dumps({
        "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
        "image_size": 28, "patch_size": 14, "num_channels": 3, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6, "model_type": "siglip_vision_model"}))
    vision = comfy.clip_vision.ClipVisionModel(str(config))
    for seed, weight in enumerate(vision.model.parameters()):
        weight.data = random(*weight.shape, seed=seed).to(weight.dtype) * 0.05
    audio = {"waveform": torch.zeros(1, 1, 16000), "sample_rate": 16000}
    take = LodestarPlanTake.execute(model=model, audio=audio, fps=0.0, script="", width=64, height=64, chunk_frames=17,
                                    overlap_frames=5, seed_step=1, max_seconds=0.0).args[0]
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(picture_seed))
    return Encoded(model, None, take.plan, picture, clip_vision=vision)


def test_clip_vision_of_long_take_opens_the_video_and_reaches_the_network(tiny_models, tmp_path):
    model, made = rig.load(tiny_models, "hunyuan15"), []
    prompt = [[random(1, 7, rig.TEXT, seed=3), {"pooled_output": None}]]
    for picture in (1, 2):
        take = seeing(model, rig.VISION, tmp_path, picture)
        take.check_guides()
        inputs = take.chunk_inputs(take.plan.chunks[0], reference=take.reference)
        assert inputs.conditions["concat_mask"][0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1]
        assert inputs.conditions["clip_vision_output"].last_hidden_state.shape[-1] == rig.VISION
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(prompt, prompt)
        guider = attach.guider_at(guider, (), ChunkPosition(), inputs.conditions, inputs.uncond)
        with torch.inference_mode():
            made.append(guider.sample(random(*inputs.samples.shape, seed=1), inputs.samples,
                                      comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0]),
                                      disable_pbar=True, seed=1))
    assert made[0].isfinite().all() and (made[0] - made[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "width", "says"), [
    ("hunyuan15", 64, "got one of width 64, wanted 1152. Load sigclip_vision_patch14_384, with which HunyuanVideo 1.5"),
    ("hunyuan_t2v", 1152, "HunyuanVideo was not trained with it. Disconnect it")])
def test_clip_vision_that_the_network_does_not_read_is_refused(tiny_models, tmp_path, name, width, says):
    with pytest.raises(ValueError, match=f"clip_vision: {says}"):
        seeing(rig.load(tiny_models, name), width, tmp_path).check_guides()
