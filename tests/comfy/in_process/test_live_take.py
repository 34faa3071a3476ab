"""Live Take: block by block as speech arrives, as Long Take would make it, and one complete file however it ends."""
import struct
import threading
import time
import types
from fractions import Fraction

import av
import comfy.model_management
import comfy.samplers
import folder_paths
import numpy as np
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from families import FAMILIES, FamilyChunk, load_family, load_vae
from light_models import light_vae
from lodestar.backbones import attach
from lodestar.backbones.audio import families
from lodestar.backbones.audio.encoder import load_audio_encoder, log_mel
from lodestar.backbones.longcat.speech import encode_streams
from lodestar.host import live_session, live_sources
from lodestar.host.chunk_sampler import Sampling
from lodestar.host.live_inputs import LiveInputs
from lodestar.host.live_progress import LiveProgress
from lodestar.host.live_session import LiveSession
from lodestar.host.live_sources import channel_file
from lodestar.host.rolling_sampler import RollingSampler
from lodestar.host.session import TakeSession
from lodestar.host.stream_chunk_sampler import StreamChunkSampler
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.safe_files import NotWritten
from lodestar.pipelines.take import live_file
from lodestar.pipelines.take.folder_lock import FolderBusy
from lodestar.pipelines.take.live_sound import LiveEnding, LiveSound, WholeSound
from lodestar.pipelines.take.live_source import END, REPLACE, SOUND, put_record
from lodestar.techniques.flow_schedules import student_levels
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.temporal_anchor import TemporalAnchor

RATE, BLOCK, LENGTH = 16000, 2, 3
HIDDEN = types.SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)


@pytest.fixture(scope="module")
def t2v(tiny_models) -> FamilyChunk:
    return FamilyChunk(FAMILIES["wan21_t2v"], load_family("wan21_t2v", tiny_models / "models"))


@pytest.fixture(scope="module")
def vae(t2v, tiny_models):
    return load_vae(t2v.family, tiny_models / "models")


@pytest.fixture
def folders(tmp_path):
    """ComfyUI's input, output and temp folders."""
    before = [getattr(folder_paths, f"get_{name}_directory")() for name in ("input", "output", "temp")]
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        getattr(folder_paths, f"set_{name}_directory")(str(tmp_path / name))
    yield tmp_path
    for name, folder in zip(("input", "output", "temp"), before, strict=True):
        getattr(folder_paths, f"set_{name}_directory")(folder)


def tone(seconds, rate=RATE, channels=1):
    return np.repeat((np.sin(np.arange(round(seconds * rate)) / 9) * 12000)[:, None], channels, 1).astype("<i2")


def parts(chunk, vae, seconds=60.0, audio=None, block=BLOCK, sampler=None):
    """(model, sampling, take, picture) of a stream."""
    model = attach.with_technique(attach.with_technique(chunk.model, TemporalAnchor(2)), StyleAnchor())
    take = LodestarPlanTake.execute(model=model, audio=audio, fps=0.0, script="", width=64, height=64, chunk_frames=17,
                                    overlap_frames=-1, seed_step=1, max_seconds=seconds, block_latents=block).args[0]
    sampling = Sampling(Noise_RandomNoise(3), chunk.guider(model), sampler or RollingSampler(BLOCK, 1, "fresh"),
                        student_levels("even", LENGTH, 1, 5.0))
    return model, sampling, take, torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))


def live(chunk, vae, source="", show="file", after_silence=0.3, idle=False, light_decoder=None, encoder=None, **plan):
    model, sampling, take, picture = parts(chunk, vae, **plan)
    inputs = LiveInputs(model, vae, take.plan, picture, encoder=encoder, light_decoder=light_decoder)
    return LiveSession(inputs, sampling, take, HIDDEN, source, show, after_silence, idle)


def make(session, name="live"):
    with torch.inference_mode():
        return session.make(name)


def look(path):
    """Frames of the video, and its sound (samples,) at 48 kHz."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return frames, np.concatenate(sound, 1).mean(0)


def record_latents(monkeypatch):
    made, sample = [], StreamChunkSampler.sample

    def recording(self, chunk, past):
        for piece in sample(self, chunk, past):
            made.append(piece)
            yield piece

    monkeypatch.setattr(StreamChunkSampler, "sample", recording)
    return made


def at_frames(monkeypatch, acts):
    """Do something once so many frames are written."""
    written = LiveProgress.block_written

    def block_written(self, frames):
        written(self, frames)
        for count in [count for count in acts if count <= frames]:
            acts.pop(count)()

    monkeypatch.setattr(LiveProgress, "block_written", block_written)


def test_it_is_the_take_that_long_take_makes(t2v, vae, folders, monkeypatch):
    audio = {"waveform": torch.from_numpy(tone(2.6).T.astype(np.float32) / 32768)[None], "sample_rate": RATE}
    made = record_latents(monkeypatch)
    path = make(live(t2v, vae, audio=audio, show="HLS folder", seconds=0.0))
    lived, plan = torch.cat(made, 2), live(t2v, vae, audio=audio, seconds=0.0).take.plan
    assert path.name == "live_00001_.mp4" and sorted(file.name for file in (folders / "output").iterdir()) == [
        "live_00001_.mp4", "live_00001_live"]
    frames, sound = look(path)
    assert len(frames) == plan.total_frames == 42 and abs(len(sound) - 42 / 16 * 48000) < 2048
    assert abs(np.abs(sound[24000:96000]).max() - 12000 / 32768) < 0.05
    playlist = (folders / "output" / "live_00001_live" / "stream.m3u8").read_text()
    assert playlist.count("#EXTINF") == 6 and playlist.endswith("#EXT-X-ENDLIST\n")
    made.clear()
    model, sampling, take, picture = parts(t2v, vae, 0.0, audio)
    with torch.inference_mode():
        TakeSession(TakeInputs(model, vae, take.plan, picture), sampling, take, HIDDEN).make("long", False)
    assert (lived - torch.cat(made, 2)).abs().max() < 1e-4 * lived.abs().max()


def test_the_features_of_arriving_speech_are_those_of_the_whole(tmp_path, monkeypatch):
    """But of the last frames, whose sound after them is not there yet."""
    from lodestar.backbones.longcat.loader import load_longcat
    from lodestar.training.puppet.export import weights_file
    monkeypatch.setattr(families, "level_loudness", lambda speech, rate: speech)
    model = load_longcat(str(weights_file("puppet")))
    waveform = torch.randn(1, 1, 20 * RATE, generator=torch.Generator().manual_seed(0)) / 8
    audio = {"waveform": waveform, "sample_rate": RATE}
    take = LodestarPlanTake.execute(model=model, audio=audio, width=64, height=64, block_latents=4).args[0]
    whole = TakeInputs(model, None, take.plan, features=encode_streams(log_mel(), [waveform[0, 0]]))
    sound = LiveSound(WholeSound(audio), LiveEnding(Fraction(60)), lambda: None)
    arriving = LiveInputs(model, None, take.plan, encoder=log_mel(), sound=sound)
    for second, chunk in enumerate(take.plan.chunks[:-1], 1):
        sound.wait_until(take.plan.timeline.seconds_at(take.plan.timeline.first_frame(chunk.end_latent)))
        mine, theirs = arriving.audio_for(chunk), whole.audio_for(chunk)
        assert mine.shape == theirs.shape and theirs.std() > 0.1
        assert (mine[:, :, :-3] - theirs[:, :, :-3]).abs().max() < 1e-5, second
        sound.forget(sound.used - 9 * RATE)
    assert len(take.plan.chunks) > 8


def test_a_growing_file_of_44100_hz_stereo_is_followed(t2v, vae, folders):
    path = folders / "input" / "talk.wav"
    path.touch()

    def write():
        form = struct.pack("<IHHIIHH", 16, 1, 2, 44100, 176400, 4, 16)
        with open(path, "ab") as file:
            file.write(b"RIFF\xff\xff\xff\xffWAVEfmt " + form + b"data\xff\xff\xff\xff")
            for piece in np.array_split(tone(2, 44100, 2), 8):
                file.write(piece.tobytes())
                file.flush()
                time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    frames, sound = look(make(live(t2v, vae, "talk.wav", after_silence=1.0)))
    writer.join()
    assert len(frames) == 32 and len(sound) >= 2 * 48000 - 2048
    loud = np.abs(sound[:len(sound) // 4800 * 4800]).reshape(-1, 4800).max(1)[:19]
    assert (loud > 0.3).all()
    assert not list((folders / "output").glob("*.live.mp4"))


def test_while_nobody_speaks_it_goes_on_and_new_speech_replaces_what_is_queued(t2v, vae, folders, monkeypatch):
    def send(*record):
        return lambda: put_record(channel_file("talk"), *record)

    def speak():
        send(SOUND, tone(8).tobytes(), RATE)()

    def interrupt():
        send(REPLACE, (tone(0.5) // 4).tobytes(), RATE)()
        send(END)()

    at_frames(monkeypatch, {9: speak, 17: interrupt})
    started = time.monotonic()
    frames, sound = look(make(live(t2v, vae, "live:talk", idle=True, show="preview")))
    assert not channel_file("talk").exists() and time.monotonic() - started > 1.0     # the window's silence, in time
    level = np.abs(sound[:len(sound) // 2400 * 2400]).reshape(-1, 2400).max(1)
    loud, soft = np.flatnonzero(level > 0.25), np.flatnonzero((level > 0.05) & (level < 0.2))
    before, lasts = 2400 * loud[0] / 48000, 2400 * len(loud) / 48000
    assert 1.4 < before < 2.2 and lasts < 1.8 and soft[-1] > loud[-1]
    assert len(soft) >= 9 and len(frames) < 5 * 16
    previews = list((folders / "temp" / "lodestar_live").glob("preview_*/served.m3u8"))
    assert len(previews) == 1 and "view?subfolder=lodestar_live%2Fpreview_" in previews[0].read_text()


def test_a_picture_waits_for_the_sound_that_its_window_looks_into_and_for_no_more(t2v, vae, folders, monkeypatch):
    """(L - 1) blocks, on a clock that stands still while a block is made; the last come as the sound is over."""
    now, late, begin = [0.0], [], LiveSound.__init__

    class Paced(WholeSound):
        def arrivals(self, most):
            return super().arrivals(max(int(now[0] * RATE) - self._given, 0))

    def init(self, source, ending, check, *_):
        begin(self, source, ending, check, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))

    monkeypatch.setattr(LiveSound, "__init__", init)
    monkeypatch.setattr(live_sources, "WholeSound", Paced)
    monkeypatch.setattr(LiveProgress, "block_written", lambda self, frames: late.append(now[0] - frames / 16))
    make(live(t2v, vae, audio={"waveform": torch.zeros(1, 1, 6 * RATE), "sample_rate": RATE}, seconds=0.0))
    stated = (LENGTH - 1) * 4 * BLOCK / 16
    assert len(late) == 12 and all(abs(seconds - stated) < 0.03 for seconds in late[:-LENGTH])


def test_cancel_leaves_a_complete_video(t2v, vae, folders, monkeypatch):
    at_frames(monkeypatch, {17: lambda: comfy.model_management.interrupt_current_processing(True)})
    audio = {"waveform": torch.zeros(1, 1, 20 * RATE), "sample_rate": RATE}
    with pytest.raises(InterruptProcessingException):
        make(live(t2v, vae, audio=audio, seconds=0.0))
    comfy.model_management.interrupt_current_processing(False)
    assert [file.name for file in (folders / "output").iterdir()] == ["live_00001_.mp4"]
    assert len(look(folders / "output" / "live_00001_.mp4")[0]) == 17


@pytest.mark.parametrize(("change", "says"), [(lambda path: path.unlink(), "source: talk.wav is gone"),
                                              (lambda path: path.write_bytes(b""), "source: talk.wav became shorter")])
def test_a_file_that_goes_leaves_what_was_made(t2v, vae, folders, monkeypatch, change, says):
    path = folders / "input" / "talk.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(3).T, format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
    at_frames(monkeypatch, {9: lambda: change(path)})
    with pytest.raises(ValueError, match=says):
        make(live(t2v, vae, "talk.wav"))
    assert len(look(folders / "output" / "live_00001_.mp4")[0]) >= 9


@pytest.mark.parametrize("full", [2, 99], ids=["in mid-take", "at its end"])
def test_a_full_disk_is_said_and_what_is_finished_plays(t2v, vae, folders, monkeypatch, full):
    """What is written goes on as long as it can; where even the complete file has no room the growing one stays."""
    def refuse(*_):
        raise NotWritten("no space left")

    append, left = live_file.append_whole, iter(range(full, -1, -1))
    monkeypatch.setattr(live_file, "append_whole", lambda *what: append(*what) if next(left) else refuse())
    monkeypatch.setattr(live_session, "remux", refuse)
    with pytest.raises(NotWritten, match="no space left"):
        make(live(t2v, vae, audio={"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}, seconds=0.0))
    assert [file.name for file in (folders / "output").iterdir()] == ["live_00001_.live.mp4"]
    assert len(look(folders / "output" / "live_00001_.live.mp4")[0]) == (9 if full == 2 else 16)


def test_two_takes_at_once_have_two_files_and_a_channel_is_of_one(t2v, vae, folders, monkeypatch):
    audio = {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}

    def another():
        assert make(live(t2v, vae, audio=audio, seconds=0.0)).name == "live_00002_.mp4"
        with pytest.raises(FolderBusy, match="talk is in use by another run"):
            make(live(t2v, vae, "live:talk"))
        put_record(channel_file("talk"), SOUND, tone(1).tobytes(), RATE)
        put_record(channel_file("talk"), END)

    at_frames(monkeypatch, {9: another})
    assert make(live(t2v, vae, "live:talk", idle=True)).name == "live_00001_.mp4"


def test_a_light_decoder_decodes_and_another_familys_is_refused(t2v, vae, folders):
    audio = {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}
    full = look(make(live(t2v, vae, audio=audio, seconds=0.0)))[0]
    light = look(make(live(t2v, vae, audio=audio, seconds=0.0, light_decoder=light_vae(16))))[0]
    assert len(full) == len(light) == 16 and np.abs(np.float32(full) - np.float32(light)).mean() > 2
    with pytest.raises(ValueError, match="light_decoder: it decodes latents of 48 channels"):
        make(live(t2v, vae, audio=audio, seconds=0.0, light_decoder=light_vae(48)))
    with pytest.raises(ValueError, match="light_decoder: got WanVAE"):
        make(live(t2v, vae, audio=audio, seconds=0.0, light_decoder=vae))


def test_what_cannot_be_live_is_refused_before_anything_is_made(t2v, vae, folders, tiny_models):
    (folders / "input" / "junk.wav").write_bytes(b"no wav at all, and long enough to be looked at")
    (folders / "input" / "junk.mp3").write_bytes(b"neither an mp3" * 99)
    euler = comfy.samplers.sampler_object("euler")
    for session, says in (
            (live(t2v, vae, sampler=euler), "sampler: a live take is made by a Rolling Window"),
            (live(t2v, vae, block=0, audio={"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}),
             "plan: it has chunks, and a live take is a stream of blocks. Set block_latents of Plan Take to 2"),
            (live(t2v, vae, block=3), "plan: it has blocks of 3"),
            (live(t2v, vae), "source: it is empty, and the plan was made without speech"),
            (live(t2v, vae, "gone.wav"), "source: gone.wav is not in ComfyUI's input folder"),
            (live(t2v, vae, "../../etc/passwd"), "source: ../../etc/passwd is outside"),
            (live(t2v, vae, "live:a b"), "source: 'live:a b' is no channel"),
            (live(t2v, vae, "junk.wav"), "source: junk.wav is no WAV file"),
            (live(t2v, vae, "junk.mp3"), "source: junk.mp3 is no sound file that can be read")):
        with pytest.raises(ValueError, match=says):
            make(session)
    assert not list((folders / "output").iterdir())


def test_a_model_that_speech_drives_wants_its_own_encoder(tiny_models, folders):
    chunk = FamilyChunk(FAMILIES["longcat_avatar15"], load_family("longcat_avatar15", tiny_models / "models"))
    vae = load_vae(chunk.family, tiny_models / "models")
    audio = {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}
    encoders = tiny_models / "models" / "audio_encoders"
    wav2vec = load_audio_encoder(encoders / "lodestar_tiny_longcat_wav2vec2.safetensors")
    for encoder, says in ((None, "audio_encoder: LongCat.* is driven by speech"), (wav2vec, "audio_\\w+: ")):
        with pytest.raises(ValueError, match=says):
            make(live(chunk, vae, audio=audio, seconds=0.0, encoder=encoder))
