"""Makes the training clips of a folder of videos, or of one: what is missing, video by video, clip by clip.

A clip's file is written when it is finished, so whatever ends the run costs one clip; a video is passed over once all
of its clips are there, and one that changed is made again. What cannot be used is named with its reason and left out.
"""
import json
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import safe_files
from ..safe_files import writing
from .clip_store import ClipFormat, ClipStore, StoredClip
from .video_clips import (
    SOUND_RATE,
    Box,
    ClipLeftOut,
    FindFace,
    SoundAlong,
    Video,
    centre_box,
    cut,
    face_box,
    face_mask,
    file_digest,
    find_videos,
)

logger = logging.getLogger("lodestar")
WHOLE, MASKED, CROPPED = FACES = ("whole picture", "whole picture, face mask", "around the face")
PICTURES, PICTURES_SECONDS = 8, 8    # of a clip, half of them up to so long before or after it
MARGIN_SECONDS = 2          # of sound on both sides that an encoder gets as well
QUIET = 10 ** (-50 / 20)    # of full scale: nobody speaks
SPARE_BYTES = 1 << 28       # that stay free on the disk
SOURCES = "sources"         # beside the shelves: a JSON file for each finished video


class EncoderFailed(Exception):
    """What an encoder refuses is no fault of a video's: nothing is left out for it."""


class Watcher(Protocol):
    """Who watches how far it is. Both may raise to stop it."""

    def check_cancelled(self) -> None: ...

    def clip_done(self, done: int, total: int, name: str, made: bool) -> None: ...


@dataclass(frozen=True, eq=False)
class Encoders:
    """`frames`: (T, H, W, 3) in 0..1 -> raw latents (1, C, t, h, w). `speech`: samples (N,) at 16 kHz -> layers
    (L, S, D) at the format's rate; None for clips without. `find_face`: boxes; None where it is not asked for.
    `perturb`: (T, H, W, 3) bytes and a seed -> the same, spoilt."""
    frames: Callable[[Tensor], Tensor]
    speech: Callable[[Tensor], Tensor] | None = None
    find_face: FindFace | None = None
    perturb: Callable[[Tensor, int], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class VideoPlan:
    """`key`: how the names of its clips begin. `clips`: how many there are."""
    path: Path
    name: str
    key: str
    digest: str
    clips: int
    finished: bool


@dataclass(frozen=True)
class Report:
    """`left_out`: by what, why. `what`: is made."""
    made: int
    found: int
    left_out: dict[str, str]
    what: str = "clips"

    def __str__(self) -> str:
        said = f"{self.made} {self.what} made, {self.found} were there"
        if not self.left_out:
            return said
        few = [f"{name}: {why}" for name, why in list(self.left_out.items())[:5]]
        more = f", and {len(self.left_out) - 5} more" if len(self.left_out) > 5 else ""
        return f"{said}; {len(self.left_out)} left out ({'; '.join(few)}{more})"


class ClipMaker:
    """Fills `store` from the videos below the folder `source`, or from that file."""

    def __init__(self, source: Path, store: ClipStore, encoders: Encoders, watcher: Watcher):
        self.source, self.store, self.encoders, self.watcher = source, store, encoders, watcher
        self.format, self.left_out = store.format, dict[str, str]()
        self._made = self._found = self._done = 0
        self._opened: tuple[VideoPlan, Video, SoundAlong | None] | None = None

    def make(self) -> Report:
        """Raises NotWritten and FolderBusy; ValueError where nothing is left that could be used, or the disk has too
        little room, with the figure."""
        with self.store.writer():
            plans = list(self._plan())
            total = sum(plan.clips for plan in plans)
            self._check_disk(plans)
            for plan in plans:
                if plan.finished:
                    self._pass_over(plan, total)
                else:
                    self._make_video(plan, total)
        report = Report(self._made, self._found, self.left_out)
        if not self._made + self._found:
            raise ValueError(f"folder: nothing in {self.source} can be used. {report}")
        if self.left_out:
            logger.warning("training clips: %s", report)
        return report

    def _plan(self) -> Iterator[VideoPlan]:
        root = self.source.parent if self.source.is_file() else self.source     # one has the clips it has among others
        for path in find_videos(self.source):
            self.watcher.check_cancelled()
            name = path.relative_to(root).as_posix()
            key = f"{re.sub(r'[^A-Za-z0-9]+', '-', path.stem)[:40].lower()}-{zlib.crc32(name.encode()):08x}"
            try:
                digest = file_digest(path)
                if (known := self._read_record(key)).get("digest") == digest:
                    self.left_out.update(known["left_out"])
                    yield VideoPlan(path, name, key, digest, known["clips"], True)
                    continue
                clips = Video(path, self.format.rate).frames // self.format.frames
                if not clips:
                    seconds = float(self.format.frames / self.format.rate)
                    raise ClipLeftOut(f"it is shorter than a clip of {seconds:.1f} s")
                yield VideoPlan(path, name, key, digest, clips, False)
            except (ValueError, OSError) as error:
                self.left_out[name] = str(error)

    def _read_record(self, key: str) -> dict[str, Any]:
        try:
            return json.loads((self.store.folder / SOURCES / f"{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def _check_disk(self, plans: Sequence[VideoPlan]) -> None:
        there = set(self.store.refresh().names)
        missing = sum(clip_name(plan, number) not in there for plan in plans if not plan.finished
                      for number in range(plan.clips))
        needed, free = missing * clip_bytes(self.format) + SPARE_BYTES, shutil.disk_usage(self.store.folder).free
        if missing and needed > free:
            raise ValueError(f"folder: {missing} clips need {needed / 1e9:.1f} GB, and {self.store.folder} has "
                             f"{free / 1e9:.1f} GB free. Make room, choose another place, or give fewer videos")

    def _pass_over(self, plan: VideoPlan, total: int) -> None:
        own = sum(name.startswith(plan.key + "_") for name in self.store.names)
        self._found, self._done = self._found + own, self._done + plan.clips
        self.watcher.clip_done(self._done, total, plan.name, False)

    def _make_video(self, plan: VideoPlan, total: int) -> None:
        left_out = dict[str, str]()
        done = self._done
        try:
            for number in range(plan.clips):
                self._clip_of(plan, number, left_out)
                self._done += 1
                self.watcher.clip_done(self._done, total, plan.name, True)
        except EncoderFailed as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            left_out[plan.name] = str(error)
        self._done = done + plan.clips
        self.left_out.update(left_out)
        path = self.store.folder / SOURCES / f"{plan.key}.json"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            safe_files.replace(path, json.dumps({"source": plan.name, "digest": plan.digest, "clips": plan.clips,
                                                 "left_out": left_out}, indent=1).encode())

    def _clip_of(self, plan: VideoPlan, number: int, left_out: dict[str, str]) -> None:
        name = clip_name(plan, number)
        path = self.store.path(name)
        if path.is_file():
            if is_of(path, self.format, plan.digest):
                self._found += 1
                return
            path.unlink()
        video, sound = self._open(plan, number)
        try:
            arrays, values = self._encode(video, sound, plan, number)
        except ClipLeftOut as error:
            begin = float(number * self.format.frames / self.format.rate)
            left_out[f"{plan.name} at {begin:.0f} s"] = str(error)
            return
        self.store.write(name, arrays, values)
        self._made += 1

    def _open(self, plan: VideoPlan, number: int) -> tuple[Video, SoundAlong | None]:
        """The video of a plan, opened once; what an earlier run made of another content of it is removed."""
        if self._opened is None or self._opened[0] is not plan:
            for path in self.store.path("x").parent.glob(f"{plan.key}_*.safetensors"):
                if not is_of(path, self.format, plan.digest):
                    path.unlink()
            video = Video(plan.path, self.format.rate)
            sound = None if self.format.speech is None else SoundAlong(video.source)
            if sound is not None and sound.silent:
                raise ValueError("it has no sound, and speech was asked for")
            self._opened = (plan, video, sound)
        return self._opened[1:]

    def _encode(self, video: Video, sound: SoundAlong | None, plan: VideoPlan, number: int
                ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        own, first = self.format, number * self.format.frames
        box, faces = self._box(video, first)
        frames = torch.stack(list(self._cut(video, range(first, first + own.frames), box)))
        draw = torch.Generator().manual_seed((own.seed << 32) + zlib.crc32(f"{plan.name} {number}".encode()))
        arrays = {"latents": self._latents(frames), **self._contexts(frames), **self._pictures(video, first, box, draw)}
        if faces is not None:
            grid = own.height // own.spatial_ratio, own.width // own.spatial_ratio
            arrays["mask"] = face_mask(faces, own.frames, box, grid, own.temporal_ratio)
        if self.encoders.perturb is not None:
            seed = int(torch.randint(1 << 31, (), generator=draw))
            arrays["perturbed"] = self._latents(self.encoders.perturb(frames, seed))
        silent = False
        if sound is not None:
            arrays["speech"], silent = self._speech(sound, first)
        return arrays, {"source": plan.name, "digest": plan.digest, "first_frame": first, "silent": silent,
                        "person": plan.name.split("/")[0], "scene": plan.name}     # a folder is a person

    def _box(self, video: Video, first: int) -> tuple[Box, Tensor | None]:
        own, (wide, high) = self.format, video.size
        if self.encoders.find_face is None:
            return centre_box(wide, high, own.width, own.height), None
        faces = video.look_for_faces(first, own.frames, self.encoders.find_face)
        if own.faces == CROPPED:
            return face_box(faces, wide, high, own.width, own.height), faces
        return centre_box(wide, high, own.width, own.height), faces

    def _cut(self, video: Video, numbers: Sequence[int], box: Box) -> Iterator[Tensor]:
        for frame in video.at(numbers):
            self.watcher.check_cancelled()
            yield cut(frame, box, self.format.width, self.format.height)

    def _latents(self, frames: Tensor) -> Tensor:
        """(T, H, W, 3) bytes -> (C, t, h, w)."""
        self.watcher.check_cancelled()
        return refuse(self.encoders.frames, frames.float() / 255)[0].half()

    def _contexts(self, frames: Tensor) -> dict[str, Tensor]:
        """Where a chunk may begin, what stands before it, re-encoded."""
        own, step = self.format, max(self.format.chunk_latents - self.format.context_latents, 1)
        starts = list(range(step, own.latents - own.chunk_latents + 1, step))
        if not own.context_latents or not starts:
            return {}
        length = (own.context_latents - 1) * own.temporal_ratio + 1
        contexts = [self._latents(frames[own.temporal_ratio * start:own.temporal_ratio * start + length])
                    for start in starts]
        return {"contexts": torch.stack(contexts), "context_starts": torch.tensor(starts)}

    def _pictures(self, video: Video, first: int, box: Box, draw: torch.Generator) -> dict[str, Tensor]:
        own, reach = self.format, int(PICTURES_SECONDS * self.format.rate)
        inside = torch.randint(0, own.frames, (PICTURES // 2,), generator=draw) + first
        around = torch.randint(max(first - reach, 0), min(first + own.frames + reach, video.frames),
                               (PICTURES - PICTURES // 2,), generator=draw)
        numbers = sorted({*inside.tolist(), *around.tolist()})
        pictures = [self._latents(frame[None])[:, 0] for frame in self._cut(video, numbers, box)]
        return {"pictures": torch.stack(pictures), "picture_frames": torch.tensor(numbers) - first}

    def _speech(self, sound: SoundAlong, first: int) -> tuple[Tensor, bool]:
        """Feature frames (L, S, D) from the clip's first frame to its last, and whether nobody speaks."""
        own, form = self.format, self.format.speech
        assert form is not None and self.encoders.speech is not None
        begin, end = (round(number / own.rate * SOUND_RATE) for number in (first, first + own.frames))
        before = min(MARGIN_SECONDS, begin // SOUND_RATE)      # whole seconds are whole feature frames
        samples = sound.between(begin - before * SOUND_RATE, end + MARGIN_SECONDS * SOUND_RATE)
        own_samples = samples[before * SOUND_RATE:before * SOUND_RATE + end - begin]
        skipped, wanted = round(before * form.rate_hz), round(own.frames / own.rate * form.rate_hz) + 1
        features = refuse(self.encoders.speech, samples)[:, skipped:skipped + wanted]
        if not features.isfinite().all():
            raise EncoderFailed("audio_encoder: it gives NaN or infinite features. Load another file of it")
        return features.half(), bool(own_samples.square().mean().sqrt() < QUIET)


def refuse(encode: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """What an encoder makes. Raises EncoderFailed for its ValueError."""
    try:
        return encode(given)
    except ValueError as error:
        raise EncoderFailed(str(error)) from error


def clip_name(plan: VideoPlan, number: int) -> str:
    return f"{plan.key}_{number:05d}"


def is_of(path: Path, format: ClipFormat, digest: str) -> bool:
    """Whether a clip is whole and of that content of its video."""
    try:
        return StoredClip(path, format).values.get("digest") == digest
    except ValueError:
        return False


def clip_bytes(own: ClipFormat) -> int:
    """Of one clip's file, about."""
    cells = own.channels * (own.height // own.spatial_ratio) * (own.width // own.spatial_ratio)
    starts = max(own.latents // max(own.chunk_latents - own.context_latents, 1), 1)
    latents = own.latents * (2 if own.perturbed else 1) + PICTURES + starts * own.context_latents
    speech = own.speech and own.frames / own.rate * int(own.speech.rate_hz) * own.speech.layers * own.speech.width
    return 2 * (latents * cells + int(speech or 0))
