"""Speech that is still arriving: a WAV that grows, a channel, silence in time, interruption, the end."""
import struct
import threading
import wave
from fractions import Fraction

import numpy as np
import pytest
import torch
from lodestar.pipelines.take.live_sound import LiveEnding, LiveSound, WholeSound
from lodestar.pipelines.take.live_source import END, RECORD, REPLACE, SOUND, Channel, GrowingWav, put_record

pytestmark = pytest.mark.once

RATE = 8000


class Clock:
    """Time passes only while somebody sleeps; `at` seconds something may happen."""

    def __init__(self, **events):
        self.now, self.events = 0.0, sorted((float(name[1:].replace("_", ".")), act) for name, act in events.items())

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


def live(source, clock=None, longest=60, **ending):
    clock = clock or Clock()
    return LiveSound(source, LiveEnding(Fraction(longest), **ending), lambda: None, clock, clock.sleep)


def tone(seconds, rate=RATE, channels=1):
    wave_ = np.sin(np.arange(round(seconds * rate)) / 7) * 16000
    return np.repeat(wave_[:, None], channels, 1).astype("<i2")


def wav(path, frames, rate=RATE, kind=1, bits=16, size=0xFFFFFFFF, before=b""):
    channels = frames.shape[1]
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    path.write_bytes(b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", 16) + form + before
                     + b"data" + struct.pack("<I", size) + frames.tobytes())
    return path


def test_complete_speech_is_given_as_it_is_and_is_over_at_its_end():
    audio = {"waveform": torch.rand(1, 3, 20 * RATE) / 2, "sample_rate": RATE}
    sound = live(WholeSound(audio))
    assert sound.wait_until(Fraction(9)) and sound.end < 20 * RATE
    assert torch.equal(sound.read(0, 9 * RATE), audio["waveform"][0].mean(0, keepdim=True)[:, :9 * RATE])
    sound.forget(5 * RATE)
    assert not sound.read(0, 5 * RATE).any() and sound.read(5 * RATE - 1, 5 * RATE + 2)[0, 1:].all()
    assert all(sound.wait_until(Fraction(second)) for second in range(10, 20))
    assert not sound.wait_until(Fraction(21)) and sound.seconds == 20 and not sound.read(20 * RATE, 22 * RATE).any()


def test_memory_holds_a_few_seconds_however_much_comes_at_once():
    sound = live(WholeSound({"waveform": torch.rand(1, 1, 600 * RATE), "sample_rate": RATE}), longest=900)
    held = []
    for second in range(1, 500):
        assert sound.wait_until(Fraction(second))
        sound.forget((second - 3) * RATE)
        held.append(sound._held.shape[1])
    assert max(held) <= 14 * RATE


@pytest.mark.parametrize(("kind", "bits", "channels"), [(1, 16, 1), (1, 16, 2), (1, 24, 1), (1, 32, 2), (3, 32, 1)])
def test_a_wav_is_read_as_python_reads_it(tmp_path, kind, bits, channels):
    value = np.linspace(-0.9, 0.9, RATE)[:, None].repeat(channels, 1)
    if kind == 3:
        frames = value.astype("<f4")
    else:
        whole = np.round(value * 2 ** (bits - 1)).astype("<i4")
        frames = whole.astype("<i2") if bits == 16 else whole if bits == 32 else \
            whole.view(np.uint8).reshape(RATE, channels, 4)[:, :, :3]
    path = wav(tmp_path / "a.wav", np.ascontiguousarray(frames), 44100, kind, bits, before=b"LIST\x03\0\0\0abc\0")
    sound = live(GrowingWav(path))
    sound.wait_until(Fraction(RATE, 44100))
    assert sound.sample_rate == 44100 and sound.read(0, RATE).shape[0] == channels
    assert np.abs(sound.read(0, RATE).numpy().T - value).max() < 1e-4


def test_a_growing_wav_is_followed_to_its_end(tmp_path):
    """A thread writes it as a program would; header sizes are right only at the end."""
    speech, path = tone(2), tmp_path / "talk.wav"
    path.touch()
    sound = LiveSound(GrowingWav(path), LiveEnding(Fraction(60), after_silence=0.3, idle=False), lambda: None)

    def write():
        with open(path, "wb") as file, wave.open(file, "wb") as out:
            out.setnchannels(1), out.setsampwidth(2), out.setframerate(RATE)
            for piece in np.array_split(speech, 20):
                out.writeframesraw(piece.tobytes())
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    second = Fraction(0)
    while sound.wait_until(second):
        second += Fraction(1, 4)
    writer.join()
    assert sound.seconds == 2 and second == Fraction(9, 4)
    assert torch.equal(sound.read(0, 2 * RATE)[0], torch.from_numpy(speech[:, 0].astype(np.float32) / 32768))


def test_where_nobody_speaks_silence_comes_in_time(tmp_path):
    path = wav(tmp_path / "a.wav", tone(1))

    def speak():
        with open(path, "ab") as file:
            file.write(tone(1).tobytes())

    clock = Clock(_3_3=speak)
    sound = live(GrowingWav(path), clock)
    for second in range(1, 6):
        assert sound.wait_until(Fraction(second))
        assert second == 1 or clock.now >= (second if second < 4 else 3.3)
    loud = sound.read(0, 5 * RATE)[0].abs().reshape(-1, RATE // 10).amax(1) > 0.1
    assert loud[:10].all() and not loud[10:30].any() and loud[40:50].sum() + loud[30:40].sum() == 10


def test_before_the_first_sound_there_is_silence_at_any_rate(tmp_path):
    path = tmp_path / "channel"
    path.touch()
    clock = Clock(_2_5=lambda: put_record(path, SOUND, tone(1, 16000, 2).tobytes(), 16000, 2))
    sound = live(Channel(path, "live:a"), clock)
    assert sound.wait_until(Fraction(2)) and sound.sample_rate == 48000 and sound.end == 96000
    assert sound.wait_until(Fraction(5, 2) + Fraction(1, 4)) and sound.sample_rate == 16000
    assert sound.read(0, 50000).shape[0] == 2 and not sound.read(0, 32000).any() and sound.read(33000, 40000).any()


@pytest.mark.parametrize("idle", [True, False])
def test_silence_of_some_seconds_ends_it_once_somebody_spoke(tmp_path, idle):
    path = wav(tmp_path / "a.wav", np.concatenate([np.zeros((4 * RATE, 1), "<i2"), tone(1), tone(1) // 5000]))
    clock = Clock()
    sound = live(GrowingWav(path), clock, after_silence=2.0, idle=idle)
    second = Fraction(1)
    while sound.wait_until(second):
        second += 1
        assert second < 20
    assert sound.seconds == (7 if idle else 6) and sound.over


def test_the_plan_is_the_longest(tmp_path):
    sound = live(GrowingWav(wav(tmp_path / "a.wav", tone(1))), longest=3)
    assert sound.wait_until(Fraction(3)) and not sound.wait_until(Fraction(4)) and sound.seconds == 3


def test_new_speech_replaces_what_is_queued_and_not_what_was_used(tmp_path):
    path = tmp_path / "channel"
    path.touch()
    old, new = tone(30), tone(30) // 2
    put_record(path, SOUND, old[:4 * RATE].tobytes(), RATE)
    sound = live(Channel(path, "live:a"), idle=False)
    assert sound.wait_until(Fraction(2))
    put_record(path, SOUND, old[4 * RATE:].tobytes(), RATE)
    assert sound.wait_until(Fraction(3)) and sound.end == 12 * RATE      # the queue is full
    put_record(path, REPLACE, new.tobytes(), RATE)
    assert sound.wait_until(Fraction(4))
    expected = torch.from_numpy(np.concatenate([old[:3 * RATE], new[:RATE]])[:, 0].astype(np.float32) / 32768)
    assert torch.equal(sound.read(0, 4 * RATE)[0], expected)
    put_record(path, REPLACE)
    put_record(path, END)
    assert not sound.wait_until(Fraction(6)) and sound.seconds == 4


def test_a_record_counts_once_all_of_it_is_there(tmp_path):
    path = tmp_path / "channel"
    data = RECORD.pack(SOUND, RATE, 1, 2 * RATE) + tone(1).tobytes() + RECORD.pack(END, 0, 1, 0)
    path.write_bytes(data[:1000])
    source = Channel(path, "live:a")
    assert source.arrivals(RATE) == [] and not source.is_closed
    path.write_bytes(data)
    arrived = source.arrivals(RATE // 2) + source.arrivals(10 * RATE)
    assert [len(arrival.sound[0]) for arrival in arrived] == [RATE // 2, RATE // 2] and source.is_closed


@pytest.mark.parametrize(("size", "kept"), [(2 * RATE, RATE), (0xFFFFFFFF, RATE + 52), (0, RATE + 52)])
def test_what_stands_behind_the_sound_of_a_finished_wav_is_no_sound(tmp_path, size, kept):
    """Tags, as many programs write them; where the header says no length everything is sound."""
    path = wav(tmp_path / "a.wav", tone(1), size=size)
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 96) + b"\7" * 96)
    arrived, = GrowingWav(path).arrivals(10 * RATE)
    assert arrived.sound.shape[1] == kept


@pytest.mark.parametrize(("change", "says"), [
    (lambda path: path.unlink(), "a.wav is gone"),
    (lambda path: path.write_bytes(path.read_bytes()[:600]), "became shorter: 600 bytes"),
    (lambda path: (path.rename(path.with_name("b")), path.write_bytes(b"x")), "replaced by another file")])
def test_a_file_that_vanishes_shrinks_or_is_replaced_is_said(tmp_path, change, says):
    path = wav(tmp_path / "a.wav", tone(1))
    sound = live(GrowingWav(path))
    assert sound.wait_until(Fraction(1))
    change(path)
    with pytest.raises(ValueError, match=says):
        sound.wait_until(Fraction(2))


@pytest.mark.parametrize(("data", "says"), [
    (b"ID3\x03 an mp3, as it were", "is no WAV file: it begins with b'ID3"),
    (b"RIFF\0\0\0\0WAVE" + b"junk" + struct.pack("<I", 80000) + b"\0" * 80000, "no sound in its first 65536 bytes"),
    (b"RIFF\0\0\0\0WAVEdata\0\0\0\0" + b"\0" * 99, "is damaged"),
    (b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 6, 1, 8000, 8000, 1, 8) + b"data\0\0\0\0" + b"\0" * 99,
     "WAV of kind 6 with 8 bits")])
def test_what_is_no_such_sound_is_refused_by_name(tmp_path, data, says):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        live(GrowingWav(path)).wait_until(Fraction(1))


def test_a_channel_refuses_what_it_cannot_have(tmp_path):
    path = tmp_path / "channel"
    with pytest.raises(FileNotFoundError):
        put_record(path, SOUND, b"\0\0", RATE)
    path.touch()
    for wrong in ((b"\0", RATE, 1), (b"\0\0", RATE, 2), (b"\0\0", 100, 1), (b"\0\0", RATE, 3)):
        with pytest.raises(ValueError, match="wanted"):
            put_record(path, SOUND, *wrong)
    assert path.stat().st_size == 0
    put_record(path, END)
    with pytest.raises(ValueError, match="closed before any sound came"):
        live(Channel(path, "live:a")).wait_until(Fraction(1))
    path.write_bytes(b"")
    put_record(path, SOUND, b"\0\0", RATE)
    put_record(path, SOUND, b"\0\0", 2 * RATE)
    with pytest.raises(ValueError, match="sent 16000 Hz with 1 channels after 8000"):
        live(Channel(path, "live:a")).wait_until(Fraction(1))


def test_cancel_gets_through_while_it_waits(tmp_path):
    class Cancelled(Exception):
        pass

    def cancel():
        raise Cancelled

    path = wav(tmp_path / "a.wav", tone(1))
    sound = LiveSound(GrowingWav(path), LiveEnding(Fraction(60), idle=False), cancel)
    with pytest.raises(Cancelled):
        sound.wait_until(Fraction(5))
