"""Clips made of real video files by toy encoders: cut, resumed, changed, refused; RAM does not grow with a video."""
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from lodestar.pipelines.take.folder_lock import FolderBusy
from lodestar.pipelines.training import clip_maker
from lodestar.pipelines.training.clip_maker import CROPPED, MASKED, ClipMaker, Encoders
from lodestar.pipelines.training.clip_store import ClipFormat, ClipStore, SpeechFormat
from lodestar.pipelines.training.video_clips import Box, ClipLeftOut, face_box, face_mask

pytestmark = pytest.mark.once
FORMAT = ClipFormat("toy", 3, 32, 32, 8, 4, "8", 4, 3, 2, clip_maker.WHOLE, False, 0, SpeechFormat("toy", 2, 4, 25.0))
FRAMES = FORMAT.frames      # 13 of 8 a second: 1.625 s


def write_video(path, seconds, fps=16, sound=True, size=48, tint=0):
    """Each frame is as bright as it is late; the sound is a tone as loud as it is late."""
    with av.open(str(path), "w") as file:
        track = file.add_stream("mpeg4", rate=fps, width=size, height=size, pix_fmt="yuv420p")
        track.bit_rate = 400_000
        tone = file.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(int(seconds * fps)):
            picture = np.full((size, size, 3), 20 + tint + 10 * number / fps, np.uint8)
            for packet in track.encode(av.VideoFrame.from_ndarray(picture, "rgb24")):
                file.mux(packet)
        if tone is not None:
            samples = np.sin(np.arange(int(seconds * 16000)) * 0.2).astype(np.float32)[None] * 0.3
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            frame.sample_rate = 16000
            for packet in [*tone.encode(frame), *tone.encode(None)]:
                file.mux(packet)
        for packet in track.encode(None):
            file.mux(packet)
    return path


def encode(frames):
    """Brightness of each latent's last frame, in each of 3 channels."""
    last = frames[::4].mean(-1)
    small = torch.nn.functional.avg_pool2d(last[:, None], 8)[:, 0]
    return small[None, None].expand(1, 3, *small.shape).clone()


def speech(samples):
    """25 rows a second: their number, loudness."""
    rows = samples[:len(samples) // 640 * 640].view(-1, 640).abs().mean(1)
    return rows[None, :, None].expand(2, -1, 4).clone()


class Watcher:
    def __init__(self, stop_after=None):
        self.seen, self.stop_after = [], stop_after

    def check_cancelled(self):
        if self.stop_after is not None and len([one for one in self.seen if one[3]]) >= self.stop_after:
            raise KeyboardInterrupt

    def clip_done(self, *seen):
        self.seen.append(seen)


def make(folder, store, watcher=None, encoders=None, made_with=FORMAT):
    own = ClipStore.create(store, made_with)
    report = ClipMaker(folder, own, encoders or Encoders(encode, speech), watcher or Watcher()).make()
    return report, own.refresh()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos" / "more").mkdir(parents=True)
    write_video(tmp_path / "videos" / "long.mp4", 6.6)
    write_video(tmp_path / "videos" / "more" / "two.mp4", 2.0, fps=25)
    return tmp_path / "videos"


def test_a_clip_has_all_arrays_at_its_own_time(folder, tmp_path):
    report, store = make(folder, tmp_path / "clips")
    assert (report.made, report.found, report.left_out) == (5, 0, {}) and len(store) == 5
    assert {clip.info.name for clip in store} == {"long.mp4", "more/two.mp4"}
    clip = store[2]      # the third of the long one: frames 26 to 38 of 8 a second
    assert clip.values["first_frame"] == 26 and clip["latents"].shape == (3, 4, 4, 4)
    begin = 26 / 8
    seconds = torch.tensor([begin + latent * 4 / 8 for latent in range(4)])
    brightness = clip["latents"][0, :, 2, 2].float() * 255
    assert torch.allclose(brightness, 20 + 10 * seconds, atol=2.5)
    assert clip["context_starts"].tolist() == [1] and clip["contexts"].shape == (1, 3, 2, 4, 4)
    assert torch.allclose(clip["contexts"][0].float(), clip["latents"][:, 1:3].float(), atol=0.01)
    times = begin + clip["picture_frames"] / 8
    assert torch.allclose(clip["pictures"][:, 0, 2, 2].float() * 255, 20 + 10 * times, atol=2.5)
    inside = (clip["picture_frames"] >= 0) & (clip["picture_frames"] < FRAMES)
    assert inside.any() and not inside.all()
    assert clip["speech"].shape == (2, round(FRAMES / 8 * 25) + 1, 4) and not clip.info.silent
    assert "mask" not in clip and "perturbed" not in clip


def test_speech_begins_with_the_clip(folder, tmp_path):
    """A click at 3.4 s is in the third clip, 0.15 s behind its first frame: row 3 of 25 a second."""
    class Click:
        silent = False

        def __init__(self, source):
            self.samples = torch.zeros(16000 * 7)
            self.samples[int(3.4 * 16000)] = 1

        def between(self, first, end):
            return torch.nn.functional.pad(self.samples, (0, end))[first:end]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_maker, "SoundAlong", Click)
        _, store = make(folder, tmp_path / "clips")
    assert store[2]["speech"][0, :, 0].argmax() == 3 and store[0].info.silent


def test_what_is_there_is_found_and_what_changed_is_made_again(folder, tmp_path):
    make(folder, tmp_path / "clips")
    report, store = make(folder, tmp_path / "clips")
    assert (report.made, report.found) == (0, 5)
    os.utime(folder / "long.mp4", (1, 1))                               # touched, not changed
    assert make(folder, tmp_path / "clips")[0].made == 0
    before = float(store[0]["latents"].float().mean())
    write_video(folder / "long.mp4", 3.6, tint=100)
    report, store = make(folder, tmp_path / "clips")
    assert (report.made, report.found) == (2, 1) and len(store) == 3
    assert float(store[0]["latents"].float().mean()) > before + 0.2


def test_an_interrupt_keeps_finished_clips_and_the_next_run_has_the_same_bytes(folder, tmp_path):
    _, whole = make(folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "clips", Watcher(stop_after=2))
    assert len(ClipStore.open(tmp_path / "clips")) == 2
    report, store = make(folder, tmp_path / "clips")
    assert (report.made, report.found) == (3, 2) and store.names == whole.names
    assert all(store.path(name).read_bytes() == whole.path(name).read_bytes() for name in whole.names)
    assert not list((tmp_path / "clips").rglob("*.part"))


def test_broken_videos_are_named_and_the_others_are_used(folder, tmp_path):
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    whole = (folder / "long.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:len(whole) // 2])
    write_video(folder / "mute.mp4", 2.0, sound=False)
    write_video(folder / "short.mp4", 1.0)
    report, _ = make(folder, tmp_path / "clips")
    assert report.made == 5 and set(report.left_out) == {"broken.mp4", "cut.mp4", "mute.mp4", "short.mp4"}
    assert "has no sound" in report.left_out["mute.mp4"] and "shorter than a clip" in report.left_out["short.mp4"]
    assert "broken.mp4: broken.mp4 cannot be read" in str(report)
    again, _ = make(folder, tmp_path / "clips")
    assert set(again.left_out) == set(report.left_out)
    for name in ("long.mp4", "more/two.mp4"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match="nothing in .* can be used.*broken.mp4"):
        make(folder, tmp_path / "others")


def test_of_one_video_come_the_clips_that_it_has_among_others(folder, tmp_path):
    _, among = make(folder, tmp_path / "among")
    report, store = make(folder / "long.mp4", tmp_path / "clips")
    assert report.made == 4 and {clip.info.name for clip in store} == {"long.mp4"}
    assert all(store.path(name).read_bytes() == among.path(name).read_bytes() for name in store.names)
    (folder / "long.mp4").write_bytes(b"not a video at all")
    with pytest.raises(ValueError, match="folder: nothing in .*long.mp4 can be used.*cannot be read"):
        make(folder / "long.mp4", tmp_path / "broken")


def test_an_encoder_s_refusal_leaves_no_video_out(folder, tmp_path):
    def refuse(frames):
        raise ValueError("vae: this one only decodes")
    with pytest.raises(ValueError, match="vae: this one only decodes"):
        make(folder, tmp_path / "clips", encoders=Encoders(refuse, speech))
    assert make(folder, tmp_path / "clips")[0].made == 5
    with pytest.raises(ValueError, match="audio_encoder: it gives NaN"):
        make(folder, tmp_path / "nan", encoders=Encoders(encode, lambda samples: speech(samples) * torch.nan))


def test_too_little_disk_is_said_before_the_first_clip(folder, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 150_000_000))
    watcher = Watcher()
    with pytest.raises(ValueError, match=r"5 clips need 0\.3 GB, and .* has 0\.1 GB free"):
        make(folder, tmp_path / "clips", watcher)
    assert watcher.seen == [] and len(ClipStore.open(tmp_path / "clips")) == 0


def test_a_folder_that_is_in_use_or_empty_is_refused(folder, tmp_path):
    with ClipStore.create(tmp_path / "clips", FORMAT).writer(), pytest.raises(FolderBusy, match="another run"):
        make(folder, tmp_path / "clips")
    (tmp_path / "empty").mkdir()
    for place, words in (("empty", "has no videos"), ("nowhere", "is no folder")):
        with pytest.raises(ValueError, match=words):
            make(tmp_path / place, tmp_path / "others")


def test_a_crop_stands_about_the_face_and_the_mask_is_where_it_is(folder, tmp_path):
    def find_face(frames):      # a face of 12 pixels at the right of the picture
        return torch.tensor([[28.0, 12, 40, 24]]).expand(len(frames), 4)
    _, masked = make(folder, tmp_path / "masked", encoders=Encoders(encode, speech, find_face),
                     made_with=replace(FORMAT, faces=MASKED))
    mask = masked[0]["mask"]      # 48 pixels are 4 cells of 12: the face covers a third and two of cells 2 and 3
    assert mask.shape == (1, 4, 4, 4)
    assert mask[0, 0, 1].tolist() == pytest.approx([0, 0, 8 / 12, 4 / 12], abs=1e-3) and mask[0, 0, 2].sum() == 0
    _, cropped = make(folder, tmp_path / "cropped", encoders=Encoders(encode, speech, find_face),
                      made_with=replace(FORMAT, faces=CROPPED))
    assert cropped[0]["mask"].sum() > mask.sum()

    def some(frames):
        return find_face(frames) if float(frames.mean()) * 255 < 55 else torch.full((len(frames), 4), torch.nan)
    report, _ = make(folder, tmp_path / "some", encoders=Encoders(encode, speech, some),
                     made_with=replace(FORMAT, faces=MASKED))
    assert report.made == 3 and "a face in " in report.left_out["long.mp4 at 5 s"]


def test_boxes_by_hand():
    faces = torch.tensor([[100.0, 100, 140, 150]]).expand(3, 4)
    assert face_box(faces, 400, 300, 64, 64) == Box(60.0, 70.0, 180.0, 190.0)
    with pytest.raises(ClipLeftOut, match="40 pixels wide, too small for 512x512"):
        face_box(faces, 400, 300, 512, 512)
    corner = face_box(torch.tensor([[0.0, 0, 40, 40]]), 400, 300, 64, 64)
    assert (corner.left, corner.top) == (0, 0)
    mask = face_mask(torch.tensor([[0.0, 0, 8, 8], [8, 8, 16, 16]]), 9, Box(0, 0, 16, 16), (2, 2), 4)
    assert mask[0, 0].tolist() == [[1, 0], [0, 0]] and mask[0, 2].tolist() == [[0, 0], [0, 1]]


PEAK = """
import conftest, resource, sys
sys.path[:0] = {paths!r}
import test_clip_maker as own
from pathlib import Path
for seconds in (4, 24):
    own.make(Path({place!r}) / str(seconds), Path({place!r}) / f"clips{{seconds}}")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_ram_does_not_grow_with_a_video_s_length(tmp_path):
    """Frames of 320x320 at 8 a second: 20 s more of them are 197 MB."""
    for seconds in (4, 24):
        (tmp_path / str(seconds)).mkdir()
        write_video(tmp_path / str(seconds) / "one.mp4", seconds, fps=8, size=320)
    code = PEAK.format(paths=sys.path, place=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent,
                          check=False)
    assert done.returncode == 0, done.stderr
    before, after = (int(line) / 1024 for line in done.stdout.split())
    assert after < before + 40, (before, after)
