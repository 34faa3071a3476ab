"""Files that were damaged or made with bad intent: seeded mutations of good ones, read as the pack reads them.

`python tests/rig/mutations.py [KIND ...] [--count 20000] [--seed 1]` tries many and prints what is not an error in
words; the tests try a few of each. A mutation is one to four of: bits flipped, bytes overwritten, a piece cut out or
doubled, an integer replaced by an extreme one; most in the first part of the file, where headers are.
"""
import argparse
import pickle
import random
import runpy
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))

import av  # noqa: E402
import numpy as np  # noqa: E402
import tiny_gguf  # noqa: E402
import torch  # noqa: E402
from lodestar.networks.gguf_file import read_gguf  # noqa: E402
from lodestar.networks.weight_files import UNREADABLE, read_weights, surplus_bytes  # noqa: E402
from lodestar.pipelines.frames_at_times import FileFrames  # noqa: E402
from lodestar.pipelines.media_file import MediaFile  # noqa: E402
from lodestar.pipelines.metrics.video_reader import VideoFile  # noqa: E402
from lodestar.pipelines.picture_file import read_picture  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

EXTREMES = [0, 1, 2 ** 15, 2 ** 16 - 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 63 - 1, 2 ** 63, 2 ** 64 - 1]
# what the callers of each reader turn into a sentence with the input's name
WORDS = (ValueError, OSError)
SAY = ("gguf", "video", "wav", "flac", "picture")    # whose errors are the user's as they are
SLOW_SECONDS = 30


def mutate(data: bytes, chance: random.Random, head: int) -> bytes:
    """`head`: how many first bytes get most of it."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(min(head, len(content)) if chance.random() < 0.8 else len(content)) if content else 0
        length = chance.choice([1, 1, 2, 4, 8, 30])
        piece = bytes(content[place:place + length])
        how = chance.randrange(6)
        if how == 0 and content:
            content[place] ^= 1 << chance.randrange(8)
        elif how == 1:
            content[place:place + length] = chance.randbytes(length)
        elif how == 2:
            del content[place:place + length]
        elif how == 3:
            content[place:place] = piece * chance.choice([1, 2, 50])
        elif how == 4:
            layout = chance.choice(["<H", "<I", "<Q", ">H", ">I", ">Q"])
            number = chance.choice(EXTREMES) & (256 ** struct.calcsize(layout) - 1)
            content[place:place + struct.calcsize(layout)] = struct.pack(layout, number)
        else:
            content = content[:place] if chance.random() < 0.3 else content
    return bytes(content)


# ---------------------------------------------------------------- what is mutated, and how it is read

def write_safetensors(path: Path) -> None:
    save_file({"a.weight": torch.randn(4, 8), "b.bias": torch.zeros(3).half(), "c": torch.zeros(2, 0)}, path,
              metadata={"config": '{"hidden": 4}'})


def write_archive(path: Path) -> None:
    torch.save({"state_dict": {"a.weight": torch.randn(4, 8), "b": torch.zeros(3).half()}}, path)


def write_gguf(path: Path) -> None:
    tiny_gguf.write_gguf(path, {"a.weight": tiny_gguf.drawn("Q4_0", (4, 32)), "b": tiny_gguf.plain(torch.ones(3))},
                         {"note": "text", "comfy.gguf.orig_shape.a.weight": [4, 32]})


def write_video(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 40, np.uint8), "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        write_tone(container, sound)


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        write_tone(container, container.add_stream("pcm_s16le" if path.suffix == ".wav" else "flac", rate=16000,
                                                   layout="mono"))


def write_tone(container: Any, stream: Any) -> None:
    tone = (np.sin(np.arange(4000) / 9)[None] * 9000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
    for part in av.AudioResampler(stream.format.name, "mono", 16000).resample(frame):
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def write_picture(path: Path) -> None:
    from PIL import Image
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(path)


def read_tensors(path: Path) -> None:
    surplus_bytes(path)
    for tensor in read_weights(path)[0].values():
        if isinstance(tensor, torch.Tensor):
            tensor.clone()


def read_video(path: Path) -> None:
    for piece in VideoFile(path).pieces():
        assert piece.shape[-1] == 3
    read_sound(path)
    frames = FileFrames(path)
    for picture in frames.at([Fraction(0), Fraction(1, 10)]):
        assert picture.shape[-1] == 3
    frames.sound()


def read_sound(path: Path) -> None:
    media = MediaFile(path)
    if media.sound_track is not None:
        for piece in media.mono(16000):
            assert piece.ndim == 1


KINDS: dict[str, tuple[str, Callable, Callable, tuple[type[Exception], ...], int]] = {
    "safetensors": (".safetensors", write_safetensors, read_tensors, UNREADABLE, 300),
    "archive": (".pt", write_archive, read_tensors, UNREADABLE, 2000),
    "gguf": (".gguf", write_gguf, read_gguf, WORDS, 400),
    "video": (".mp4", write_video, read_video, WORDS, 4000),
    "wav": (".wav", write_sound, read_sound, WORDS, 60),
    "flac": (".flac", write_sound, read_sound, WORDS, 200),
    "picture": (".png", write_picture, read_picture, WORDS, 200)}


def find_faults(kind: str, folder: Path, seed: int, numbers: Iterable[int]) -> tuple[list[str], int]:
    """(a traceback's end for each error that is none in words, how many of these mutations were read without any)."""
    suffix, write, read, allowed, head = KINDS[kind]
    good, path, taken = folder / f"good{suffix}", folder / f"mutated{suffix}", 0
    torch.manual_seed(0)
    write(good)
    read(good)
    data, faults = good.read_bytes(), []
    for number in numbers:
        path.unlink(missing_ok=True)     # what was mapped stays as it was
        path.write_bytes(mutate(data, random.Random(f"{seed} {number}"), head))
        since = time.monotonic()
        try:
            read(path)
            taken += 1
        except allowed as error:
            if not str(error) and kind in SAY:
                faults.append(f"{kind}, mutation {number} of seed {seed}: {type(error).__name__} without a word")
        except (MemoryError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError,
                ImportError, SyntaxError, struct.error, EOFError, pickle.PickleError) as error:
            faults.append(f"{kind}, mutation {number} of seed {seed}: {type(error).__name__}: {error}\n"
                          + "".join(traceback.format_tb(error.__traceback__)[-2:]))
        if time.monotonic() - since > SLOW_SECONDS:
            faults.append(f"{kind}, mutation {number} of seed {seed}: {time.monotonic() - since:.0f} s")
    return faults, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], metavar="KIND")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    faulty = 0
    for kind in options.kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            faults, taken = find_faults(kind, Path(folder), options.seed, range(options.count))
        faulty += len(faults)
        print(f"{kind}: {options.count} mutations, {taken} read, {len(faults)} faults", *faults[:5], sep="\n",
              flush=True)
    sys.exit(bool(faulty))


if __name__ == "__main__":
    main()
