"""Training clips as a folder on disk: of each clip its latents, speech and masks, and what teachers make of them.

`clips.json` says what all were made with. Each shelf of the folder (`clips`, and for each teacher one of pairs or
preferences) has a safetensors file per clip, written whole or not at all, and mapped when it is read: RAM is that of
what is used. What is on another shelf than `clips` has its clip's arrays as well. No VAE, no ComfyUI.
"""
import hashlib
import json
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

from .. import safe_files
from ..safe_files import reading, writing
from ..take.folder_lock import FolderLock
from .clips import ClipInfo

MANIFEST, VERSION = "clips.json", 1
CLIPS = "clips"         # the shelf of the clips themselves
VALUES = "lodestar"     # under which a file's metadata hold its values


@dataclass(frozen=True)
class SpeechFormat:
    """What speech features are of: `family` of the encoder, `layers` of `width` at `rate_hz`, from the clip's first
    frame on."""
    family: str
    layers: int
    width: int
    rate_hz: float


@dataclass(frozen=True)
class ClipFormat:
    """What all clips of a folder were made with. `vae`: its class. `width`, `height`: pixels; `spatial_ratio` of them
    are a latent's side. `latents`: of a clip. `chunk_latents`, `context_latents`: of a chunk, and of what is re-encoded
    before one. `faces`: how the face was looked for. `perturbed`: whether there are spoilt latents, too."""
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
    perturbed: bool = False
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


@contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    try:
        with reading(path), safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and make the clips again, which makes it alone"
                         ) from error


class StoredClip:
    """One file: its arrays, mapped, and its values (JSON). `beneath`: the clip whose arrays it has as well. Raises
    ValueError where it is damaged, NotReadable where it is gone."""

    def __init__(self, path: Path, format: ClipFormat, beneath: "StoredClip | None" = None):
        self.path, self.format, self.beneath = path, format, beneath
        with _open_file(path) as file:
            self.arrays = frozenset(file.keys())
            self.values: dict[str, Any] = json.loads((file.metadata() or {}).get(VALUES, "{}"))

    @property
    def info(self) -> ClipInfo:
        own, speech = self.values, self.format.speech
        if self.beneath is not None:
            return self.beneath.info
        return ClipInfo(own.get("source", self.path.stem), self.format.rate, speech.rate_hz if speech else 0.0,
                        speech.family if speech else "", bool(own.get("silent", False)), own.get("person", ""),
                        own.get("scene", ""), own.get("prompt", ""))

    def __contains__(self, name: object) -> bool:
        return name in self.arrays or self.beneath is not None and name in self.beneath

    def __getitem__(self, name: str) -> Tensor:
        """The whole array, mapped: read where it is used."""
        if name not in self.arrays and self.beneath is not None:
            return self.beneath[name]
        if name not in self.arrays:
            raise KeyError(f"{self.path.name} has no {name}, only {', '.join(sorted(self.arrays))}")
        with _open_file(self.path) as file:
            return file.get_tensor(name)


@dataclass(frozen=True, eq=False)
class ClipStore(Sequence[StoredClip]):
    """One shelf of a folder, in the order of its files' names: those that were there when it was opened."""
    folder: Path
    format: ClipFormat
    shelf: str = CLIPS

    @classmethod
    def open(cls, folder: str | Path, shelf: str = CLIPS) -> "ClipStore":
        """Raises ValueError where it is no folder of clips."""
        path = Path(folder).expanduser() / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} has no {MANIFEST}: it is no folder of training clips. Make them with Make "
                             "Training Clips")
        with reading(path):
            text = path.read_bytes()
        try:
            return cls(path.parent, ClipFormat.of_json(text), shelf)
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

    def on(self, shelf: str) -> "ClipStore":
        """Another shelf of the same folder, as it is now."""
        return ClipStore(self.folder, self.format, shelf)

    def refresh(self) -> "ClipStore":
        return self.on(self.shelf)

    @cached_property
    def names(self) -> tuple[str, ...]:
        folder = self.folder / self.shelf
        return tuple(sorted(path.stem for path in folder.glob("*.safetensors"))) if folder.is_dir() else ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self.clip(self.names[index])

    def clip(self, name: str) -> StoredClip:
        found = StoredClip(self.path(name), self.format)
        if self.shelf != CLIPS:
            found.beneath = self.on(CLIPS).clip(found.values["clip"])
        return found

    def path(self, name: str) -> Path:
        return self.folder / self.shelf / f"{name}.safetensors"

    def write(self, name: str, arrays: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
        """One file, whole or not at all. On another shelf than `clips`, `values` name the `clip`. Raises NotWritten
        where the disk refuses it."""
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

    @property
    def digest(self) -> str:
        """Of the format and the list of files: a run that is resumed on other clips is refused."""
        found = hashlib.sha256(self.format.as_json())
        found.update("\n".join((self.shelf, *self.names)).encode())
        return found.hexdigest()[:16]

    def check_model(self, name: str, channels: int, grid: int, temporal_ratio: int, vae: str = "") -> None:
        """Raises ValueError where the clips are of another VAE than a model's, with `channels`, and whose width and
        height are multiples of `grid`. `vae`: its class, where that is known."""
        own = self.format
        if vae and own.vae != vae:
            raise ValueError(f"clips: {self.folder.name} has latents of {own.vae}, {name} wants those of {vae}. Make "
                             "the clips with the model's own VAE")
        if own.channels != channels or own.temporal_ratio != temporal_ratio:
            raise ValueError(f"clips: {self.folder.name} has latents of {own.channels} channels and "
                             f"{own.temporal_ratio} frames each ({own.vae}), {name} wants {channels} and "
                             f"{temporal_ratio}. Make the clips with the model's own VAE")
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
