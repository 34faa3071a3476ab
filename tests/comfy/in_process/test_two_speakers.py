"""Two Speakers: which audio stream drives whom, where silence is, the sound track, and what is refused."""
import pytest
import torch
from lodestar import backbones
from lodestar.backbones.audio.encoder import load_audio_encoder
from lodestar.backbones.audio.resampler import resample_speech
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.longcat.speech import encode_streams
from lodestar.backbones.longcat.two_speakers import join_speakers
from lodestar.nodes.longcat_speech import LodestarLongCatSpeech
from lodestar.nodes.two_speakers import LodestarTwoSpeakers
from lodestar.techniques.timeline import Timeline

PICTURE = torch.zeros(1, 48, 80, 3)
LEFT, RIGHT = "0.1, 0, 0.4, 1", "0.6, 0.25, 0.9, 1"


def audio(seconds, rate=16_000, channels=1, seed=0):
    drawn = torch.randn(1, channels, round(seconds * rate), generator=torch.Generator().manual_seed(seed))
    return {"waveform": 0.1 * drawn, "sample_rate": rate}


@pytest.fixture(scope="module")
def encoder(tiny_models):
    return load_audio_encoder(tiny_models / "models" / "audio_encoders" / "lodestar_tiny_longcat_wav2vec2.safetensors")


def speakers(encoder, mode="together", box_1="", box_2="", others="", noise_floor=False, **given):
    return LodestarTwoSpeakers.execute(PICTURE, encoder, mode, box_1, box_2, others, "auto", noise_floor, 0, **given)


def alone(encoder, sound):
    return LodestarLongCatSpeech.execute(sound, encoder, "auto", False, 0)[0]["encoded_audio_all_layers"]


# ---------------------------------------------------------------- audio streams

def test_each_audio_stream_is_what_its_speaker_says(encoder):
    one, two = audio(2, seed=1), audio(2, seed=2)
    features, mix = speakers(encoder, audio_1=one, audio_2=two)
    assert len(features["audio_streams"]) == 2
    for voice, sound in zip(features["audio_streams"], (one, two), strict=True):
        assert all(map(torch.equal, voice, alone(encoder, sound)))
    assert features["encoded_audio_all_layers"] is features["audio_streams"][0]
    assert torch.equal(mix["waveform"], one["waveform"] + two["waveform"]) and mix["sample_rate"] == 16_000


@pytest.mark.parametrize("speaks", ["audio_1", "audio_2"])
@pytest.mark.parametrize("mode", ["together", "in turn"])
def test_one_of_a_group_speaks_and_the_other_gets_silence(encoder, mode, speaks):
    said = audio(1.5)
    features, mix = speakers(encoder, mode, noise_floor=True, **{speaks: said})
    silence = torch.zeros(24_000)
    tracks = [resample_speech(said), silence] if speaks == "audio_1" else [silence, resample_speech(said)]
    for person, (voice, track) in enumerate(zip(features["audio_streams"], tracks, strict=True)):
        wanted = encode_streams(encoder, [track], noise_seed=person)["encoded_audio_all_layers"]
        assert all(map(torch.equal, voice, wanted))
    assert torch.equal(mix["waveform"], said["waveform"])


def test_in_turn_the_second_begins_where_the_first_ends(encoder):
    one, two = audio(1, seed=1), audio(2, seed=2)
    features, mix = speakers(encoder, "in turn", audio_1=one, audio_2=two)
    assert torch.equal(mix["waveform"], torch.cat([one["waveform"], two["waveform"]], -1))
    assert {layer.shape for voice in features["audio_streams"] for layer in voice} == {(1, 186, 64)}


def test_others_get_a_third_audio_stream_of_silence(encoder):
    features, _ = speakers(encoder, others="0.42, 0, 0.58, 0.5\n\n0, 0, 0.1, 0.5", audio_1=audio(1), audio_2=audio(1))
    assert len(features["audio_streams"]) == 3
    silence = encode_streams(encoder, [torch.zeros(16_000)])["encoded_audio_all_layers"]
    assert all(map(torch.equal, features["audio_streams"][2], silence))
    assert features["speaker_masks"].shape == (1, 5, 48, 80)


def test_the_mix_keeps_the_better_rate_and_both_channels():
    stereo, mono = audio(2, 44_100, channels=2), audio(2, 16_000)
    tracks, mix = join_speakers("together", mono, stereo)
    assert mix["sample_rate"] == 44_100 and mix["waveform"].shape == (1, 2, 88_200)
    assert [len(track) for track in tracks] == [32_000, 32_000]
    alone_in_mix = join_speakers("together", None, stereo)[1]["waveform"]
    assert torch.equal(alone_in_mix, stereo["waveform"])


def test_as_good_as_one_length_is_one_length():
    one, two = audio(2), audio(2 + 0.008)
    tracks, mix = join_speakers("together", one, two)
    assert {len(track) for track in tracks} == {mix["waveform"].shape[-1]} == {32_128}


@pytest.mark.parametrize("shorter", [1, 2])
def test_silence_follows_the_shorter_recording_and_the_log_says_it_in_seconds(caplog, shorter):
    short, long = audio(1, 44_100, seed=1), audio(2.5, seed=2)
    with caplog.at_level("INFO", "lodestar"):
        tracks, mix = join_speakers("together", *((short, long) if shorter == 1 else (long, short)))
    silent, longer_track = (tracks[0], tracks[1]) if shorter == 1 else (tracks[1], tracks[0])
    assert len(silent) == len(longer_track) == 40_000 and silent[:16_000].any() and not silent[16_000:].any()
    assert mix["waveform"].shape == (1, 1, 110_250)
    assert f"audio_{shorter} is 1.50 s shorter than audio_{3 - shorter} (2.50 s): silence follows it" in caplog.text


def test_the_model_takes_it(encoder, longcat, tiny_models):
    backbone = backbones.find(longcat.load(tiny_models, longcat.AVATAR))
    speech, clock = Speech.of(speakers(encoder, audio_1=audio(3), audio_2=audio(3))[0]), Timeline(16)
    backbone.check_speech(speech, clock)
    assert backbone.audio_for(speech, clock, 0, 3).shape == (1, 2, 9, 5, 12, 64)


# ---------------------------------------------------------------- places

def masks(encoder, **given):
    return speakers(encoder, audio_1=audio(0.5), **given)[0]["speaker_masks"]


def test_boxes_are_fractions_of_the_picture(encoder):
    first, second, background = masks(encoder, box_1=LEFT, box_2=RIGHT)[0]
    assert first[:, 8:32].all() and first.sum() == 48 * 24
    assert second[12:, 48:72].all() and second.sum() == 36 * 24
    assert torch.equal(background, 1 - first - second)


def test_without_places_each_has_half_of_the_picture(encoder):
    first, second, _ = masks(encoder)[0]
    assert first.any() and not first[:, 40:].any() and second.any() and not second[:, :40].any()


def test_masks_and_boxes_mix(encoder):
    drawn = torch.zeros(1, 48, 80)
    drawn[:, 5:9, 5:9] = 0.9
    first, second, _ = masks(encoder, mask_1=drawn, box_2=RIGHT)[0]
    assert first.sum() == 16 and second.sum() == 36 * 24


EMPTY, FULL = torch.zeros(1, 48, 80), torch.ones(1, 48, 80)


@pytest.mark.parametrize(("given", "says"), [
    ({"box_1": LEFT}, "mask_2, box_2: got nothing, but speaker 1 has a place"),
    ({"mask_2": FULL}, "mask_1, box_1: got nothing, but speaker 2 has a place"),
    ({"mask_1": EMPTY, "mask_2": FULL}, "mask_1: got an empty mask"),
    ({"mask_1": FULL, "mask_2": EMPTY}, "mask_2: got an empty mask"),
    ({"mask_1": FULL, "box_1": LEFT, "box_2": RIGHT}, "mask_1, box_1: got both"),
    ({"mask_1": torch.ones(1, 64, 64), "box_2": RIGHT}, "mask_1: got 64x64, wanted 80x48, the size of the picture"),
    ({"box_1": "0.1, 0, 1.4, 1", "box_2": RIGHT}, r"box_1: got '0.1, 0, 1.4, 1', wanted .* each from 0 to 1"),
    ({"box_1": LEFT, "box_2": "0.9, 0, 0.1, 1"}, "box_2: got '0.9, 0, 0.1, 1', wanted .* left less than right"),
    ({"box_1": LEFT, "box_2": "left half"}, "box_2: got 'left half', wanted left, top, right, bottom"),
    ({"box_1": LEFT, "box_2": "0.5, 0.5, 0.501, 0.501"}, "box_2: .* covers no pixel of the 80x48 picture"),
    ({"box_1": LEFT, "box_2": "nan, 0, 1, 1"}, "box_2: got 'nan, 0, 1, 1'"),
    ({"others": "0, 0, 2, 1"}, "others: got '0, 0, 2, 1'"),
])
def test_impossible_places_are_refused(encoder, given, says):
    with pytest.raises(ValueError, match=says):
        masks(encoder, **given)


@pytest.mark.parametrize(("mode", "one", "two", "says"), [
    ("together", None, None, "speakers: got no speech at all"),
    ("in turn", None, None, "speakers: got no speech at all")])
def test_impossible_speech_is_refused(mode, one, two, says):
    with pytest.raises(ValueError, match=says):
        join_speakers(mode, one, two)
