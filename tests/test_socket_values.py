"""What comes over ComfyUI's wires: every kind of value of every socket is the right value or refused in words."""
import math

import numpy as np
import pytest
import torch
from lodestar.backbones import socket_values as values
from lodestar.techniques.audio.waveform import mix_to_mono

SOUND = torch.linspace(-1, 1, 101)[None, None] * 0.999


def audio(waveform, rate=16_000):
    return {"waveform": waveform, "sample_rate": rate}


# ---------------------------------------------------------------- sound

@pytest.mark.parametrize("waveform, rate, words", [
    (torch.zeros(1, 1, 0), 16_000, "0 samples"), (torch.zeros(1, 0, 9), 16_000, "0 samples"),
    (torch.tensor([[[0.0, torch.nan]]]), 16_000, "NaN"), (torch.tensor([[[torch.inf, 0.0]]]), 16_000, "NaN"),
    (torch.tensor([[[torch.inf], [-torch.inf]]]), 16_000, "NaN"), (torch.zeros(2, 1, 9), 16_000, "one clip"),
    (torch.zeros(1, 1, 1, 9), 16_000, "shape"), (torch.zeros(()), 16_000, "shape"),
    (torch.zeros(1, 1, 9), 7_999, "7999 Hz"), (torch.zeros(1, 1, 9), 0, "0 Hz"),
    (torch.zeros(1, 1, 9), 192_001, "192001 Hz"), (torch.zeros(1, 1, 9), None, "sample rate of nothing"),
    (torch.zeros(1, 1, 9), math.nan, "sample rate of nan"), (torch.zeros(1, 1, 9), 16_000.5, "16000.5"),
    (torch.zeros(1, 1, 9), True, "True"), (torch.zeros(1, 1, 9), "16000", "'16000'"),
    (torch.zeros(48_000, 2), 16_000, "48000 channels.*exchange its axes"),
    (torch.zeros(1, 1, 9, dtype=torch.int64), 16_000, "int64"),
    (torch.zeros(1, 1, 9, dtype=torch.bool), 16_000, "bool"),
    (torch.zeros(1, 1, 9, dtype=torch.complex64), 16_000, "complex64"), (SOUND * 32767, 16_000, "32734.2.*32768"),
    (SOUND.numpy(), 16_000, "waveform that is a ndarray"), ([0.0], 16_000, "waveform that is a list")])
def test_what_is_no_sound_is_refused(waveform, rate, words):
    with pytest.raises(ValueError, match=f"^got .*{words}"):
        values.audio_clip(audio(waveform, rate))


@pytest.mark.parametrize("value", [[], (SOUND, 16_000), {}, {"waveform": SOUND}, SOUND, "speech.wav", 3])
def test_what_is_no_audio_is_refused(value):
    with pytest.raises(ValueError, match="^got .*, wanted AUDIO with a waveform and a sample_rate"):
        values.audio_clip(value)


def test_a_video_without_sound_is_said_to_have_none():
    with pytest.raises(ValueError, match="^got nothing: the video has no sound"):
        values.audio_clip(None)


@pytest.mark.parametrize(("dtype", "scale", "zero", "step"), [
    (torch.int8, 128, 0, 1 / 128), (torch.int16, 32768, 0, 1 / 32768), (torch.int32, 2 ** 31, 0, 1e-7),
    (torch.uint8, 128, 128, 1 / 128), (torch.float16, 1, 0, 1e-3), (torch.bfloat16, 1, 0, 1e-2),
    (torch.float64, 1, 0, 1e-7)])
def test_every_kind_of_samples_has_full_scale_1(dtype, scale, zero, step):
    clip = values.audio_clip(audio((SOUND.double() * scale + zero).to(dtype), np.int64(16_000)))
    assert clip["waveform"].dtype == torch.float32 and clip["sample_rate"] == 16_000
    assert clip["waveform"].shape == SOUND.shape and (clip["waveform"] - SOUND).abs().max() <= step


def test_a_missing_batch_or_channel_axis_is_added():
    stereo = torch.cat([SOUND, -SOUND], 1)
    assert torch.equal(values.audio_clip(audio(stereo[0]))["waveform"], stereo)
    assert torch.equal(values.audio_clip(audio(SOUND[0, 0]))["waveform"], SOUND)
    assert torch.equal(values.audio_clip(audio(stereo))["waveform"], stereo)


def test_sound_over_full_scale_passes_until_it_can_be_none():
    assert float(values.audio_clip(audio(SOUND * 10))["waveform"].max()) == pytest.approx(9.99)
    with pytest.raises(ValueError, match="got samples up to 19.98, wanted -1 to 1"):
        values.audio_clip(audio(SOUND * 20))


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_any_number_of_channels_is_averaged(channels):
    waveform = torch.randn(1, channels, 50, dtype=torch.float64)
    clip = values.audio_clip(audio(waveform, 48_000))
    mono = mix_to_mono(clip["waveform"])
    assert mono.dtype == torch.float32 and clip["sample_rate"] == 48_000
    assert torch.allclose(mono, sum(waveform[:, index] for index in range(channels)).float() / channels, atol=1e-6)


def test_silence_is_sound():
    assert mix_to_mono(values.audio_clip(audio(torch.zeros(1, 2, 8)))["waveform"]).shape == (1, 8)


LAYER = torch.zeros(1, 5, 8)


@pytest.mark.parametrize(("features", "words"), [
    (None, "nothing"), ([LAYER], "a list"), ({}, "a dict"), ({"encoded_audio_all_layers": None}, "nothing"),
    ({"encoded_audio_all_layers": []}, "a list"), ({"encoded_audio_all_layers": [LAYER.numpy()]}, "a list"),
    ({"encoded_audio_all_layers": [LAYER[0]]}, r"\(5, 8\)"), ({"encoded_audio_all_layers": [LAYER[:, :0]]}, "0, 8"),
    ({"encoded_audio_all_layers": [LAYER, LAYER[:, :4]]}, "all of one shape"),
    ({"encoded_audio_all_layers": [LAYER.long()]}, "int64"), ({"audio_streams": ([LAYER], [])}, "a list"),
    ({"encoded_audio_all_layers": [LAYER], "rate_hz": math.nan}, "rate_hz of nan"),
    ({"encoded_audio_all_layers": [LAYER], "rate_hz": None}, "rate_hz of nothing")])
def test_what_are_no_speech_features_is_refused(features, words):
    with pytest.raises(ValueError, match=f"^got .*{words}"):
        values.speech_features(features)


# ---------------------------------------------------------------- pictures

PICTURE = torch.rand(2, 9, 10, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("image", "words"), [
    (None, "nothing"), ([], "a list"), (PICTURE.numpy(), "a ndarray"), (PICTURE[..., :1], "3 or 4 channels"),
    (PICTURE[:0], r"\(0, 9"), (PICTURE[:, :7], "at least 8 pixels"), (PICTURE[None], "shape"),
    (PICTURE * 255, "pixels from .* to 25.*wanted 0 to 1"), (PICTURE * 2 - 1.6, "pixels from -1."),
    (PICTURE.long(), "int64"), (PICTURE.to(torch.int16), "int16"), (PICTURE * torch.nan, "NaN"),
    (PICTURE / 0, "infinite")])
def test_what_is_no_picture_is_refused(image, words):
    with pytest.raises(ValueError, match=f"^got .*{words}"):
        values.first_pictures(image)


@pytest.mark.parametrize(("image", "step"), [
    (PICTURE, 0), (PICTURE[0], 0), (PICTURE.double(), 1e-7), (PICTURE.half(), 1e-3),
    ((PICTURE * 255).round().byte(), 0.5 / 255 + 1e-6)], ids=["float", "one", "double", "half", "bytes"])
def test_every_kind_of_picture_is_one_from_0_to_1(image, step):
    found = values.first_pictures(image)
    assert found.dtype == torch.float32 and found.shape == (1, 9, 10, 3)
    assert (found - PICTURE[:1]).abs().max() <= step


def test_only_the_first_picture_is_looked_at():
    assert values.first_pictures(torch.cat([PICTURE[:1], PICTURE[1:] * torch.nan])).shape == (1, 9, 10, 3)


MASK = (torch.arange(90).view(1, 9, 10) > 44).float()


@pytest.mark.parametrize("mask", [
    MASK, MASK[0], MASK[:, None], MASK[..., None], MASK.bool(), MASK.long(), MASK.byte(), MASK.byte() * 255,
    MASK.half(), MASK.double(), torch.cat([MASK, 1 - MASK])])
def test_every_kind_of_mask_is_one_from_0_to_1(mask):
    found = values.first_mask(mask)
    assert found.dtype == torch.float32 and torch.equal(found, MASK)


@pytest.mark.parametrize(("mask", "words"), [
    (None, "nothing"), (MASK.numpy(), "a ndarray"), (MASK[0, 0], "shape"), (MASK[:0], "shape"),
    (MASK[None, None], "shape"),
    (MASK * torch.nan, "NaN"), (MASK * 255, "0 to 255, wanted 0 to 1"), (MASK.long() * 9, "int64")])
def test_what_is_no_mask_is_refused(mask, words):
    with pytest.raises(ValueError, match=f"^got .*{words}"):
        values.first_mask(mask)


# ---------------------------------------------------------------- what samplers take

@pytest.mark.parametrize(("value", "words"), [
    (None, "nothing"), ({}, "a dict"), ({"samples": None}, "a dict"), ({"samples": [1]}, "a list"), ([], "a list"),
    ({"samples": torch.zeros(1, 16, 8)}, "16, 8"), ({"samples": torch.zeros(1, 16, 0, 8, 8)}, "hold nothing"),
    ({"samples": torch.zeros(0, 16, 8, 8)}, "hold nothing"), ({"samples": torch.full((1, 16, 8, 8), torch.nan)}, "NaN"),
    ({"samples": torch.zeros(1, 16, 8, 8, dtype=torch.int64)}, "int64")])
def test_what_is_no_latent_is_refused(value, words):
    with pytest.raises(ValueError, match=f"^got .*{words}"):
        values.latent(value)


def test_latents_become_float32_and_keep_what_is_beside_them():
    found = values.latent({"samples": torch.ones(1, 4, 8, 8).half(), "noise_mask": 1})
    assert found["samples"].dtype == torch.float32 and found["noise_mask"] == 1


TEXT = torch.zeros(1, 4, 8)


@pytest.mark.parametrize(("value", "words"), [
    (None, "nothing"), ([], "an empty conditioning"), (TEXT, "a tensor"), ("she smiles", "she smiles"),
    ([TEXT], "tensor"), ([[TEXT]], "a list"), ([[TEXT, None]], "a list"), ([[None, {}]], "nothing.*as the text"),
    ([[TEXT[0], {}]], "as"),
    ([[TEXT[:, :0], {}]], "as the text"), ([[TEXT * torch.nan, {}]], "NaN"), ([[TEXT.long(), {}]], "int64")])
def test_what_is_no_conditioning_is_refused(value, words):
    with pytest.raises(ValueError, match=f"^got .*{words}"):
        values.conditioning(value)
    assert values.conditioning([[TEXT, {}]]) and values.conditioning(((TEXT, {}),))


@pytest.mark.parametrize(("schedule", "words"), [
    (None, "nothing"), ([1.0, 0.0], "a list"), (torch.tensor([[1.0, 0.0]]), r"\(1, 2\)"), (torch.tensor(1.0), r"\(\)"),
    (torch.tensor([]), "0 values"), (torch.tensor([1.0]), "1 values"), (torch.tensor([1.0, torch.nan, 0.0]), "NaN"),
    (torch.tensor([torch.inf, 1.0, 0.0]), "infinite"), (torch.tensor([1.0, 0.5, -0.1]), "negative"),
    (torch.tensor([1.0, 0.2, 0.5, 0.0]), "rise from 0.2 to 0.5"), (torch.tensor([1j, 0]), "complex64")])
def test_what_is_no_schedule_is_refused(schedule, words):
    with pytest.raises(ValueError, match=f"^got .*{words}"):
        values.sigmas(schedule)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_schedules_become_float32(dtype):
    found = values.sigmas(torch.tensor([1, 1, 0], dtype=dtype))
    assert found.dtype == torch.float32 and found.tolist() == [1, 1, 0]


@pytest.mark.parametrize(("schedule", "words"), [
    ([1.0, 0.8, 0.5], "ends at 0.5, wanted 0"), ([1.0, 0.02], "ends at 0.02"),
    ([0.5, 0.2, 0.0], "begins at 0.5, wanted 1"),
    ([14.6, 1.0, 0.0], "begins at 14.6, wanted 1: it was made for another kind of model")])
def test_a_part_of_a_schedule_is_refused(schedule, words):
    with pytest.raises(ValueError, match=words):
        values.check_whole_schedule(torch.tensor(schedule), 1.0)


@pytest.mark.parametrize("schedule", [[1.0, 0.0], [0.9997, 0.5, 0.004], [1.0, 1.0, 0.5, 0.0]])
def test_a_whole_schedule_passes(schedule):
    values.check_whole_schedule(torch.tensor(schedule), 1.0)


# ---------------------------------------------------------------- numbers

@pytest.mark.parametrize("value", [None, "4", [4], math.nan, math.inf, -math.inf, 4.5, True, 3, 11, 1j])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError, match="wanted a whole number from 4 to 10"):
        values.whole_number(value, 4, 10)


@pytest.mark.parametrize(("value", "nearest"), [(456, 448), (7, 16), (-3, 16), (999_999, 1024), (17, 16), (25, 32)])
def test_a_number_off_its_steps_is_given_the_nearest(value, nearest):
    with pytest.raises(ValueError, match=f"got {value}, wanted a multiple of 16 from 16 to 1024, such as {nearest}$"):
        values.whole_number(value, 16, 1024, 16)


@pytest.mark.parametrize("value", [None, "4", [4], math.nan, math.inf, -math.inf, True, 3.9, 10.1, 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="wanted a number from 4 to 10"):
        values.real_number(value, 4, 10)


def test_numbers_of_other_kinds_are_numbers():
    assert values.whole_number(np.int64(8), 4, 10) == values.whole_number(8.0, 4, 10) == 8
    assert values.real_number(np.float32(8), 4, 10) == values.real_number(8, 4, 10) == 8.0
