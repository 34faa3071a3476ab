"""OmniAvatar in a take: techniques on it, speech by frame, chunk by chunk, both guidance modes."""
from fractions import Fraction
from functools import partial
from pathlib import Path

import comfy.sd
import golden
import golden_omniavatar
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from lib import environment
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.audio.encoder import load_audio_encoder
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import ChunkRequest
from lodestar.backbones.omniavatar.features import encode_speech, prepare_speech
from lodestar.backbones.omniavatar.guider import TextFirstGuider
from lodestar.backbones.omniavatar.model import AUDIO
from lodestar.backbones.omniavatar.speech import delay, encode_delayed
from lodestar.backbones.speech_guider import SpeechGuider, guide_speech
from lodestar.networks.omniavatar.settings import CHUNK_FRAMES, SIZES
from lodestar.pipelines.take.settings import choose_settings
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.timeline import Timeline

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "omniavatar"
CLOCK = Timeline(Fraction(25))
TOKENS = 16     # of a latent frame


@pytest.fixture(scope="module")
def model(omni, tiny_models):
    return omni.load(tiny_models)


def anchored(model, omni, distance=3.0, seed=12, **options):
    return attach.with_technique(model, LookaheadAnchor(distance, latents=omni.random(1, 16, 1, *omni.SIZE, seed=seed),
                                                        **options))


def rope_frequencies(model, omni):
    """The rows that the first block gets."""
    seen, clone = [], model.clone()
    clone.model_options["transformer_options"] = {**clone.model_options["transformer_options"], "patches_replace": {
        "dit": {("double_block", 0): lambda args, extra: (seen.append(args["pe"]), extra["original_block"](args))[1]}}}
    omni.sample(clone, omni.noise(), omni.prompt(), steps=1)
    return seen[0]


# ---------------------------------------------------------------- techniques

def test_no_technique_changes_no_bit(omni, model):
    patched = attach.install_techniques(model, (), ChunkPosition())
    assert torch.equal(omni.sample(patched, omni.noise(), omni.prompt()),
                       omni.sample(model, omni.noise(), omni.prompt()))


@pytest.mark.parametrize("distance", [1, 7, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_anchor_stands_where_it_was_asked_whatever_the_dtype(omni, tiny_models, distance, dtype):
    model = omni.load(tiny_models, dtype=dtype)
    rows = rope_frequencies(anchored(model, omni, distance), omni)
    asked = model.model.diffusion_model.rope_encode(1, *omni.SIZE, t_start=omni.FRAMES - 1 + distance)
    assert rows.dtype == torch.float32 and rows.shape[1] == (omni.FRAMES + 1) * TOKENS
    assert torch.allclose(rows[:, -TOKENS:], asked, atol=1e-3)
    assert not torch.allclose(rows[:, -TOKENS:], model.model.diffusion_model.rope_encode(
        1, *omni.SIZE, t_start=omni.FRAMES + distance), atol=1e-2)
    assert torch.equal(rope_frequencies(model, omni), rows[:, :-TOKENS])
    far = model.model.diffusion_model.rope_encode(1, *omni.SIZE, t_start=261, dtype=dtype)     # merged in bf16
    assert torch.equal(far, model.model.diffusion_model.rope_encode(1, *omni.SIZE, t_start=261))


def test_an_anchor_equals_a_forward_written_by_hand(omni, model):
    """It has its own latent, the reference beside it and a mask of 0, keeps the step's timestep; no audio."""
    latents, x = omni.random(1, 16, 1, *omni.SIZE, seed=12), omni.noise()
    made = omni.sample(anchored(model, omni, 4), x, omni.prompt(), steps=1)
    module, base, values = model.model.diffusion_model, model.model, omni.prompt()[0][1]
    shown = base.process_latent_in(values["reference_latents"][0])
    given = torch.cat([torch.cat([x, base.process_latent_in(latents)], 2), shown.expand(-1, -1, 6, -1, -1),
                       torch.cat([torch.ones(1, 1, 5, *omni.SIZE), torch.zeros(1, 1, 1, *omni.SIZE)], 2)], 1)
    audio = torch.cat([values[AUDIO], torch.zeros(1, values[AUDIO].shape[1], 1, 1, 1)], 2)
    packed = module.audio_proj(audio.flatten(2).transpose(1, 2))
    rows = torch.cat([module.rope_encode(5, *omni.SIZE), module.rope_encode(1, *omni.SIZE, t_start=8)], 1)
    with torch.inference_mode():
        velocity = module.forward_orig(given, torch.full((1,), 1000.0), omni.prompt()[0][0], freqs=rows,
                                       transformer_options=module.with_speech({}, packed))[:, :, :5]
    assert torch.allclose(base.process_latent_in(made), x - velocity, atol=1e-4)


def test_what_an_anchor_shows_counts_and_what_skips_it_is_hidden(omni, model):
    inside = {"placement": "in chunk", "index": 2}
    one, other = (anchored(model, omni, 0, seed, **inside) for seed in (12, 13))
    plain = omni.sample(one, omni.noise(), omni.prompt())
    assert (omni.sample(other, omni.noise(), omni.prompt()) - plain).abs().max() > 1e-3
    hidden = [omni.sample(attach.with_technique(each, ReferenceSkip(radius=9)), omni.noise(), omni.prompt())
              for each in (one, other)]
    assert torch.allclose(*hidden, atol=1e-5) and (hidden[0] - plain).abs().max() > 1e-3


def test_a_keyframe_stands_where_the_anchor_would(omni, model):
    keyframe = omni.random(1, 16, 1, *omni.SIZE, seed=14)
    picture = omni.prompt()[0][1]["reference_latents"][0]
    story = (LookaheadAnchor(3), NarrativeKeyframes().plus(Fraction(1), keyframe))
    early, late = (omni.sample(attach.install_techniques(model, story, ChunkPosition(Fraction(seconds), picture)),
                               omni.noise(), omni.prompt()) for seconds in (0, 2))
    for made, shown in ((early, keyframe), (late, picture)):
        alone = attach.install_techniques(model, (LookaheadAnchor(3, latents=shown),), ChunkPosition())
        assert torch.equal(made, omni.sample(alone, omni.noise(), omni.prompt()))
    assert not torch.equal(early, late)


# ---------------------------------------------------------------- beside others

def test_it_keeps_working_beside_lora_and_easycache(omni, model):
    key = "diffusion_model.blocks.2.self_attn.q"
    lora = {f"{key}.lora_A.weight": omni.random(4, 128, seed=20), f"{key}.lora_B.weight": omni.random(128, 4, seed=21)}
    both = comfy.sd.load_lora_for_models(anchored(model, omni), None, dict(lora), 1.0, 0.0)[0]
    without = comfy.sd.load_lora_for_models(model, None, dict(lora), 1.0, 0.0)[0]
    results = [omni.sample(each, omni.noise(), omni.prompt(), steps=8)
               for each in (both, without, anchored(model, omni))]
    eased = EasyCacheNode.execute(both, 3.0, 0.0, 1.0, False).args[0]
    results.append(omni.sample(eased, omni.noise(), omni.prompt(), steps=8))
    assert all(not torch.equal(one, other) for place, one in enumerate(results) for other in results[:place])


def test_context_windows_take_the_speech_and_the_known_frames_of_their_own_latents(omni, model):
    """One window over all is the same bits; in smaller ones what is audio_in late moves nothing early."""
    x, mask = omni.noise(9), torch.ones(1, 1, 9, *omni.SIZE)
    mask[:, :, :1] = 0

    def windowed(frames, audio):
        clone = WanContextWindowsManualNode.execute(anchored(model, omni), frames, 4, "standard_static", 1, False,
                                                    "flat", False).args[0]
        return omni.sample(clone, x, omni.prompt(**{AUDIO: audio}), mask=mask,
                           latent=omni.random(*x.shape, seed=4))

    audio = omni.speech(9)
    late = torch.cat([audio[:, :, :6], omni.speech(9, seed=6)[:, :, 6:]], 2)
    whole = omni.sample(anchored(model, omni), x, omni.prompt(**{AUDIO: audio}), mask=mask,
                        latent=omni.random(*x.shape, seed=4))
    assert torch.allclose(windowed(33, audio), whole, atol=1e-5)
    small, moved = windowed(13, audio), windowed(13, late)
    assert torch.equal(small[:, :, :1], moved[:, :, :1]) and (small[:, :, 6:] - moved[:, :, 6:]).abs().max() > 1e-3
    assert (small - whole).abs().max() > 1e-3


def test_a_compiled_model_follows_speech_reference_and_anchor(omni, model):
    """Under core's guard filter, which forgets every guard on transformer_options."""
    torch._dynamo.reset()
    compiled = model.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", options={
        "guard_filter_fn": lambda guards: ["transformer_options" not in guard.name for guard in guards]})
    other = {"reference_latents": [omni.random(1, 16, 1, *omni.SIZE, seed=9)]}
    results = []
    for patch in (lambda patcher: patcher, partial(anchored, omni=omni), partial(anchored, omni=omni, distance=30)):
        for values in ({}, {AUDIO: omni.speech(seed=6)}, {AUDIO: None}, other):
            plain, same = (omni.sample(patch(patcher), omni.noise(), omni.prompt(**values), steps=1)
                           for patcher in (model, compiled))
            assert torch.allclose(plain, same, atol=1e-4)
            results.append(plain.sum().item())
    assert len(set(results)) == 12


# ---------------------------------------------------------------- speech

@pytest.fixture(scope="module")
def encoder(tiny_models):
    return load_audio_encoder(tiny_models / "models" / "audio_encoders" / "lodestar_tiny_longcat_wav2vec2.safetensors")


def sound(seconds, rate=16_000, seed=3):
    waveform = torch.randn(1, 1, round(seconds * rate), generator=torch.Generator().manual_seed(seed)) * 0.1
    return {"waveform": waveform, "sample_rate": rate}


def test_the_sound_of_the_take_is_the_speech_behind_silence_and_one_frame(encoder):
    audio = sound(2, 48_000)
    delayed = delay(audio, 0.3)
    assert delayed["waveform"].shape[-1] == 48_000 * 2 + round(0.34 * 48_000)
    assert torch.equal(delayed["waveform"][..., -96_000:], audio["waveform"]) and \
        not delayed["waveform"][..., :-96_000].any()


def test_the_picture_has_no_audio_and_frames_the_speech_without_its_delay(encoder):
    """As upstream, where frame f has feature f - 1 of the speech and the video's sound begins one frame later."""
    audio = delay(sound(3), 0.3)
    speech = Speech.of(encode_delayed(encoder, audio))
    assert (speech.layers, speech.rate_hz, speech.family) == (13, 25.0, "omniavatar")
    rows = speech.frame_features(CLOCK, 0, 105)
    prepared = prepare_speech(audio["waveform"][0, 0, 640:], 104)
    with torch.no_grad():
        theirs = [torch.cat(parts, 1)[0] for parts in zip(
            *encode_speech(encoder.family, torch.device("cpu"), prepared, 104), strict=True)]
    assert not rows[:, 0].any() and torch.equal(rows[:, 1:], torch.stack(theirs))
    assert speech.streams[0][0].shape[1] == 105      # a whole chunk, the picture included


def test_each_latent_has_its_own_frames(omni, model, encoder):
    backbone = backbones.find(model)
    speech = Speech.of(encode_delayed(encoder, delay(sound(4), 0.3)))
    backbone.check_speech(speech, CLOCK)
    rows = speech.frame_features(CLOCK, 0, 105)
    frames = torch.cat([rows[-1:], rows]).transpose(0, 1).flatten(1)
    opening, later = backbone.audio_for(speech, CLOCK, 0, 5), backbone.audio_for(speech, CLOCK, 11, 3)
    assert opening.shape == (1, 4 * 14 * 64, 5, 1, 1) and not opening[:, :, 0].any()
    assert torch.equal(opening[0, :, 2].flatten(), frames[5:9].flatten())
    assert torch.equal(later[0, :, 0].flatten(), frames[[44] * 4].flatten())
    assert torch.equal(later[0, :, 1].flatten(), frames[45:49].flatten())


@pytest.mark.parametrize(("features", "fps", "says"), [
    ({"rate_hz": 50.0}, 25, "speech features at 50 Hz"), ({"family": "longcat 1.0"}, 25, r"\(longcat 1.0\)"),
    ({}, 16, "got 16 fps"), ({"encoded_audio_all_layers": (torch.zeros(1, 60, 64),) * 12}, 25, "12 layers of width 64"),
    ({"encoded_audio_all_layers": (torch.zeros(1, 60, 768),) * 13}, 25, "13 layers of width 768")])
def test_other_speech_and_rates_are_refused(model, features, fps, says):
    own = {"encoded_audio_all_layers": (torch.zeros(1, 60, 64),) * 13, "encoded_audio": torch.zeros(1, 60, 64),
           "audio_samples": 38_400, "rate_hz": 25.0, "family": "omniavatar"}
    with pytest.raises(ValueError, match=says):
        backbones.find(model).check_speech(Speech.of({**own, **features}), Timeline(Fraction(fps)))


def test_another_encoder_is_refused(tiny_models):
    folder = tiny_models / "models" / "audio_encoders"
    for name in ("lodestar_tiny_wav2vec2", "lodestar_tiny_longcat_whisper"):
        with pytest.raises(ValueError, match="wanted wav2vec2-base-960h with 12"):
            encode_delayed(load_audio_encoder(folder / f"{name}.safetensors"), delay(sound(1), 0.3))


# ---------------------------------------------------------------- chunks

@pytest.mark.parametrize(("size", "frames"), [((720, 400), 105), ((400, 720), 105), ((720, 720), 57)])
def test_a_plan_takes_its_chunk_by_its_size(model, size, frames):
    backbone = backbones.find(model)
    assert (backbone.chunk_frames, backbone.size, backbone.handover) == (CHUNK_FRAMES, SIZES[0], "re-encode")
    chosen = choose_settings(backbone, width=size[0], height=size[1])
    assert (chosen.chunk_frames, chosen.overlap_frames, chosen.fps) == (frames, 13, 25)
    square = choose_settings(backbone, torch.zeros(1, 64, 64, 3))
    assert square.width == square.height
    assert square.chunk_frames == backbone.chunk_frames_at(square.width, square.height)


def test_the_first_chunk_opens_with_the_picture_and_others_with_what_was_handed_over(omni, model):
    backbone, picture, audio = backbones.find(model), omni.random(1, 16, 1, 8, 8, seed=2), omni.speech()
    context = omni.random(1, 16, 4, 8, 8, seed=7)
    first = backbone.chunk_inputs(ChunkRequest(5, (16, 8, 8), None, picture, audio))
    later = backbone.chunk_inputs(ChunkRequest(5, (16, 8, 8), context, picture, audio))
    for inputs, known in ((first, picture), (later, context)):
        count = known.shape[2]
        assert torch.equal(inputs.samples[:, :, :count], known) and inputs.context is None
        assert not inputs.noise_mask[:, :, :count].any() and inputs.noise_mask[:, :, count:].all()
        assert torch.equal(inputs.conditions["reference_latents"][0], picture)
        assert torch.equal(inputs.conditions[AUDIO], audio) and not inputs.uncond[AUDIO].any()
    with pytest.raises(ValueError, match="reference: OmniAvatar makes a picture talk"):
        backbone.chunk_inputs(ChunkRequest(5, (16, 8, 8)))


# ---------------------------------------------------------------- guidance

def test_both_scales_have_the_authors_latents(omni, tmp_path, comfyui_version):
    if comfyui_version == environment.FLOOR:
        pytest.skip("it reads the number of heads from the width alone, and theirs are narrower")
    fixture = golden_omniavatar.OmniAvatar(golden.Fixtures(FOLDER), golden.Host())
    case, model = fixture.load("sample.safetensors"), omni.of_fixture(fixture, tmp_path)
    latents, mask = model.model.latent_format, torch.ones(1, 1, 4, 8, 12)
    mask[:, :, :2] = 0
    values = {"reference_latents": [latents.process_out(case["y_c1"][:, :16, :1])]}
    positive = [[case["context"], {**values, AUDIO: omni.audio_condition(case["audio_c1"])}]]
    for name, scales in (("c1_split", (4.5, 3.0)), ("c1", (4.5, 4.5)), ("c1_nocfg", (1.0, 1.0))):
        guider = guide_speech(model, positive, [[case["negative_context"], values]], *scales, False)
        made = omni.sample(model, case["noise"], None, steps=4, mask=mask, guider=guider,
                           latent=latents.process_out(case[f"{name}.lat"]))
        result = golden.judge(name, {"latents": (latents.process_in(made), case[f"{name}.latents"])})
        assert result.passed, result.row(0)


def test_text_is_guided_without_speech_and_in_a_take_by_each_chunk_s_own(omni, model, tiny_models, longcat):
    guider = guide_speech(model, omni.prompt(), omni.prompt(seed=4), 4.5, 3.0, False)
    assert type(guider) is TextFirstGuider
    avatar = longcat.load(tiny_models, longcat.AVATAR15)
    assert type(guide_speech(avatar, longcat.prompt(avatar), longcat.prompt(avatar), 4.0, 3.0, False)) is SpeechGuider
    voiced, silence, text = omni.speech(seed=9), torch.zeros_like(omni.speech()), omni.random(1, 9, 4096, seed=15)
    chunk = attach.guider_at(guider, (), ChunkPosition(), {AUDIO: voiced}, {AUDIO: silence}, [[text, {}]])
    audio_in = {name: bool(entries[0][AUDIO].any()) for name, entries in chunk.original_conds.items()}
    assert audio_in == {"positive": True, "text": False, "silent": False}
    asked = {name: torch.equal(entries[0]["cross_attn"], text) for name, entries in chunk.original_conds.items()}
    assert asked == {"positive": True, "text": True, "silent": False}
