"""LTX-2: anchors through one wrapper against ComfyUI's own guide door, speech in the latent, hand-over, decoding."""
import logging
from fractions import Fraction

import pytest
import torch
from comfy.ldm.lightricks.av_model import LTXAVModel
from comfy.nested_tensor import NestedTensor
from draws import random
from families import FAMILIES, load_family
from joint_models import LTX, LTX25, load_ltx, load_ltx_diffusion_vae, load_ltx_vae
from lodestar.backbones import attach, find
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import ChunkRequest
from lodestar.backbones.ltx.backbone import LTX as Backbone
from lodestar.backbones.ltx.stream import LTXStream
from lodestar.backbones.vae import encode_frames, open_stream
from lodestar.nodes.lookahead_anchor import LodestarLookaheadAnchor
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition
from ltx_runs import FRAMES, HEIGHT, LAST, SOUND, TOKENS, WIDTH, anchored, apart, latents, locked, run, speech
from torch.utils._pytree import tree_leaves

KEPT = 1e-6


@pytest.fixture(scope="module")
def model():
    return load_ltx(LTX)


# ---------------------------------------------------------------- anchors

@pytest.mark.parametrize("frame", [LAST + 24, LAST + 200, -8])
def test_an_anchor_is_what_the_guide_door_of_core_gives(model, frame):
    """Appended to the latent with a mask of 0 and core's own keyframe_idxs, which core's node refuses there."""
    check_guide_door(model, frame, 2e-5)


def test_in_2_5_an_anchor_is_no_frame_of_the_video_s_either():
    """2.5 marks latents of one frame alone: the video's first, and none of core's guides, nor ours."""
    if not hasattr(LTXAVModel, "keyframes_abs_pos_mask"):
        pytest.skip("this ComfyUI has no LTX-2.5")
    newest, marked = load_ltx(LTX25), []
    own = newest.model.diffusion_model

    def see(*given, **named):
        marked.append(LTXAVModel.keyframes_abs_pos_mask(own, *given, **named))
        return marked[-1]

    own.keyframes_abs_pos_mask = see
    check_guide_door(newest, LAST + 24, 1e-4)     # its numbers are larger
    assert all(mask[:, :TOKENS].all() and not mask[:, TOKENS:].any() for mask in marked)
    assert own.keyframes_abs_pos_embedding.any()
    assert {mask.shape[1] for mask in marked} == {FRAMES * TOKENS, (FRAMES + 1) * TOKENS}


def check_guide_door(model, frame, tolerance):
    anchor, noise = latents(1, 12), (random(1, 128, FRAMES, HEIGHT, WIDTH, seed=1), random(1, 8, SOUND, 16, seed=2))
    tokens = torch.arange(HEIGHT * WIDTH)
    begin = torch.stack([torch.full_like(tokens, frame), tokens // WIDTH * 32, tokens % WIDTH * 32])
    places = torch.stack([begin, begin + torch.tensor([[1], [32], [32]])], -1)[None]
    mask = torch.ones(1, 1, FRAMES + 1, HEIGHT, WIDTH)
    mask[:, :, -1] = 0
    theirs = run(model, torch.cat([torch.zeros_like(latents()), anchor], 2), steps=2, keyframe_idxs=places,
                 mask=NestedTensor((mask, torch.ones(1, 1, SOUND, 16))),
                 noise=NestedTensor((torch.cat([noise[0], torch.zeros_like(anchor)], 2), noise[1])))
    place = {"distance": (frame - LAST) / 8} if frame > 0 else {"distance": -frame / 8, "placement": "past"}
    ours = run(anchored(model, apart=False, **place), steps=2)
    assert apart(ours, (theirs[0][:, :, :FRAMES], theirs[1])) < tolerance and ours[0].shape[2] == FRAMES
    assert apart(ours, run(model, steps=2)) > 1e-3


def test_without_techniques_no_bit_changes(model):
    ours, theirs = run(attach.install_techniques(model, (), ChunkPosition())), run(model)
    assert all(map(torch.equal, ours, theirs))


def test_a_place_between_pixel_frames_is_rounded_and_said(model, caplog):
    with caplog.at_level(logging.WARNING, "lodestar"):
        made = run(anchored(model, (48.9 - LAST) / 8))
    assert "should stand at frame 48.9 stands at 49" in caplog.text
    assert apart(made, run(anchored(model, (49 - LAST) / 8))) == 0 < apart(made, run(anchored(model, (48 - LAST) / 8)))


def test_an_anchor_farther_than_it_was_trained_is_said(model, caplog):
    with caplog.at_level(logging.WARNING, "lodestar"):
        run(anchored(model, 59.0))
        assert not caplog.text      # 20 s are 500 frames, of which the anchor is 497
        run(anchored(model, 60.0))
    assert "20.2 s after the chunk's first frame" in caplog.text


def test_a_mouth_in_the_anchor_says_nothing(model):
    """What is between picture and sound passes it by: as if it were asked alone."""
    alone = [run(anchored(model, latents=latents(1, seed)), wrap=without_own_attention) for seed in (12, 13)]
    assert torch.equal(alone[0][1], alone[1][1])
    leaking = [run(anchored(model, apart=False, latents=latents(1, seed)), wrap=without_own_attention)
               for seed in (12, 13)]
    assert not torch.equal(leaking[0][1], leaking[1][1])
    moved = [run(anchored(model), sound=speech(seed), mask=locked(), wrap=see_last_frame(seen := []))
             and seen[-1] for seed in (6, 7)]
    assert torch.equal(*moved)


def without_own_attention(executor, *args, **kwargs):
    """The picture's frames do not see one another: what the anchor gives reaches the sound by itself alone."""
    options, total = args[5], args[0][0].shape[2] * TOKENS

    def own(function, q, k, v, *given, **named):
        if q.shape[1] == k.shape[1] == total:
            return v
        return options["optimized_attention_override"](function, q, k, v, *given, **named) \
            if "optimized_attention_override" in options else function(q, k, v, *given, **named)

    return executor(*args[:5], {**options, "optimized_attention_override": own}, *args[6:], **kwargs)


def see_last_frame(seen):
    """What the network made of the last frame that it was given, where no frame sees another."""
    def wrapper(executor, *args, **kwargs):
        made = without_own_attention(executor, *args, **kwargs)
        seen.append(made[0][:, :, -1].clone())
        return made
    return wrapper


@pytest.mark.parametrize("skip", [ReferenceSkip(), ReferenceSkip("soft", factor=0.3)])
def test_a_reference_skip_is_a_dense_mask(model, skip):
    inside = {"placement": "in chunk", "index": 1}
    masked = attach.install_techniques(model, (LookaheadAnchor(latents=latents(1, 12), **inside),), ChunkPosition())
    weights = torch.ones(FRAMES + 1, FRAMES + 1)
    weights[:3, -1] = skip.factor if skip.mode == "soft" else 0
    weights[1, -1] = 0
    bias = weights.log().repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1)

    def dense(executor, *args, **kwargs):
        options = args[5]

        def override(function, q, k, v, heads, **named):
            earlier = options["optimized_attention_override"]
            mask = {"mask": bias} if q.shape[1] == k.shape[1] == len(bias) else {}
            return earlier(function, q, k, v, heads, **{**named, **mask})

        return executor(*args[:5], {**options, "optimized_attention_override": override}, *args[6:], **kwargs)

    plain, ours = run(masked), run(anchored(model, 3.0, skip, **inside))
    assert apart(ours, run(masked, wrap=dense)) < 1e-5 < 1e-3 < apart(ours, plain)


def test_what_cannot_be_laid_out_is_refused(model):
    places = torch.zeros(1, 3, TOKENS, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="guide frames of its own"):
        run(anchored(model), torch.cat([latents(), latents(1)], 2), keyframe_idxs=places)
    with pytest.raises(ValueError, match="has 60 tokens, as many as the sound"):
        run(anchored(model), sound=random(1, 8, (FRAMES + 1) * TOKENS, 16, seed=6),
            noise=NestedTensor((latents(), random(1, 8, (FRAMES + 1) * TOKENS, 16, seed=2))))


@pytest.mark.parametrize("family", ["wan21_t2v", "ltx", "minimax_h3"])
def test_seconds_are_seconds_on_every_family(family, tiny_models):
    if not FAMILIES[family].exists:
        return
    own = load_family(family, tiny_models / "models")
    backbone = find(own)

    def distance(**given):
        anchored = LodestarLookaheadAnchor.execute(own, **{"distance": 12.0, "unit": "pixel frames", "index": 0.0,
                                                           "placement": "lookahead"} | given).args[0]
        return attach.techniques_of(anchored)[0].distance

    assert distance(seconds=2.1) == pytest.approx(2.1 * backbone.fps / backbone.temporal_ratio)
    assert distance() == (1.5 if family == "ltx" else 3)


# ---------------------------------------------------------------- speech

def request(**fields):
    """Of a chunk of four latents at 24 fps; its speech are samples whose latents count them."""
    def encode_sound(samples, begin, seconds):
        first = round(begin * 1000)
        count = round(seconds * 25) + 3
        return samples[0, first:first + 1, 0].view(1, 1, 1, 1) + torch.arange(count).view(1, 1, -1, 1).expand(
            1, 8, count, 16)

    return ChunkRequest(4, (128, HEIGHT, WIDTH), fps=Fraction(24), encode_sound=encode_sound,
                        audio=torch.arange(2000.0).view(1, -1, 1), **fields)


def test_speech_is_held_and_drives_the_picture(model):
    inputs = find(model).chunk_inputs(request(reference=latents(1)))
    picture, sound = inputs.samples.unbind()
    assert sound.shape == (1, 8, 26, 16) and picture.shape[2] == 4       # 25 frames at 24 a second, 25 latents a second
    assert torch.equal(sound[0, 0, :, 0], torch.arange(26.0)) and not inputs.noise_mask.unbind()[1].any()
    assert torch.equal(picture[:, :, :1], latents(1)) and inputs.conditions["frame_rate"] == 24
    made = [run(model, sound=speech(seed), mask=locked(), steps=2) for seed in (6, 7)]
    assert (made[0][1] - speech(6)).abs().max() < KEPT and (made[0][0] - made[1][0]).abs().max() > 1e-3
    without = find(model).chunk_inputs(ChunkRequest(4, (128, HEIGHT, WIDTH)))
    assert without.noise_mask is None and without.samples.unbind()[1].shape[2] == 26


def test_a_prediction_without_speech_does_not_know_it(model):
    severed = attach.install_techniques(model, (), ChunkPosition())
    made = [run(severed, sound=speech(seed), mask=locked(), lodestar_speech=torch.zeros(1, 1)) for seed in (6, 7)]
    assert torch.equal(made[0][0], made[1][0])


def test_speech_behind_the_chunk_is_given_with_it():
    inputs = Backbone().chunk_inputs(request(seconds_ahead=Fraction(1, 2)))
    assert inputs.samples.unbind()[1].shape[2] == round(25 * (25 / 24 + 0.5))


# ---------------------------------------------------------------- chunks

def test_a_chunk_begins_with_a_frame_alone_and_what_passed_stands_before_it(model):
    """Slot 0 is the last decoded frame, encoded; the latents of the take before have their own frames."""
    shown = []

    def encode(frames):
        shown.append(frames)
        return latents(1, 9)

    frames = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 8, 8, 3)
    inputs = find(model).chunk_inputs(request(context=latents(2, 7), context_frames=frames, encode=encode))
    picture, sound = inputs.samples.unbind()
    assert torch.equal(shown[0], frames[-1:]) and torch.equal(picture[:, :, :1], latents(1, 9))
    assert picture.shape[2] == 3 and inputs.before == 1 and torch.equal(inputs.context, latents(2, 7))
    mask = inputs.noise_mask.unbind()[0]
    assert not mask[:, :, 0].any() and mask[:, :, 1:].all()
    assert sound[0, 0, 0, 0] == 333     # the sound begins with that frame: a third of a second into the chunk's
    assert torch.equal(inputs.new_latents(NestedTensor((picture, sound)), 2), picture[:, :, 1:])
    seen = []

    def see(executor, *args, **kwargs):
        seen.append(args)
        return executor(*args, **kwargs)

    position = ChunkPosition(context=latents(2, 7))
    stitched = attach.install_techniques(model, (LatentStitch(), LookaheadAnchor(3, latents=latents(1, 12))), position)
    run(stitched, wrap=see)
    places, level = seen[0][6], seen[0][1]
    assert places.dtype == torch.int64 and places[0, 0, ::TOKENS].tolist() == [[-15, -7], [-7, 1], [48, 49]]
    assert level.shape[1] == (FRAMES + 3) * TOKENS and not level[:, -3 * TOKENS:].any() and level[:, :TOKENS].all()
    assert torch.equal(places[0, 1, :WIDTH], torch.tensor([[0, 32]] * WIDTH))


def test_re_encoded_frames_and_a_clip_s_open_the_latent(model):
    inputs = find(model).chunk_inputs(request(context=latents(2, 7), re_encoded=True))
    picture, sound = inputs.samples.unbind()
    assert torch.equal(picture[:, :, :2], latents(2, 7)) and picture.shape[2] == 4 and sound[0, 0, 0, 0] == 0
    assert inputs.context is None and inputs.before == 0


def test_without_frames_one_more_slot_is_sampled_and_dropped(model):
    inputs = find(model).chunk_inputs(request(context=latents(2, 7)))
    assert inputs.noise_mask.unbind()[0].all() and inputs.before == 1


def test_sound_of_a_chunk_is_cut_to_the_sample_ten_minutes_in(model):
    backbone, rate = find(model), 8_000
    clock, latent = backbone.timeline(Fraction(24000, 1001)), 1800
    recording = Speech(((torch.arange(rate * 602, dtype=torch.float64).view(1, -1, 1),),), float(rate), "ltx")
    samples = backbone.audio_for(recording, clock, latent, 4)
    assert abs(samples[0, 0, 0].item() / rate - latent * 8 * 1001 / 24000) < 1e-3 / 10 < 0.5 < latent * 8 / 24
    clock = backbone.timeline(Fraction(25))
    before = backbone.audio_for(recording, clock, -2, 4)
    assert not before[0, :round(0.6 * rate)].any() and before[0, round(0.64 * rate) + 10, 0] > 0


# ---------------------------------------------------------------- decoding

@pytest.fixture(scope="module")
def vae():
    return load_ltx_vae()


def shown(stream, latents, sizes):
    """(frames, frames of the last peek): the latents are pushed in pieces, then the stream is flushed."""
    frames = [frame for part in latents.split(sizes, 2) for frame in stream.push(part)]
    last = stream.peek()
    return torch.cat([*frames, *stream.flush()]), last


def test_decoding_chunk_by_chunk_is_decoding_the_whole(vae):
    """In ComfyUI 0.7, whose decoder keeps nothing, nearly: what is more than four latents away counts a little."""
    z, stream = random(1, 128, 15, 1, 2, seed=1), open_stream(vae)
    whole, (made, last) = vae.decode(z)[0], shown(stream, z, (7, 1, 5, 2))
    assert made.shape == whole.shape and torch.equal(last, made[-len(last):])
    carried = isinstance(stream, LTXStream)
    assert carried == hasattr(vae.first_stage_model.decoder, "run_up")
    assert (made - whole).abs().max() < (2e-5 if carried else 0.3)
    with pytest.raises(ValueError, match="was flushed"):
        next(iter(stream.push(z)))
    assert not any(getattr(module, "temporal_cache_state", None) for module in vae.first_stage_model.modules())


def test_a_fresh_stream_comes_to_the_state_of_an_old_one(vae):
    z = random(1, 128, 22, 1, 1, seed=1)
    old, fresh = open_stream(vae), open_stream(vae)
    first = (16 - old.warmup_latents) // 2 * 2
    assert first > 0
    for stream, begin in ((old, 0), (fresh, first)):
        for _ in stream.push(z[:, :, begin:16]):
            pass
    one, other = (torch.cat([*stream.push(z[:, :, 16:]), *stream.flush()]) for stream in (old, fresh))
    assert one.shape == other.shape and (one - other).abs().max() < 2e-5


def test_what_a_stream_keeps_does_not_grow(vae):
    stream, kept = open_stream(vae), []
    for piece in random(1, 128, 16, 1, 1, seed=1).split(2, 2):
        for _ in stream.push(piece):
            pass
        kept.append(sum(part.untyped_storage().nbytes() for part in tree_leaves([*vars(stream).values(), *getattr(
            stream, "_state", {}).values()]) if isinstance(part, torch.Tensor)))
    assert len(set(kept[-3:])) == 1 and kept[-1] < 2 * 1024 ** 2


def test_frames_made_out_of_noise_are_those_of_the_whole_take():
    """2.4's decoder; with its noise left out, since ComfyUI draws another for every length."""
    pytest.importorskip("comfy.ldm.lightricks.vae.na_diffusion_decoder")
    vae, z = load_ltx_diffusion_vae(), random(1, 128, 11, 1, 1, seed=1)
    weight = vae.first_stage_model.decoder.conv_in_x_t.weight
    with torch.inference_mode():
        assert [encode_frames(vae, torch.rand(frames, 32, 32, 3)).shape[2] for frames in (1, 9)] == [1, 2]
        made, again = (shown(open_stream(vae), z, (6, 5))[0] for _ in range(2))
        assert torch.equal(made, again) and made.shape[0] == 8 * 10 + 1
        weight.data.zero_()
        whole, (quiet, _) = vae.decode(z)[0], shown(open_stream(vae), z, (6, 5))
        assert (quiet - whole).abs().max() < 1e-4 < (quiet - made).abs().max()
        assert (shown(open_stream(vae), z[:, :, :1], (1,))[0] - vae.decode(z[:, :, :1])[0]).abs().max() < 1e-4
