"""LongCat Speech: both encoders against one pass with transformers' own networks, in segments, and what is refused."""
import weakref

import comfy.audio_encoders.audio_encoders as core
import comfy.model_management
import pytest
import torch
from lodestar import backbones
from lodestar.backbones.audio.encoder import encode_speech, load_audio_encoder, log_mel
from lodestar.backbones.audio.encoder_files import LOG_MEL
from lodestar.backbones.audio.families import Wav2Vec2, WhisperClip, first_of
from lodestar.backbones.audio.resampler import resample_speech
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.longcat import speech as longcat_speech
from lodestar.backbones.longcat.speech import encode_streams
from lodestar.nodes.load_audio_encoder import LodestarLoadAudioEncoder
from lodestar.nodes.longcat_speech import LodestarLongCatSpeech
from lodestar.techniques.audio.mel import mel_steps
from lodestar.techniques.audio.waveform import level_loudness, prepare_speech
from lodestar.techniques.timeline import Timeline
from torch.nn.functional import interpolate

NAMES = {"1.0": "lodestar_tiny_longcat_wav2vec2.safetensors", "1.5": "lodestar_tiny_longcat_whisper.safetensors"}
SHAPES = {"1.0": (12, 32), "1.5": (5, 25)}      # layers, Hz
# RMS of windowed against one pass over the clip, relative: the encoder's input is exact, untrained attention looks
# everywhere alike, which is the worst case. Twice what was measured.
ENCODER_INPUT, HIDDEN_LAYERS = 1e-6, 0.12


def audio(seconds, rate=16_000, seed=0):
    """Bursts of a wandering tone in faint noise."""
    time = torch.arange(round(seconds * rate)) / rate
    voice = torch.sin(900 * time + 30 * torch.sin(3 * time)) * torch.sin(2 * time).clamp(min=0) * 0.3
    noise = 0.003 * torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return {"waveform": (voice + noise)[None, None], "sample_rate": rate}


@pytest.fixture(scope="module")
def encoders(tiny_models):
    return {version: load_audio_encoder(tiny_models / "models" / "audio_encoders" / name)
            for version, name in NAMES.items()}


def followed(sound, fps, chunk=93):
    """The speech with the silence that the authors put behind it: to the end of its last chunk."""
    speech = resample_speech(sound)
    ends = (16_000 * (chunk + (chunk - 13) * more) // fps for more in range(100))
    return torch.nn.functional.pad(speech, (0, next(end for end in ends if end >= len(speech)) - len(speech)))


def features(encoder, sound, **how):
    return torch.cat(encode_streams(encoder, [resample_speech(sound)], **how)["encoded_audio_all_layers"])


def far(got, wanted):
    assert got.shape == wanted.shape
    return ((got - wanted).norm() / wanted.norm()).item()


# ---------------------------------------------------------------- against one pass

def test_avatar_10_features_are_those_of_one_pass_of_transformers(encoders):
    encoder, sound = encoders["1.0"], audio(4.7)
    network, speech = encoder.family.network, followed(sound, 16)
    drawn = torch.randn(len(speech), generator=torch.Generator().manual_seed(7))
    got = features(encoder, sound, noise_seed=7)
    with torch.no_grad():
        convolved = network.feature_extractor(prepare_speech(speech, 16_000, drawn)[None])
        steps = interpolate(convolved, len(speech) // 500, mode="linear", align_corners=True).transpose(1, 2)
        hidden = first_of(network.feature_projection(steps))
        states = [network.encoder.layer_norm(hidden + network.encoder.pos_conv_embed(hidden))]
        for layer in network.encoder.layers:
            states.append(first_of(layer(states[-1])))
    torch.testing.assert_close(got, torch.cat(states[1:]), atol=1e-4, rtol=1e-4)


def test_avatar_15_features_are_those_of_the_authors_segments_of_30_seconds(encoders):
    from transformers import WhisperFeatureExtractor
    encoder, sound = encoders["1.5"], audio(33.3)
    got, speech = features(encoder, sound), level_loudness(followed(sound, 25), 16_000)
    extractor, states = WhisperFeatureExtractor(feature_size=128), []
    for chunk in speech.split(480_000):
        mel = extractor(chunk.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        with torch.no_grad():
            states.append(torch.cat(encoder.family.encoder(mel, output_hidden_states=True).hidden_states))
    states, steps = torch.cat(states, 1), int(len(speech) / 16_000 * 25)
    groups = [states[first:end].mean(0) for first, end in ((0, 8), (8, 16), (16, 24), (24, 32), (32, 33))]
    rows = torch.stack(groups)[:, :2 * steps].transpose(1, 2)
    wanted = interpolate(rows, steps, mode="linear", align_corners=True).transpose(1, 2)
    assert far(got, wanted) < 1e-4


def test_windows_equal_one_pass(encoders, monkeypatch):
    encoder, sound = encoders["1.0"], audio(95.2)
    windowed = features(encoder, sound)
    monkeypatch.setattr(longcat_speech, "SEGMENT_SECONDS", 3600)
    assert far(windowed, features(encoder, sound)) < HIDDEN_LAYERS


def test_every_step_of_a_window_lies_where_it_does_in_one_pass(encoders, monkeypatch):
    """Without the transformer: the front end's norm, the positions and the projection leave no difference."""
    monkeypatch.setattr(Wav2Vec2, "walk", lambda self, hidden, keep: [hidden for _ in keep])
    encoder, sound = encoders["1.0"], audio(95.2)
    windowed = features(encoder, sound)
    monkeypatch.setattr(longcat_speech, "SEGMENT_SECONDS", 3600)
    assert far(windowed, features(encoder, sound)) < ENCODER_INPUT


@pytest.mark.parametrize(("version", "place", "name"), [("1.0", Wav2Vec2, "walk"), ("1.5", WhisperClip, "encode")])
def test_only_one_window_is_ever_alive(encoders, monkeypatch, version, place, name):
    original, alive, calls = getattr(place, name), [], []

    def watched(self, *arguments):
        assert not any(state() is not None for state in alive), "an earlier window is still held"
        states = list(original(self, *arguments))
        assert all(state.shape[1] <= 1500 for state in states)
        alive[:] = [weakref.ref(state) for state in states]
        calls.append(len(states))
        return states

    monkeypatch.setattr(place, name, watched)
    encode_streams(encoders[version], [resample_speech(audio(100))], version=version)
    assert len(calls) == 4 and set(calls) == {12 if version == "1.0" else 33}


@pytest.mark.parametrize(("config", "layers"), [
    ({"model_type": "wav2vec2", "embed_dim": 64, "num_heads": 2, "num_layers": 12, "conv_norm": False,
      "conv_bias": False, "do_normalize": False, "do_stable_layer_norm": False}, 12),
    ({"model_type": "whisper3", "n_audio_state": 64, "n_audio_head": 2, "n_audio_layer": 32}, 5)])
def test_encoders_from_core_s_own_loader_are_taken(config, layers):
    encoder = core.AudioEncoderModel(config)
    for name, value in encoder.model.named_parameters():    # core's layers come with whatever was in memory
        value.data = torch.ones_like(value) if name.endswith("norm.weight") else torch.zeros_like(value) \
            if value.ndim == 1 else torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    got = features(encoder, audio(2))
    assert got.shape[0] == layers and got.shape[2] == 64 and got.isfinite().all()
    assert far(features(encoder, audio(2, seed=1)), got) > 1e-3


# ---------------------------------------------------------------- what it means

@pytest.mark.parametrize("version", NAMES)
@pytest.mark.parametrize("seconds", [0.01, 1, 3.999, 31])
def test_features_last_to_the_end_of_the_last_chunk(encoders, version, seconds):
    layers, rate = SHAPES[version]
    output = encode_streams(encoders[version], [resample_speech(audio(seconds))])
    end = len(followed(audio(seconds), 16 if version == "1.0" else 25)) / 16_000
    assert [layer.shape for layer in output["encoded_audio_all_layers"]] == [(1, int(end * rate), 64)] * layers
    assert Speech.of(output).seconds == pytest.approx(seconds), "silence is no speech that a take may last for"
    assert output["rate_hz"] == rate and output["family"] == f"longcat {version}"
    assert torch.equal(output["encoded_audio"], output["encoded_audio_all_layers"][-1])
    assert output["audio_samples"] == round(seconds * 16_000) and "audio_streams" not in output
    assert all(layer.isfinite().all() for layer in output["encoded_audio_all_layers"])


@pytest.mark.parametrize("version", NAMES)
def test_how_loud_it_is_does_not_matter_and_what_is_said_does(encoders, version):
    quiet = {**audio(2), "waveform": audio(2)["waveform"] * 0.1}
    said = features(encoders[version], audio(2))
    assert far(features(encoders[version], quiet), said) < 1e-3
    assert far(features(encoders[version], audio(2, seed=1)), said) > 1e-3


def test_the_noise_floor_has_a_seed_and_can_be_left_out(encoders):
    first, again, other, none = (features(encoders["1.0"], audio(2), noise_seed=seed) for seed in (1, 1, 2, None))
    assert torch.equal(first, again)
    assert far(other, first) > 1e-3 and far(none, first) > 1e-3
    assert torch.equal(features(encoders["1.5"], audio(2), noise_seed=1), features(encoders["1.5"], audio(2)))


@pytest.mark.parametrize("version", NAMES)
def test_silence_is_encoded_and_is_not_unconditional_audio(encoders, version):
    silence = features(encoders[version], {"waveform": torch.zeros(1, 1, 32_000), "sample_rate": 16_000}, noise_seed=0)
    assert silence.isfinite().all() and silence.abs().mean() > 1e-3


@pytest.mark.parametrize(("version", "model", "fps"), [
    ("1.0", "lodestar_tiny_longcat_avatar", 16), ("1.5", "lodestar_tiny_longcat_avatar15", 25)])
def test_the_model_of_that_version_takes_it(encoders, longcat, tiny_models, version, model, fps):
    output = LodestarLongCatSpeech.execute(audio(4), encoders[version], "auto", True, 0)[0]
    backbone, speech, clock = backbones.find(longcat.load(tiny_models, model)), Speech.of(output), Timeline(fps)
    backbone.check_speech(speech, clock)
    rows = backbone.audio_for(speech, clock, 2, 3)       # and the latent before
    assert rows.shape == (1, 1, 13, 5, SHAPES[version][0], 64)
    assert torch.equal(rows[0, 0, 4, 2, 3], output["encoded_audio_all_layers"][3][0, 8 * SHAPES[version][1] // fps])


# ---------------------------------------------------------------- refusals

def cut(encoder, layers):
    """The same encoder with fewer layers."""
    import copy
    shorter = copy.deepcopy(encoder)
    network = getattr(shorter.family, "encoder", None) or shorter.family.network.encoder
    network.layers = network.layers[:layers]
    return shorter


@pytest.mark.parametrize(("version", "layers", "says"), [
    ("1.0", 7, r"audio_encoder: got a wav2vec2 of 7 layers, wanted 12: .*1\.0 .* chinese-wav2vec2-base"),
    ("1.5", 4, r"audio_encoder: got a whisper of 4 layers, wanted 32: .*1\.5 .* whisper-large-v3")])
def test_an_encoder_of_another_depth_is_refused(encoders, version, layers, says):
    with pytest.raises(ValueError, match=says):
        encode_streams(cut(encoders[version], layers), [resample_speech(audio(1))])


@pytest.mark.parametrize(("version", "asked", "says"), [
    ("1.0", "1.5", "got wav2vec2 for version 1.5, wanted whisper-large-v3"),
    ("1.5", "1.0", "got whisper for version 1.0, wanted chinese-wav2vec2-base")])
def test_the_other_version_s_encoder_is_refused(encoders, version, asked, says):
    with pytest.raises(ValueError, match=f"audio_encoder: {says}"):
        LodestarLongCatSpeech.execute(audio(1), encoders[version], asked, True, 0)


def test_cancel_takes_effect_between_segments(encoders, monkeypatch):
    def stop():
        raise comfy.model_management.InterruptProcessingException
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encode_streams(encoders["1.0"], [resample_speech(audio(1))])


# ---------------------------------------------------------------- the puppet's

@pytest.mark.parametrize("seconds", [0.01, 3.999, 95.0])
def test_the_puppets_features_are_log_mel_without_a_model(seconds):
    encoder, sound = LodestarLoadAudioEncoder.execute(LOG_MEL, "auto").args[0], audio(seconds)
    output = encode_streams(encoder, [resample_speech(sound)])
    rows = len(followed(sound, 25, chunk=49)) // 640
    wanted = mel_steps(level_loudness(resample_speech(sound), 16_000), 0, rows)
    assert (output["family"], output["rate_hz"]) == ("longcat puppet", 25.0)
    assert torch.equal(torch.cat(output["encoded_audio_all_layers"]), wanted.movedim(1, 0))


def test_audio_features_gives_the_same_rows():
    encoder, sound = log_mel(), audio(40.0)
    both = encode_streams(encoder, [resample_speech(sound)]), encode_speech(encoder, sound, window_seconds=7.0)
    talk, rows = (output["encoded_audio_all_layers"] for output in both)
    assert all(torch.equal(layer[:, :1000], row) for layer, row in zip(talk, rows, strict=True))


# ---------------------------------------------------------------- behind the end

def test_frames_after_the_speech_get_silence():
    """The puppet's, whose features are known by hand: the other two get the same waveform, as the tests above hold."""
    vowel = {"waveform": torch.sin(900 * torch.arange(3.6 * 16_000) / 16_000)[None, None], "sample_rate": 16_000}
    speech = Speech.of(encode_streams(log_mel(), [resample_speech(vowel)]))
    rows = speech.audio_slots(80, 40, 1)[0, 0, :, 2]        # from 3.2 s on: 10 frames of speech, then silence
    assert (rows[:10] > -1).flatten(1).any(1).all() and (rows[11:] == -1).all()


def test_recordings_of_unequal_length_end_together(encoders):
    """After its end the shorter one has silence, encoded with it, and its features last as long."""
    long, short = resample_speech(audio(4)), resample_speech(audio(1, seed=1))
    masks = torch.ones(1, 3, 8, 8)
    for version, encoder in encoders.items():
        output = encode_streams(encoder, [long, short], speakers=masks)
        filled = torch.nn.functional.pad(short, (0, len(long) - len(short)))
        for voice, alone in zip(output["audio_streams"], (long, filled), strict=True):
            wanted = encode_streams(encoder, [alone])["encoded_audio_all_layers"]
            assert all(torch.equal(layer, row) for layer, row in zip(voice, wanted, strict=True)), version
        assert output["audio_samples"] == len(long)
