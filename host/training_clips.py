"""Make Training Clips in ComfyUI: what a model, its VAE and its audio encoder say of clips, and how far they are."""
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from .. import backbones
from ..backbones.audio.recipes import encode_as_trained
from ..backbones.audio.speech import Speech
from ..backbones.backbone import Backbone
from ..backbones.socket_values import name_input
from ..backbones.vae import check_video_vae, encode_frames, own_vae
from ..pipelines.metrics.faces import FacesMissing, OpenCvFaces
from ..pipelines.training.clip_maker import WHOLE, ClipMaker, Encoders, Report
from ..pipelines.training.clip_store import ClipFormat, ClipStore, SpeechFormat
from ..pipelines.training.video_clips import SOUND_RATE, FindFace
from ..techniques.spoilt_pictures import draw_spoiling, spoil
from .events import TakeEvents
from .measured_video import face_folders

logger = logging.getLogger("lodestar")
CLIPS_FOLDER = "lodestar_clips"     # below ComfyUI's output folder
CONTEXT_FRAMES = 13                 # re-encoded before a chunk, where a family repeats none
NO_EMBEDDINGS = 1e6                 # frames a second: who it is, is asked of the first alone


@dataclass(frozen=True, eq=False)
class ClipRequest:
    """What the user asked for. 0 of a length or a size is the model's own."""
    model: Any
    vae: Any
    audio_encoder: Any = None
    chunk_frames: int = 0
    clip_seconds: float = 8.0
    faces: str = WHOLE
    width: int = 0
    height: int = 0
    perturbed: bool = False
    seed: int = 0

    @property
    def backbone(self) -> Backbone:
        return backbones.find(self.model)

    def made_with(self) -> ClipFormat:
        """Raises ValueError, with the input's name, for what does not fit together."""
        own = self.backbone
        clock = own.timeline(Fraction(own.fps))
        if clock.step != 1:
            raise ValueError(f"model: {own.name} encodes clips of its own length, for which there are no training "
                             "clips yet. Supported: families whose first latent is one frame and whose others are "
                             "equally many")
        self._check_vae(own)
        width, height = self._size(own)
        latents = clock.latents_within_frames(int(Fraction(self.clip_seconds) * clock.fps))
        chunk = clock.latents_within_frames(self.chunk_frames or own.chunk_frames_at(width, height))
        if chunk < 2:
            raise ValueError(f"chunk_frames: got {self.chunk_frames}, of which the VAE makes one latent. Give at least "
                             f"{clock.frames_for_latents(2)}, or 0 for the model's own")
        if latents < chunk + 1:
            least = clock.frames_for_latents(chunk + 1) / clock.fps
            raise ValueError(f"clip_seconds: {self.clip_seconds:g} s are {latents} latents at {own.fps} fps, a chunk "
                             f"has {chunk} and one before it. Give at least {float(least):.2f} s, or a smaller "
                             "chunk_frames")
        context = clock.latents_within_frames(own.overlap_frames or CONTEXT_FRAMES)
        return ClipFormat(type(self.vae.first_stage_model).__name__, own.latent_channels(self.model.model), width,
                          height, own.spatial_ratio, own.temporal_ratio, str(clock.fps), latents, chunk,
                          min(context, chunk - 1), self.faces, self.perturbed, self.seed, self._speech(own))

    def _check_vae(self, own: Backbone) -> None:
        check_video_vae(self.vae)
        wanted = own.latent_channels(self.model.model), own.spatial_ratio
        found = self.vae.latent_channels, self.vae.downscale_ratio[1]
        if found != wanted:
            raise ValueError(f"vae: its latents have {found[0]} channels and {found[1]} pixels a side, {own.name} "
                             f"wants {wanted[0]} and {wanted[1]}. Connect the VAE that belongs to the model")
        kind, known = type(self.vae.first_stage_model).__name__, own_vae(self.model.model)
        if known and kind != known:
            raise ValueError(f"vae: it is of the kind {kind}, {own.name} wants {known}, whose latents are others. "
                             "Connect the VAE that belongs to the model")

    def _size(self, own: Backbone) -> tuple[int, int]:
        if bool(self.width) != bool(self.height):
            raise ValueError(f"width, height: got {self.width} and {self.height}; give both, or leave both 0 for the "
                             "model's own size")
        width, height = (self.width, self.height) if self.width else own.size
        if width % own.grid or height % own.grid:
            raise ValueError(f"width, height: got {width}x{height}, {own.name} takes multiples of {own.grid}. Give "
                             f"{width // own.grid * own.grid or own.grid}x{height // own.grid * own.grid or own.grid}")
        return width, height

    def _speech(self, own: Backbone) -> SpeechFormat | None:
        if self.audio_encoder is None:
            if own.audio_shape is not None:
                logger.warning("Make Training Clips: no audio_encoder came, and %s is driven by speech: recipes that "
                               "train lips cannot use these clips", own.name)
            return None
        with name_input("audio_encoder"):
            features = encode_as_trained(own, self.audio_encoder, torch.zeros(SOUND_RATE))
            speech = Speech.of(features)
            if own.audio_shape is not None:
                own.check_speech(speech, own.timeline(Fraction(own.fps)))
        return SpeechFormat(speech.family, speech.layers, speech.width, speech.rate_hz)

    def encoders(self) -> Encoders:
        """Raises ValueError, as FacesMissing, where faces are asked for and cannot be found here."""
        return Encoders(lambda frames: encode_frames(self.vae, frames).float().cpu(),
                        None if self.audio_encoder is None else self._encode_speech,
                        None if self.faces == WHOLE else self._face_finder(), perturb if self.perturbed else None)

    def _encode_speech(self, samples: Tensor) -> Tensor:
        with name_input("audio_encoder"):
            speech = Speech.of(encode_as_trained(self.backbone, self.audio_encoder, samples))
        layers = torch.cat([layer.float() for layer in speech.streams[0]])      # (1, S, D) each
        speech.release()
        return layers

    def _face_finder(self) -> FindFace:
        try:
            finder = OpenCvFaces(face_folders(), NO_EMBEDDINGS)
        except FacesMissing as error:
            raise FacesMissing(f"faces: {error}. Or choose {WHOLE!r}, for videos of one person who fills them"
                               ) from error

        def boxes(frames: Tensor) -> Tensor:
            found = finder(frames).boxes
            assert found is not None
            return found
        return boxes


def perturb(frames: Tensor, seed: int) -> Tensor:
    """(T, H, W, 3) bytes as EverAnimate spoils a clip."""
    spoilt = spoil(frames.numpy(), draw_spoiling(random.Random(seed)))
    return ((spoilt + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1)


class ClipProgress:
    """ComfyUI's bar and a line with the seconds left; `clock` in seconds."""

    def __init__(self, node_id: str | None, what: str = "clip", clock: Callable[[], float] = time.monotonic):
        self._events, self._what, self._clock = TakeEvents(node_id), what, clock
        self._bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._since: float | None = None
        self._timed = 0
        self._events.say("Preparing")

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def clip_done(self, done: int, total: int, name: str, made: bool) -> None:
        self._bar.update_absolute(done, total)
        now = self._clock()
        left = ""
        if made and self._since is not None:
            self._timed += 1
            left = f", about {round((now - self._since) / self._timed * (total - done))} s left"
        if made and self._since is None or not made:
            self._since, self._timed = now, 0
        self._events.say(f"{self._what.capitalize()} {done} of {total} ({name}){left}")
        logger.info("%s %d of %d (%s)%s", self._what, done, total, name, left)
        self.check_cancelled()

    def say(self, text: str) -> None:
        self._events.say(text)


def clips_folder(name: str, source: Path) -> Path:
    """Where clips go: below ComfyUI's output folder, by their own name or that of the folder of videos, or of
    the one. ValueError for a name that leads out of it."""
    root = Path(folder_paths.get_output_directory()) / CLIPS_FOLDER
    path = root / (name.strip() or (source.stem if source.is_file() else source.name) or "clips")
    if not path.resolve().is_relative_to(root.resolve()) or path.resolve() == root.resolve():
        raise ValueError(f"name: got {name!r}, which leads out of {root}. Give a name such as my_clips")
    return path


def find_source(text: str) -> Path:
    """The folder or video that a user typed: a path, or a name in ComfyUI's output or input folder or in this pack,
    such as `assets`."""
    path = Path(text.strip()).expanduser()
    if path.is_absolute() or path.exists():
        return path
    roots = folder_paths.get_output_directory(), folder_paths.get_input_directory(), Path(__file__).resolve().parents[1]
    return next((Path(root) / path for root in roots if (Path(root) / path).exists()), path)


def make_training_clips(folder: str, name: str, request: ClipRequest, node_id: str | None) -> tuple[ClipStore, str]:
    """Make what is missing, or open a folder of clips that was given. What was done, in words."""
    source = find_source(folder)
    if not folder.strip():
        raise ValueError("folder: it is empty. Give a folder of videos, or one, on the machine that ComfyUI runs on")
    if (source / "clips.json").is_file():
        store = ClipStore.open(source)
        check_clips(store, request.model)
        return store, f"{len(store)} clips from {source}"
    made_with = request.made_with()
    with name_input("name"):
        store = ClipStore.create(clips_folder(name, source), made_with)
    report = fill_store(source, store, request, ClipProgress(node_id))
    return store.refresh(), f"{report}, in {store.folder}"


def fill_store(source: Path, store: ClipStore, request: ClipRequest, watcher: Any) -> Report:
    return ClipMaker(source, store, request.encoders(), watcher).make()


def check_clips(store: ClipStore, model: Any) -> None:
    """Raises ValueError for clips that a model cannot be trained on."""
    own = backbones.find(model)
    store.check_model(own.name, own.latent_channels(model.model), own.grid, own.temporal_ratio,
                      own_vae(model.model))
    if not len(store):
        raise ValueError(f"clips: {store.folder} has none. Make some with Make Training Clips")
