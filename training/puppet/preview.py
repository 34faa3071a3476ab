"""Pictures and films of the world: a sheet of characters at work, a clip with its sound."""
from fractions import Fraction
from pathlib import Path

import numpy as np

FPS, SAMPLE_RATE, COLUMNS = 25, 16_000, 4


def sheet(takes: list, path: Path, size: int, moments: int = 3) -> None:
    """A PNG: each character at `moments` times, a third of a second apart, enlarged without smoothing."""
    from PIL import Image

    pick: np.ndarray = 9 * np.arange(moments)
    rows = [np.concatenate(list(take.frames(pick, size).numpy()), 1) for take in takes]
    grid = np.concatenate([np.concatenate(rows[first:first + COLUMNS], 1) for first in range(0, len(rows), COLUMNS)])
    picture = Image.fromarray(grid)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)


def film(take, path: Path, size: int, frames: int) -> None:
    """An MP4 of the take's first frames, four times as large, with what it says."""
    import av

    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", FPS, width=4 * size, height=4 * size, pix_fmt="yuv420p",
                                       options={"crf": "16"})
        sound = container.add_stream("aac", SAMPLE_RATE, layout="mono")
        drawn = take.frames(np.arange(frames), size).numpy().repeat(4, 1).repeat(4, 2)
        for index, array in enumerate(drawn):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(picture.encode(frame))
        sound_frame = av.AudioFrame.from_ndarray(take.waveform(0, frames)[None], "fltp", "mono")
        sound_frame.sample_rate = SAMPLE_RATE
        container.mux([*picture.encode(None), *sound.encode(sound_frame), *sound.encode(None)])
