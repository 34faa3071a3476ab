"""The growing file of a live take: whole after every block, in sync, and as an HLS folder."""
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from lodestar.pipelines.safe_files import NotReadable, NotWritten
from lodestar.pipelines.take import live_file
from lodestar.pipelines.take.live_file import HlsFolder, LiveFile, append_whole, remove_folder, remux

pytestmark = pytest.mark.once

RATE, BLOCK = 44100, 8


def beep(frame, fps, count):
    """Sound (2, samples) of `count` frames from `frame` on: a click where the picture is white, every 10 frames."""
    first, end = (round(place * RATE / fps) for place in (frame, frame + count))
    sound = torch.zeros(2, end - first)
    for number in range(frame, frame + count):
        if number % 10 == 5:
            at = round(number * RATE / fps) - first
            sound[:, at:at + 441] = 0.8
    return sound


def pictures(frame, count):
    white = (torch.arange(frame, frame + count) % 10 == 5).float()
    return white.view(-1, 1, 1, 1).expand(-1, 48, 64, 3)


def make(tmp_path, fps=Fraction(25), blocks=6, hls=None, end=True):
    path = tmp_path / "live.mp4"
    with LiveFile(64, 48, fps, path, hls) as file:
        for block in range(blocks):
            count = BLOCK + (not block)
            file.write(pictures(file.frames, count))
            file.end_block(beep(file.frames - count, fps, count), RATE, end and block == blocks - 1)
            yield path, file
        file.end()


def read(path):
    with av.open(str(path)) as container:
        white = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)
                 if frame.to_ndarray(format="gray").mean() > 128]
    with av.open(str(path)) as container:
        number = sum(1 for _ in container.decode(video=0))
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        begin = float(frames[0].pts * frames[0].time_base)
        sound = np.concatenate([frame.to_ndarray() for frame in frames], 1)[0]
    loud = np.abs(sound) > 0.3
    starts = [at for at in np.flatnonzero(loud) if not loud[max(at - 4800, 0):at].any()]
    return number, white, [begin + at / 48000 for at in starts]


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(16), Fraction(30000, 1001)])
def test_picture_and_sound_are_together_in_the_growing_file_and_the_remuxed_one(tmp_path, fps):
    for path, file in make(tmp_path, fps):
        number, white, clicks = read(path)
        assert number == file.frames and len(white) == (file.frames + 4) // 10
    whole = remux(path, {"lodestar": "yes"}, tmp_path / "whole.mp4")
    for found in (path, whole):
        number, white, clicks = read(found)
        assert number == 6 * BLOCK + 1 and len(white) == len(clicks) == 5
        assert max(abs(one - other) for one, other in zip(white, clicks, strict=True)) < 0.006
    with av.open(str(whole)) as container:
        assert container.metadata["lodestar"] == "yes" and container.streams.video[0].frames == 6 * BLOCK + 1


def test_each_block_is_a_fragment_that_plays_behind_the_head(tmp_path):
    hls = HlsFolder(tmp_path / "hls", "view?subfolder=x&filename=")
    for _path, _file in make(tmp_path, hls=hls):
        pass
    names = sorted(path.name for path in hls.folder.iterdir())
    assert names == [f"{number:06}.m4s" for number in range(6)] + ["init.mp4", "served.m3u8", "stream.m3u8"]
    head = (hls.folder / "init.mp4").read_bytes()
    for number in range(6):
        alone = tmp_path / "alone.mp4"
        alone.write_bytes(head + (hls.folder / f"{number:06}.m4s").read_bytes())
        with av.open(str(alone)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        assert packets[0].is_keyframe and len(packets) == BLOCK + (not number)
        assert packets[0].pts * packets[0].time_base == Fraction(number and 1 + number * BLOCK, 25)
    assert head + b"".join((hls.folder / f"{number:06}.m4s").read_bytes() for number in range(6)) == \
        (tmp_path / "live.mp4").read_bytes()
    with av.open(str(hls.folder / "stream.m3u8")) as container:     # FFmpeg plays it
        assert sum(1 for _ in container.decode(video=0)) == 6 * BLOCK + 1
    served = (hls.folder / "served.m3u8").read_text()
    assert 'URI="view?subfolder=x&filename=init.mp4"' in served and served.endswith("ENDLIST\n")
    assert served.count("#EXTINF:0.320000") == 5 and "view?subfolder=x&filename=000005.m4s" in served
    remove_folder(hls.folder)
    assert not hls.folder.exists()


def test_a_preview_keeps_the_newest_fragments_alone(tmp_path):
    hls = HlsFolder(tmp_path / "hls", "", keep=2)
    for _path, _file in make(tmp_path, hls=hls):
        assert len(list(hls.folder.glob("*.m4s"))) <= 2
    text = (hls.folder / "stream.m3u8").read_text()
    assert "#EXT-X-MEDIA-SEQUENCE:4\n" in text and "000005.m4s" in text and "000003.m4s" not in text


def test_a_run_that_dies_leaves_what_plays(tmp_path):
    blocks = make(tmp_path, end=False)
    for _ in range(3):
        path, file = next(blocks)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3 * BLOCK + 1 == file.frames
    blocks.close()
    assert path.exists()


class Died(BaseException):
    """A kill in the middle of a write; nothing may catch it."""


@pytest.mark.parametrize("error", [Died, OSError])
def test_a_run_that_dies_in_a_write_leaves_what_plays(tmp_path, monkeypatch, error):
    """However much of the fourth block's fragment it got to the disk; where that is full nothing of it stays."""
    sizes = [(path.stat().st_size, file.frames) for path, file in make(tmp_path, blocks=4, end=False)]
    data, ((three, frames), (four, _)) = (tmp_path / "live.mp4").read_bytes(), sizes[2:]
    path, counts = tmp_path / "broken.mp4", (*range(0, 200, 12), 400, 600, four - three)

    def write_some(file, data):
        file.write(data[:count])
        raise error(28, "No space left on device")

    monkeypatch.setattr(live_file, "write_all", write_some)
    for count in counts:
        path.write_bytes(data[:three])
        with open(path, "r+b", buffering=0) as file, pytest.raises(error):
            append_whole(file, data[three:four])
        assert (path.stat().st_size == three) == (error is OSError or not count)
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == frames, count


def test_a_file_that_was_deleted_meanwhile_is_said(tmp_path):
    blocks = make(tmp_path, end=False)
    path, _ = next(blocks)
    path.unlink()
    with pytest.raises(NotWritten, match="it was deleted or moved while it was made"):
        next(blocks)


def test_a_file_that_another_program_changed_is_said(tmp_path):
    (tmp_path / "live.mp4").write_bytes(b"no video at all")
    with pytest.raises(NotReadable, match="live.mp4 cannot be read .* another program changed it"):
        remux(tmp_path / "live.mp4", {}, tmp_path / "a.mp4")


def test_frames_of_another_size_are_refused_and_no_empty_file_is_left(tmp_path):
    with LiveFile(64, 48, Fraction(25), tmp_path / "a.mp4") as file, pytest.raises(ValueError, match="the VAE of the"):
        file.write(torch.zeros(1, 32, 64, 3))
    assert not (tmp_path / "a.mp4").exists()
