"""Training clips as a folder on disk: of each clip its latents, speech and masks, and what teachers make of them.

`clips.json` says what all of them were made with; `clips/`, `pairs/` and `preferences/` hold a safetensors file each,
written whole or not at all and memory-mapped when read, so that RAM is that of what is used. No VAE, no ComfyUI.

A clip has (names of its arrays; latents are the VAE's own, as ComfyUI's LATENT has them, float16):
  latents       (C, T, h, w), one stream: all but the first are video-type latents
  contexts      (K, C, k, h, w), re-encoded; chunk i of them begins at latent `context_starts` (K,)
  pictures      (P, C, h, w), single frames of the same person at `picture_frames` (P,), from the clip's first frame on,
                also before and after it
  speech        (L, S, D) feature frames, the first `margin` of them before the clip's first frame
  mask          (T, h, w), how much of each latent cell is the face, 0..1
  spoilt        (C, T, h, w), the clip as a network's drift would spoil it (EverAnimate)
A pair (a teacher's path from noise to a chunk) has `states` (N, C, t, h, w) at `sigmas` (N,), falling to 0: the first
is noise, the last the chunk; a preference `win`, `lose` (C, t, h, w) and `mask` (t, h, w). Both have `clip`, `first`
(its latent at which the chunk begins), `picture` (which of `pictures`, -1: none) and `seed` among their values.
"""
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import safe_files
from .safe_files import reading, writing
from .take.folder_lock import FolderLock

logger = logging.getLogger("lodestar")
MANIFEST, VERSION = "clips.json", 1
CLIPS, PAIRS, PREFERENCES = SHELVES = ("clips", "pairs", "preferences")
VALUES = "lodestar"     # under which a file's metadata hold its values


@dataclass(frozen=True)
class SpeechFormat:
    """What speech features are of: `family` of the encoder, `layers` of `width` at `rate_hz`; `margin` feature frames
    stand before the clip's first frame, and behind its last."""
    family: str
    layers: int
    width: int
    rate_hz: float
    margin: int = 0


@dataclass(frozen=True)
class ClipFormat:
    """What all clips of a folder were made with. `vae`: its class and a digest of its weights. `width`, `height`:
    pixels; `spatial_ratio` of them are a latent's side. `latents`: of a clip. `chunk_latents`, `context_latents`: of a
    chunk, and of what is re-encoded before one. `faces`: how the face was looked for."""
    vae: str
    channels: int
    width: int
    height: int
    spatial_ratio: int
    temporal_ratio: int
    fps: str
    latents: int
    chunk_latents: int
    context_latents: int = 0
    faces: str = ""
    seed: int = 0
    speech: SpeechFormat | None = None

    @property
    def rate(self) -> Fraction:
        """Frames a second."""
        return Fraction(self.fps)

    @property
    def frames(self) -> int:
        """Pixel frames of a clip."""
        return (self.latents - 1) * self.temporal_ratio + 1

    def differences(self, other: "ClipFormat") -> list[str]:
        """Such as "width 832, not 480": what this one has, not what `other` has."""
        return [f"{one.name} {_say(getattr(self, one.name))}, not {_say(getattr(other, one.name))}"
                for one in fields(self) if getattr(self, one.name) != getattr(other, one.name)]

    def as_json(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1).encode()

    @classmethod
    def of_json(cls, text: bytes) -> "ClipFormat":
        """Raises ValueError, without the file's name."""
        try:
            found = json.loads(text)
            version = found.pop("version")
            if version == VERSION:
                speech = found.pop("speech")
                return cls(**found, speech=speech and SpeechFormat(**speech))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is damaged ({error}); make the clips again in another folder") from error
        raise ValueError(f"it is of version {version} of the format, this pack reads {VERSION}")


def _say(value: Any) -> str:
    if isinstance(value, SpeechFormat):
        return f"of {value.layers} layers of {value.width} at {value.rate_hz:g} Hz ({value.family})"
    return "none" if value is None or value == "" else str(value)


class Entry:
    """One file: its arrays, mapped, and its values (JSON). Raises ValueError where it is damaged, NotReadable where it
    is gone."""

    def __init__(self, path: Path):
        self.path = path
        with self._open() as file:
            self.arrays: tuple[str, ...] = tuple(sorted(file.keys()))
            self.values: dict[str, Any] = json.loads((file.metadata() or {}).get(VALUES, "{}"))

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with reading(self.path), safe_open(self.path, "pt") as file:
                yield file
        except SafetensorError as error:
            raise ValueError(f"{self.path} is damaged ({error}); delete it and make the clips again: it alone is made"
                             ) from error

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        """The whole array, mapped: read where it is used."""
        self._check(name)
        with self._open() as file:
            return file.get_tensor(name)

    def part(self, name: str, *where: Any) -> Tensor:
        """Only a part of an array, such as part("latents", slice(None), slice(3, 8)) of latents 3 to 7."""
        self._check(name)
        with self._open() as file:
            return file.get_slice(name)[tuple(where)]

    def shape(self, name: str) -> tuple[int, ...]:
        self._check(name)
        with self._open() as file:
            return tuple(file.get_slice(name).get_shape())

    def _check(self, name: str) -> None:
        if name not in self.arrays:
            raise ValueError(f"{self.path.name} has no {name}, only {', '.join(self.arrays)}")


class Shelf(Sequence[Entry]):
    """The files of one kind, in the order of their names. What was there when it was opened."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = tuple(sorted(path.stem for path in folder.glob("*.safetensors"))) if folder.is_dir() else ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.named(self.names[index])

    def named(self, name: str) -> Entry:
        return Entry(self.path(name))

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def write(self, name: str, arrays: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
        """Write one file, whole or not at all; raises NotWritten where the disk refuses it."""
        path = self.path(name)
        draft = path.with_name(path.name + safe_files.SUFFIX)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file({key: value.contiguous().cpu() for key, value in arrays.items()}, draft,
                          {VALUES: json.dumps(dict(values))})
                safe_files.sync(draft)
                draft.replace(path)
            except SafetensorError as error:
                raise OSError(str(error)) from error
            finally:
                safe_files.remove(draft)
        return path


@dataclass(frozen=True, eq=False)
class ClipStore:
    """A folder of clips, opened for reading, or with `writer` for writing."""
    folder: Path
    format: ClipFormat

    @classmethod
    def open(cls, folder: str | Path) -> "ClipStore":
        """Raises ValueError where it is no folder of clips."""
        path = Path(folder).expanduser() / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} has no {MANIFEST}: it is no folder of training clips. Make them with Make "
                             "Training Clips, or python scripts/clips.py")
        with reading(path):
            text = path.read_bytes()
        try:
            return cls(path.parent, ClipFormat.of_json(text))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def create(cls, folder: str | Path, made_with: ClipFormat) -> "ClipStore":
        """A new one, or the one that is there. ValueError where that was made with something else."""
        folder = Path(folder).expanduser()
        path = folder / MANIFEST
        if path.exists():
            found = cls.open(folder)
            if apart := found.format.differences(made_with):
                raise ValueError(f"{folder} holds clips that were made otherwise: {'; '.join(apart)}. Give another "
                                 "name, or delete that folder")
            return found
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            safe_files.replace(path, made_with.as_json())
        return cls(folder, made_with)

    @contextmanager
    def writer(self) -> Iterator[None]:
        """Held while files are added. Raises FolderBusy where another run has the folder."""
        lock = FolderLock(self.folder)
        try:
            yield
        finally:
            lock.release(delete=True)

    def shelf(self, name: str) -> Shelf:
        return Shelf(self.folder / name)

    @cached_property
    def clips(self) -> Shelf:
        return self.shelf(CLIPS)

    @cached_property
    def pairs(self) -> Shelf:
        return self.shelf(PAIRS)

    @cached_property
    def preferences(self) -> Shelf:
        return self.shelf(PREFERENCES)

    def digest(self) -> str:
        """Of the format and the names on every shelf: what a resumed training must find again."""
        found = hashlib.sha256(self.format.as_json())
        for name in SHELVES:
            found.update("\n".join((name, *self.shelf(name).names, "")).encode())
        return found.hexdigest()[:16]

    def check_model(self, name: str, channels: int, grid: int, temporal_ratio: int) -> None:
        """Raises ValueError where the clips are of another VAE than a model's: of `channels`, whose width and height are
        multiples of `grid`."""
        own = self.format
        if own.channels != channels or own.temporal_ratio != temporal_ratio:
            raise ValueError(f"clips: {self.folder.name} has latents of {own.channels} channels and "
                             f"{own.temporal_ratio} frames each ({own.vae}), {name} wants {channels} and {temporal_ratio}. Make the clips "
                             "with the model's own VAE")
        if own.width % grid or own.height % grid or own.spatial_ratio * 2 != grid:
            raise ValueError(f"clips: {self.folder.name} is of {own.width}x{own.height}, {own.spatial_ratio} pixels "
                             f"a latent, {name} wants multiples of {grid} and {grid // 2} pixels a latent. Make the "
                             "clips with this model")

    def check_speech(self, name: str, layers: Sequence[int], width: int) -> None:
        """Raises ValueError where the clips have no speech that a model can take."""
        own = self.format.speech
        if own is None:
            raise ValueError(f"clips: {self.folder.name} has no speech, and {name} is driven by it. Make the clips "
                             "with an audio encoder, of videos that have sound")
        if own.layers not in layers or own.width != width:
            raise ValueError(f"clips: {self.folder.name} has speech {_say(own)}, {name} wants "
                             f"{' or '.join(map(str, layers))} layers of {width}. Make the clips with the model's own "
                             "audio encoder")

    def need(self, shelf: str) -> Shelf:
        """The files of a shelf; ValueError that says how to make them where there are none."""
        found = self.shelf(shelf)
        if not found:
            node = {CLIPS: "Make Training Clips", PAIRS: "Backfill", PREFERENCES: "Preference Pairs"}[shelf]
            raise ValueError(f"clips: {self.folder.name} has no {shelf}. Make some with {node}")
        return found
