"""Two recordings differ within a quarter of a second, and a recording is known by its opening."""
import pytest
import torch
from lodestar.techniques.audio.recording_digests import first_difference, sound_marks

pytestmark = pytest.mark.once


def sound(seconds, rate=16000, channels=1, seed=0):
    waveform = torch.randn(1, channels, int(seconds * rate), generator=torch.Generator().manual_seed(seed))
    return {"waveform": waveform, "sample_rate": rate}


def opening(audio, samples):
    return {**audio, "waveform": audio["waveform"][..., :samples]}


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_a_recording_is_known_by_its_opening_of_any_length(rate):
    whole = sound(3, rate, channels=2)
    marks = sound_marks(whole)
    assert len(marks) == 12 and len(set(marks)) == 12
    for samples in (1, rate // 4, rate, rate * 2 + 7, rate * 3):
        assert first_difference(marks, sound_marks(opening(whole, samples))) is None


def test_where_two_recordings_part_is_said_in_seconds():
    whole = sound(3)
    other = {**whole, "waveform": whole["waveform"].clone()}
    other["waveform"][..., 16000 + 9000] += 0.25
    assert first_difference(sound_marks(whole), sound_marks(other)) == 1.5
    assert first_difference(sound_marks(whole), sound_marks(sound(3, seed=1))) == 0
    assert first_difference(sound_marks(whole), sound_marks({**whole, "sample_rate": 8000})) == 0
