"""MiniMax H3: anchors as ComfyUI's own keyframes, speech held or given ahead, clips, decoding; against diffusers."""
from fractions import Fraction

import pytest
import torch

pytest.importorskip("comfy.ldm.minimax.model", reason="this ComfyUI has no MiniMax H3")

import comfy.ldm.minimax.model as minimax  # noqa: E402
import comfy.sample  # noqa: E402
from comfy.nested_tensor import NestedTensor  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402
from draws import random  # noqa: E402
from joint_models import H3, load_h3, load_h3_vae  # noqa: E402
from lodestar.backbones import attach, find  # noqa: E402
from lodestar.backbones.audio.speech import Speech  # noqa: E402
from lodestar.backbones.backbone import ChunkRequest  # noqa: E402
from lodestar.backbones.minimax_h3.backbone import KEYFRAMES, frame_at  # noqa: E402
from lodestar.backbones.minimax_h3.stream import H3Stream  # noqa: E402
from lodestar.backbones.vae import encode_frames, open_stream  # noqa: E402
from lodestar.techniques.latent_stitch import LatentStitch  # noqa: E402
from lodestar.techniques.lookahead_anchor import LookaheadAnchor  # noqa: E402
from lodestar.techniques.reference_skip import ReferenceSkip  # noqa: E402
from lodestar.techniques.technique import ChunkPosition  # noqa: E402

LATENTS, SIZE, FRAMES, SOUND, WORDS = 7, (8, 8), 22, 37, 6
TOKENS = 16
THIRD = 5 / 3       # of a pixel frame, in this model's time


@pytest.fixture(scope="module")
def model():
    return load_h3()


@pytest.fixture(scope="module")
def vae():
    return load_h3_vae()


def latents(frames=1, seed=12):
    return random(1, 24, frames, *SIZE, seed=seed)


def run(model, picture=None, sound=None, mask=None, wrap=None, steps=2, **values):
    """[picture, sound] of a run of ComfyUI's sampler."""
    clone = model.clone()
    if wrap is not None:
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", wrap)
    latent = NestedTensor((torch.zeros_like(latents(LATENTS)) if picture is None else picture,
                           torch.zeros(1, 32, 2, SOUND) if sound is None else sound))
    noise = NestedTensor(random(*part.shape, seed=seed) for seed, part in enumerate(latent.unbind(), 1))
    prompt = [[random(1, WORDS, 40, seed=3), values]]
    with torch.inference_mode():
        return comfy.sample.sample(clone, noise, steps, 1.0, "euler", "simple", prompt, prompt, latent, denoise=1.0,
                                   noise_mask=mask, seed=1, disable_pbar=True).unbind()


def anchored(model, distance=3.0, *techniques, **options):
    anchor = LookaheadAnchor(distance, **{"latents": latents(), **options})
    return attach.install_techniques(model, (anchor, *techniques), ChunkPosition())


def apart(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


def see(seen):
    def wrapper(executor, x, timestep, context, options=None, **given):
        made = executor(x, timestep, context, options or {}, **given)
        seen.update(x=[part.clone() for part in x], t=timestep.clone(), context=context, made=[*made], **given)
        return made
    return wrapper


# ---------------------------------------------------------------- anchors

@pytest.mark.parametrize(("place", "frame"), [
    ({"distance": 12.0}, FRAMES - 1 + 48), ({"distance": 0.25 + 1}, FRAMES - 1 + 5),
    ({"distance": 2.0, "placement": "past"}, -8), ({"placement": "in chunk", "index": 2}, 5)])
def test_an_anchor_is_a_keyframe_of_core_s_where_it_was_asked(model, place, frame):
    seen = {}
    ours = run(anchored(model, **place), wrap=see(seen))
    theirs = run(model, minimax_keyframes=[{"resolved_frame_index": frame, "latent": latents()}])
    assert all(map(torch.equal, ours, theirs)) and apart(ours, run(model)) > 1e-3
    layout = seen["minimax_payload"]["layout"]
    (begin, end, _), = (segment for segment in layout.segments if segment[2] == "cond")
    assert end - begin == TOKENS and ours[0].shape[2] == LATENTS
    assert layout.position_ids[begin, 0].item() == pytest.approx(WORDS + THIRD * frame)


def test_it_stands_behind_the_keyframes_of_the_conditioning(model):
    seen, theirs = {}, {"resolved_frame_index": 0, "latent": latents(seed=13)}
    run(anchored(model), wrap=see(seen), minimax_keyframes=[theirs],
        lodestar_keyframes=[{"resolved_frame_index": 7, "latent": latents(seed=14)}])
    frames = [keyframe["resolved_frame_index"] for keyframe in seen["minimax_payload"]["keyframes"]]
    assert frames == [0, 7, FRAMES - 1 + 12]
    with pytest.raises(ValueError, match="anchor: got latents of 4x4, the take's are 8x8"):
        run(anchored(model, latents=random(1, 24, 1, 4, 4, seed=1)))


def test_without_techniques_no_bit_changes(model):
    assert all(map(torch.equal, run(attach.install_techniques(model, (), ChunkPosition())), run(model)))


@pytest.mark.parametrize("skip", [ReferenceSkip(), ReferenceSkip("soft", factor=0.3)])
def test_a_reference_skip_is_a_dense_mask(model, skip):
    """Beside a keyframe of the user's, which is no reference of ours."""
    inside, theirs = {"placement": "in chunk", "index": 2}, [{"resolved_frame_index": 9, "latent": latents(seed=13)}]

    def dense(executor, x, timestep, context, options=None, minimax_payload=None, **given):
        layout = minimax_payload["layout"]
        ours = [segment for segment in layout.segments if segment[2] == "cond"][1]
        video = next(begin for begin, _, kind in layout.segments if kind == "video")
        bias = torch.zeros(layout.seq_len, layout.seq_len)
        for latent in (1, 2, 3):
            weight = skip.factor if skip.mode == "soft" and latent != 2 else 0.0
            rows = slice(video + latent * TOKENS, video + (latent + 1) * TOKENS)
            bias[rows, ours[0]:ours[1]] = torch.tensor(weight).log()

        def override(function, q, k, v, heads, mask=None, **named):
            return function(q, k, v, heads, mask=bias if q.shape[2] == layout.seq_len else mask, **named)

        return executor(x, timestep, context, {**(options or {}), "optimized_attention_override": override},
                        minimax_payload=minimax_payload, **given)

    plain = anchored(model, **inside)
    ours = run(anchored(model, 3.0, skip, **inside), minimax_keyframes=theirs)
    assert apart(ours, run(plain, wrap=dense, minimax_keyframes=theirs)) < 1e-5
    assert apart(ours, run(plain, minimax_keyframes=theirs)) > 1e-3


def test_times_of_a_layout_are_pixel_frames():
    assert [frame_at(time, 7) for time in (-1, 0, 1, 2.5, 5, 6, 9)] == [-4, 0, 1, 7, 17, 21, 33]


# ---------------------------------------------------------------- speech, chunks

def request(**fields):
    def encode_sound(samples, begin, seconds):
        count = round(seconds * 40) + 2
        return (float(begin) + torch.arange(count) / 1000).view(1, 1, 1, -1).expand(1, 32, 2, -1)

    return ChunkRequest(LATENTS, (24, *SIZE), fps=Fraction(24), encode_sound=encode_sound,
                        audio=torch.zeros(1, 100, 1), **fields)


def locked(picture=None):
    return NestedTensor((torch.ones(1, 1, LATENTS, *SIZE) if picture is None else picture,
                         torch.zeros(1, 32, 2, SOUND)))


def test_speech_is_held_and_drives_the_picture(model):
    made = [run(model, sound=random(1, 32, 2, SOUND, seed=seed), mask=locked()) for seed in (6, 7)]
    assert (made[0][1] - random(1, 32, 2, SOUND, seed=6)).abs().max() < 1e-6
    assert (made[0][0] - made[1][0]).abs().max() > 1e-3


def test_the_picture_is_the_first_keyframe_and_what_passed_opens_later_chunks(model):
    backbone = find(model)
    first = backbone.chunk_inputs(request(reference=latents()))
    picture, sound = first.samples.unbind()
    assert sound.shape == (1, 32, 2, SOUND) and not picture.any() and not first.noise_mask.unbind()[1].any()
    keyframe, = first.conditions[KEYFRAMES]
    assert keyframe["resolved_frame_index"] == 0 and torch.equal(keyframe["latent"], latents())
    later = backbone.chunk_inputs(request(reference=latents(), context=latents(2, 7)))
    picture, mask = later.samples.unbind()[0], later.noise_mask.unbind()[0]
    assert torch.equal(picture[:, :, :2], latents(2, 7)) and KEYFRAMES not in later.conditions
    assert not mask[:, :, :2].any() and mask[:, :, 2:].all()
    made = run(model, picture, random(1, 32, 2, SOUND, seed=6), locked(mask))
    assert (made[0][:, :, :2] - latents(2, 7)).abs().max() < 1e-6
    assert torch.equal(later.new_latents(NestedTensor(made), 2), made[0][:, :, 2:])


def test_speech_behind_the_chunk_is_a_keyframe_of_sound(model):
    inputs = find(model).chunk_inputs(request(seconds_ahead=Fraction(1, 2)))
    keyframe, = inputs.conditions[KEYFRAMES]
    assert keyframe["resolved_frame_index"] == FRAMES and keyframe["audio_latent"].shape == (1, 32, 2, 20)
    assert keyframe["audio_latent"][0, 0, 0, 0] == pytest.approx(FRAMES / 24)
    ready = attach.install_techniques(model, (), ChunkPosition())
    seen = {}
    made = run(ready, wrap=see(seen), lodestar_keyframes=[keyframe])
    layout = seen["minimax_payload"]["layout"]
    (begin, _, _), = (segment for segment in layout.segments if segment[2] == "cond_audio")
    assert layout.position_ids[begin, 0].item() == pytest.approx(WORDS + THIRD * FRAMES)
    assert apart(made, run(model)) > 1e-3


def test_sound_of_a_chunk_is_cut_to_the_sample_ten_minutes_in(model):
    backbone, rate, latent = find(model), 8_000, 4235      # 847 clips of 17 frames
    recording = Speech(((torch.arange(rate * 602, dtype=torch.float64).view(1, -1, 1),),), float(rate), "minimax h3")
    for fps in (Fraction(24), Fraction(24000, 1001)):
        samples = backbone.audio_for(recording, backbone.timeline(fps), latent, 7)
        assert abs(samples[0, 0, 0].item() / rate - 847 * 17 / fps) < 1e-4 and 599 < samples[0, 0, 0] / rate < 602
        assert samples.shape[1] == round(22 / fps * rate)


def test_what_it_cannot_have_is_refused(model):
    backbone = find(model)
    with pytest.raises(ValueError, match="Set Latent Stitch to 'stitch'"):
        backbone.check_handover(LatentStitch("re-encode"))
    backbone.check_handover(LatentStitch())
    with pytest.raises(ValueError, match="no prediction without speech"):
        backbone.speech_guider()


# ---------------------------------------------------------------- against diffusers

NAMES = {"video_patch_proj": "proj_in", "audio_patch_proj": "audio_proj_in", "condition_proj": "context_embedder",
         "time_embedder.proj_in": "time_embedder.linear_1", "time_embedder.proj_out": "time_embedder.linear_2",
         "final_layer.norm": "norm_out.norm", "final_layer.adaln_proj.linear": "norm_out.linear",
         "final_layer.video_out": "proj_out", "final_layer.audio_out": "audio_proj_out"}


def diffusers_twin(weights):
    from diffusers.models.transformers.transformer_minimax_h3 import MiniMaxH3Transformer3DModel
    twin = MiniMaxH3Transformer3DModel(
        num_attention_heads=2, attention_head_dim=16, hidden_size=32, num_layers=3, num_refiner_layers=1, ffn_dim=48,
        in_channels=24, audio_in_channels=32, text_dim=40, freq_dim=16, time_embed_hidden_dim=24, time_embed_dim=16,
        rope_freq_dim=H3["rope_inv_freq_len"])
    twin.rope.inv_freq.copy_(weights["rope.inv_freq"])
    inside = [name.split(".")[1] for name in twin.state_dict() if name.startswith("token_refiner.")]
    norm = next(name for name in twin.state_dict() if name.startswith("token_refiner.") and "norm" in name
                and "blocks" not in name and "layers" not in name)
    found = {}
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".")
        if name == "rope.inv_freq":
            continue
        if layer in NAMES:
            found[f"{NAMES[layer]}.{kind}"] = value
        elif layer == "token_refiner.final_norm":
            found[norm] = value
        else:
            place, rest = name.split("blocks.")[1].split(".", 1)
            blocks = f"token_refiner.{inside[0]}" if name.startswith("token_refiner.") else "transformer_blocks"
            found |= {f"{blocks}.{place}.{own}": part for own, part in block_names(rest, value)}
    twin.load_state_dict(found)
    return twin.eval()


def block_names(name, value):
    if name == "attn.qkv_proj.weight":
        return [(f"attn.to_{part}.weight", weight) for part, weight in zip("qkv", value.chunk(3), strict=True)]
    if name == "mlp.fc1.weight":
        return [("ff.net.0.proj.weight", torch.cat(value.chunk(2)[::-1]))]
    for theirs, ours in (("attn.out_proj", "attn.to_out.0"), ("q_norm", "norm_q"), ("k_norm", "norm_k"),
                         ("mlp.fc2", "ff.net.2")):
        name = name.replace(theirs, ours)
    return [(name, value)]


def test_with_an_anchor_it_is_what_diffusers_makes(model):
    """A keyframe two seconds behind the clip, through our node's technique."""
    pytest.importorskip("diffusers.models.transformers.transformer_minimax_h3")
    module, seen = model.model.diffusion_model, {}
    run(anchored(model, 12.0), wrap=see(seen), steps=1)
    layout = seen["minimax_payload"]["layout"]
    sigma = (seen["t"].flatten()[0] / 1000).clamp(min=1e-6)
    level = {"video": float(1 - sigma), "audio": float(1 - minimax.time_shift_sigma(sigma, 12.0, 3.0))}
    level |= {"text": level["video"], "cond": max(level["video"], minimax.VISUAL_COND_TIMESTEP)}
    levels = sorted(set(level.values()))
    rows = {kind: [row for begin, end, name in layout.segments if name == kind for row in range(begin, end)]
            for kind in level}
    time, tag = torch.zeros(layout.seq_len, dtype=torch.long), torch.zeros(layout.seq_len, dtype=torch.long)
    for kind, number in (("text", 1), ("video", 0), ("audio", 2), ("cond", 0)):
        time[rows[kind]], tag[rows[kind]] = levels.index(level[kind]), number
    known = module._cond_video_rows(seen["minimax_payload"], torch.device("cpu"))
    with torch.inference_mode():
        video, audio = diffusers_twin(model.model.diffusion_model.state_dict())(
            torch.cat([known, minimax.patchify_video(seen["x"][0])])[None], minimax.pack_audio(seen["x"][1])[None],
            random(1, WORDS, 40, seed=3), torch.tensor(levels), time, tag, layout.position_ids.float(),
            torch.tensor(rows["cond"] + rows["video"]), torch.tensor(rows["audio"]), torch.tensor(rows["text"]),
            return_dict=False)
    video = minimax.unpatchify_video(video[0, len(known):], LATENTS, SIZE[0] // 2, SIZE[1] // 2)
    assert apart(seen["made"], (-video, -minimax.unpack_audio(audio[0]))) < 1e-5


# ---------------------------------------------------------------- decoding

def test_decoding_chunk_by_chunk_is_decoding_the_whole(vae):
    z = random(1, 24, 17, 4, 4, seed=1)
    stream, whole = open_stream(vae), vae.decode(z)[0]
    assert isinstance(stream, H3Stream)
    frames = [part for piece in z.split((7, 5, 5), 2) for part in stream.push(piece)]
    shown = stream.peek()
    frames += list(stream.flush())
    assert torch.equal(torch.cat(frames), whole) and torch.equal(shown, frames[-1]) and len(whole) == 56
    fresh = open_stream(vae)
    for _ in fresh.push(z[:, :, 5:12]):
        pass
    assert torch.equal(torch.cat([*fresh.push(z[:, :, 12:]), *fresh.flush()]), whole[34:])
    short = open_stream(vae)
    assert torch.equal(torch.cat([*short.push(z[:, :, :2]), *short.flush()]), vae.decode(z[:, :, :2])[0])


def test_a_picture_and_whole_clips_are_encoded(vae):
    assert [encode_frames(vae, torch.rand(frames, 32, 32, 3)).shape[2] for frames in (1, 22)] == [1, 7]
    with pytest.raises(ValueError, match="got 25"):
        encode_frames(vae, torch.rand(25, 32, 32, 3))
