"""A video of the person, and a scene, as keys and values: the same as a masked sequence, whatever a call holds."""
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from families import FAMILIES, SIZE, FamilyChunk, load_family
from lodestar.backbones import reference_pass
from lodestar.backbones.humo import backbone as humo
from lodestar.backbones.omniavatar.backbone import OmniAvatarBackbone
from lodestar.backbones.wan import base as wan_base
from lodestar.backbones.wan import s2v
from lodestar.techniques.custom_background import THEN, CustomBackground
from lodestar.techniques.kv_cache import KVCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.reference_tokens import Tokens, all_tokens, tokens_in_boxes
from lodestar.techniques.video_reference import VideoReference
from torch.nn.functional import scaled_dot_product_attention

FRAMES, CHUNK = 3, 6
MASKED = ["wan21_t2v", "wan21_i2v", "wan22_ti2v", "wan22_s2v", "infinitetalk", "omniavatar", "humo_17b", "humo_1_7b"]
CLOSE = 1e-6        # of the largest value, in float32


def grid_of(chunk) -> tuple[int, int]:
    return SIZE[0] // 2, SIZE[1] // 2


def some_tokens(chunk) -> Tokens:
    """Of each frame another box."""
    keep = torch.zeros(FRAMES, *grid_of(chunk), dtype=torch.bool)
    for frame in range(FRAMES):
        keep[frame, frame % 2:3, 1:4 - frame % 2] = True
    return Tokens(keep)


def video(chunk, tokens=None, seed=40, **fields) -> VideoReference:
    tokens = tokens or Tokens(all_tokens(FRAMES, grid_of(chunk)))
    return VideoReference(chunk.picture(seed, FRAMES), tokens, **fields)


def scene(chunk, seed=50, **fields) -> CustomBackground:
    """A clip of two latents."""
    keep = torch.ones(2, *grid_of(chunk), dtype=torch.bool)
    keep[:, 1:, 1:3] = False
    return CustomBackground(chunk.picture(seed, 2), Tokens(keep), **fields)


@pytest.fixture(scope="module")
def family(tiny_models):
    return lambda name: FamilyChunk(FAMILIES[name], load_family(name, tiny_models / "models"))


class OneBranch(FamilyChunk):
    """Whose guider has the positive prompt alone, as the video's pass does."""

    def guider(self, model):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.prompt(3), self.prompt(4))
        guider.set_cfg(1.0)
        return guider


def one_branch(family, name):
    chunk = family(name)
    return OneBranch(chunk.family, chunk.model)


def masked_attention(own: int, *keeps: torch.Tensor):
    """An attention override of a whole sequence: `own` tokens that see all that are kept, then those of closed spans,
    each of which sees those of its own."""
    span = [0] * own + [number for number, keep in enumerate(keeps, 1) for _ in keep]
    there, total = [True] * own + torch.cat(keeps).tolist(), len(span)
    mask = torch.zeros(total, total, dtype=torch.bool)
    for query in range(total):
        for key in range(total):
            mask[query, key] = there[key] and span[query] in (0, span[key])

    def override(function, q, k, v, heads, *args, **kwargs):
        if (q.shape[1], k.shape[1]) != (total, total):
            return function(q, k, v, heads, *args, **kwargs)
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    return override


def ride_along(layout, visibility, techniques):
    """In place of `take_out_closed`: they are in the sequence, as anchors are."""
    for technique in techniques:
        layout = layout.change(technique.role, name="anchor")
    return layout, {}, ()


def with_override(model, override):
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


@pytest.mark.parametrize("select", [False, True], ids=["whole", "selected"])
@pytest.mark.parametrize("name", [name for name in MASKED if FAMILIES[name].exists])
def test_keys_are_those_of_a_masked_sequence(family, monkeypatch, name, select):
    """Of the whole sequence under a naive mask: the chunk sees all, video and scene themselves, what is not selected
    nobody."""
    chunk = one_branch(family, name)
    techniques = (video(chunk, some_tokens(chunk)), scene(chunk)) if select else (video(chunk),)
    kept = chunk.sample(*techniques, chunk=0, steps=1)
    for module in (wan_base, s2v, humo):
        monkeypatch.setattr(module, "take_out_closed", ride_along)
    at_level_0 = staticmethod(wan_base.Wan.with_clean_frames)       # OmniAvatar's are at the step's own level
    monkeypatch.setattr(OmniAvatarBackbone, "with_clean_frames", at_level_0)
    as_now = humo.HuMo.beside
    monkeypatch.setattr(humo.HuMo, "beside", staticmethod(lambda call, frames: as_now(
        call.change(timestep=call.timestep.view(-1, 1).repeat(1, call.x.shape[2])), frames)))
    own = (CHUNK + chunk.family.own_reference) * grid_of(chunk)[0] * grid_of(chunk)[1]
    keeps = [technique.tokens.keep.flatten() for technique in techniques]
    model = with_override(chunk.model, masked_attention(own, *keeps))
    masked = chunk.sample(*techniques, model=model, chunk=0, steps=1)
    assert (kept - masked).abs().max() < CLOSE * masked.abs().max()
    assert (kept - chunk.sample(chunk=0, steps=1)).abs().max() > 1e-3


def test_there_is_room_for_all_of_the_frame_that_takes_the_scene_s_place():
    keep = torch.zeros(1, 4, 4, dtype=torch.bool)
    keep[:, :1] = True
    for then, tokens in ((THEN[0], 16), (THEN[1], 4)):
        placed = CustomBackground(torch.zeros(1, 16, 1, 8, 8), Tokens(keep), then)
        assert reference_pass.bytes_beside((placed,), 16, 2, 8, torch.float32) == tokens * 2 * 2 * 8 * 4


CACHED = ["wan21_t2v", "wan21_i2v", "wan22_ti2v", "wan22_s2v", "infinitetalk", "humo_17b", "humo_1_7b", "omniavatar",
          "longcat_avatar", "longcat_video"]


@pytest.fixture(params=[name for name in CACHED if FAMILIES[name].exists])
def chunk(request, family):
    """Of every family."""
    return family(request.param)


@pytest.fixture(params=["wan21_t2v", "longcat_avatar"])
def either(request, family):
    """Of ComfyUI's models and of the pack's own."""
    return family(request.param)


@pytest.fixture
def kept(monkeypatch):
    """Keys and values of each video reference that was made, in turn."""
    caches, own = [], reference_pass.make_cache

    def recorded(*args):
        caches.append(own(*args))
        pairs.append([tuple(tensor.clone() for tensor in pair) for pair in caches[-1].blocks])
        return caches[-1]

    pairs: list = []
    monkeypatch.setattr(reference_pass, "make_cache", recorded)
    return pairs


def equal(one, other) -> bool:
    return all(torch.equal(*tensors) for pairs in zip(one, other, strict=True) for tensors in zip(*pairs, strict=True))


def test_keys_do_not_depend_on_the_call(chunk, kept, monkeypatch):
    """Made once for all steps and both branches; not of what is sampled, its steps, its context or its speech."""
    chunk.sample(video(chunk), steps=3)
    chunk.sample(video(chunk), steps=1, context=17)
    chunk.sample(video(chunk), chunk=0, picture=6, latents=4)
    assert len(kept) == 3 and all(equal(kept[0], other) for other in kept[1:])
    chunk.sample(video(chunk, seed=41))
    assert not equal(kept[0], kept[3])


def test_the_negative_prompt_is_no_part_of_the_keys(either, kept):
    """Nor is it where the branches are not one batch."""
    inputs, technique = either.inputs(), video(either)
    for negative in (4, 5):
        guider = either.guider(either.model)
        guider.set_conds(either.prompt(3), [[torch.cat([either.prompt(negative)[0][0]] * (negative - 3), 1), {}]])
        either.run(either.guider_at(guider, (technique,), inputs), inputs)
    assert len(kept) == 2 and equal(*kept)


def test_a_box_over_all_is_no_selection(either):
    whole = Tokens(all_tokens(FRAMES, grid_of(either)))
    boxes = Tokens(tokens_in_boxes([(0, 0, 1, 1)] * FRAMES, grid_of(either)))
    made, boxed, selected = (either.sample(video(either, tokens)) for tokens in (whole, boxes, some_tokens(either)))
    assert torch.equal(made, boxed) and (made - selected).abs().max() > 1e-4


def test_selected_tokens_alone_are_seen(chunk):
    """What was not selected shows in nothing; what was keeps its place."""
    technique, latents = video(chunk, some_tokens(chunk)), chunk.picture(40, FRAMES)
    elsewhere = latents + 3 * (~technique.tokens.keep).repeat_interleave(2, 1).repeat_interleave(2, 2)
    inside = latents + 3 * technique.tokens.keep.repeat_interleave(2, 1).repeat_interleave(2, 2)
    made, other, changed = (chunk.sample(VideoReference(seen, technique.tokens))
                            for seen in (latents, elsewhere, inside))
    assert torch.equal(made, other) and (made - changed).abs().max() > 1e-4


def test_when_it_stands_counts(either):
    made = [either.sample(video(either, placement=placement)) for placement in ("ahead", "before", "own")]
    assert all((one - made[0]).abs().max() > 1e-5 for one in made[1:])
    assert (made[0] - either.sample(video(either, distance=30))).abs().max() > 1e-5


@pytest.mark.parametrize("name", ["wan21_t2v", "wan22_s2v", "longcat_avatar"])
def test_beside_anchor_and_skip(family, name):
    """Frames that do not see the anchor see the video."""
    chunk = family(name)
    anchor = LookaheadAnchor(3, latents=chunk.picture(12), placement="in chunk", index=2)
    skip = ReferenceSkip(radius=60)
    made = [chunk.sample(*others, video(chunk), chunk=0) for others in ((anchor,), (anchor, skip), (skip,))]
    assert (made[0] - made[1]).abs().max() > 1e-5
    other = chunk.sample(LookaheadAnchor(3, latents=chunk.picture(13), placement="in chunk", index=2), skip,
                         video(chunk), chunk=0)
    assert (made[1] - other).abs().max() < 1e-4
    assert (made[1] - chunk.sample(anchor, skip, video(chunk, seed=41), chunk=0)).abs().max() > 1e-4


def test_in_ram_it_is_the_same(either):
    assert torch.equal(either.sample(video(either)), either.sample(video(either, offload="RAM")))


def test_windows_share_them(either, kept):
    """Context windows and both branches see what one pass left."""
    window = WanContextWindowsManualNode.execute
    windows = window(either.model, 9, 4, "standard_static", 1, False, "flat", False).args[0]
    made = [either.sample(video(either, seed=seed), model=windows, chunk=0) for seed in (40, 41)]
    assert len(kept) == 2 and (made[0] - made[1]).abs().max() > 1e-4 and made[0].isfinite().all()
    either.sample(video(either), chunk=0)
    assert equal(kept[0], kept[2])


def test_what_is_said_in_it(family, kept):
    """Added to its own tokens, zeros being none; LongCat has an audio attention for it."""
    omni = family("omniavatar")
    audio = omni.audio(50, FRAMES, 0)
    for said in (None, torch.zeros_like(audio), audio):
        omni.sample(video(omni, audio=said))
    assert equal(kept[0], kept[1]) and not equal(kept[0], kept[2])
    longcat = family("longcat_avatar")
    made = [longcat.sample(video(longcat, audio=said)) for said in (None, longcat.audio(50, FRAMES, 0)[:, :, -9:])]
    assert not equal(kept[3], kept[4]) and torch.equal(kept[3][0][0], kept[4][0][0])
    assert (made[0] - made[1]).abs().max() > 1e-6


@pytest.mark.parametrize("name", [name for name in ("wan21_t2v", "wan22_s2v", "humo_17b", "infinitetalk",
                                                    "longcat_video") if FAMILIES[name].exists])
def test_sound_that_has_no_way_to_it_is_refused(family, name):
    backbone = family(name).backbone
    backbone.check_video_reference(False)
    with pytest.raises(ValueError, match=r"audio_features: .* has no way to its frames. Disconnect it"):
        backbone.check_video_reference(True)


def test_of_no_tokens_nothing_is_seen():
    key, value = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    empty = KVCache([(torch.zeros(1, 0, 2, 4), torch.zeros(1, 0, 2, 4))], torch.zeros(0, 3), (0.0,), (0,))
    keys = reference_pass.VideoKeys(empty, empty.frequencies(3.0, (2, 1, 1)))
    assert all(map(torch.equal, keys.join(0, key, value), (key, value)))


def test_tokens_of_another_grid_are_refused(either):
    with pytest.raises(ValueError, match="chosen on a grid of 3x2, this model's is 4x4"):
        either.sample(video(either, Tokens(all_tokens(FRAMES, (2, 3)))))
