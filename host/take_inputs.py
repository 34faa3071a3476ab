"""What a take is made from, as its model wants it: pictures, speech, prompts and concat latents of each chunk.

Long Take and One Chunk both ask here, so a clip is given what the first chunk of a take is given.
"""
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .. import backbones
from ..backbones import attach
from ..backbones.audio.speech import Speech
from ..backbones.backbone import Backbone, ChunkInputs, ChunkRequest
from ..backbones.images import fit_picture, leave_out_copies
from ..backbones.socket_values import name_input
from ..backbones.take_checks import check_pictures, check_prompt, check_unused_speech, check_vision, log_unused
from ..backbones.vae import encode_frames, open_stream
from ..pipelines.take.clip_before import ClipBefore
from ..pipelines.take.driving_story import Driving
from ..pipelines.take.plan import Chunk, ChunkPlan
from ..techniques.colour_match import last_shown
from ..techniques.latent_stitch import LatentStitch
from ..techniques.lookahead_anchor import LookaheadAnchor
from ..techniques.narrative_keyframes import NarrativeKeyframes
from ..techniques.persistent_latents import Memory, PersistentLatents
from ..techniques.protocols import FrameStream
from ..techniques.technique import Technique, finishing_frames
from .finished_frames import FinishedFrames
from .persistent_plan import check_beside, check_plan_for

logger = logging.getLogger("lodestar")

CLIP_VISION = "clip_vision_output"     # in CONDITIONING


@dataclass(frozen=True, eq=False)
class TakeInputs:
    """Each part is made once, when it is first asked for. `model` carries its techniques; `picture` is an IMAGE,
    `features` what an audio encoder gave, `clip` reads the plan's script, `clip_vision` is shown the picture, `before`
    is what the take goes on from. `given`: names of the values that the user's conditioning has. `keyframes`: the
    story's pictures (1, H, W, 3) by their seconds."""
    model: Any
    vae: Any
    plan: ChunkPlan
    picture: Tensor | None = None
    features: dict | None = None
    clip: Any = None
    driving: Driving | None = None
    clip_vision: Any = None
    given: frozenset[str] = frozenset()
    before: ClipBefore | None = None
    keyframes: tuple[tuple[Fraction, Tensor], ...] = ()

    @cached_property
    def backbone(self) -> Backbone:
        return backbones.find(self.model)

    @property
    def decoder(self) -> Any:
        """The VAE that latents are decoded with."""
        return self.vae

    @cached_property
    def handover(self) -> Technique:
        """What says how a chunk continues from the one before; where the user does not, as the model was trained."""
        return attach.handover_of(self.model) or LatentStitch(self.backbone.handover)

    @cached_property
    def techniques(self) -> tuple[Technique, ...]:
        return (self.handover, *(other for other in attach.techniques_of(self.model) if other is not self.handover))

    @cached_property
    def story_keyframes(self) -> NarrativeKeyframes:
        """The story's keyframes with those that nodes gave the model."""
        given = next((own for own in self.techniques if isinstance(own, NarrativeKeyframes)), NarrativeKeyframes())
        for seconds, picture in self.keyframes:
            with name_input("plan"):
                given = given.plus(seconds, self.encode(fit_picture(picture, self.plan.width, self.plan.height)))
        return given

    def techniques_at(self, chunk: Chunk) -> tuple[Technique, ...]:
        """Those of a chunk: the model's, with what the story says of anchors and keyframes at its time."""
        found = self.techniques
        if chunk.anchor_latents is not None:
            found = tuple(replace(own, distance=chunk.anchor_latents) if _stands_ahead(own) else own for own in found)
        if self.keyframes:
            found = (*(own for own in found if not isinstance(own, NarrativeKeyframes)), self.story_keyframes)
        return found

    def story_of(self, chunk: Chunk) -> dict[str, Tensor | None]:
        """What of the story's pictures a chunk is given, by the name that a user knows it by."""
        start = self.plan.seconds_of(chunk)[0]
        return {"keyframe": self.story_keyframes.keyframe_at(start)} if self.keyframes else {}

    @cached_property
    def persistent(self) -> PersistentLatents | None:
        return attach.technique_of(self.model, PersistentLatents)

    @cached_property
    def memory_in_channels(self) -> bool:
        """Whether the pictures and latents of Persistent Latents are given to the model in its channels."""
        return self.persistent is not None and self.backbone.memory_in_channels()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ratio = self.backbone.spatial_ratio
        return self.backbone.latent_channels(self.model.model), self.plan.height // ratio, self.plan.width // ratio

    @cached_property
    def own_picture(self) -> Tensor | None:
        """(n, H, W, C) as they came: the user's, or one that the model brings."""
        return self.backbone.first_picture(self.picture)

    @cached_property
    def fitted_picture(self) -> Tensor | None:
        """(n, H, W, 3), brought to the take's size as the model takes it; all but the first are further references."""
        return self._fit(self.own_picture)

    def chunk_picture(self, chunk: Chunk) -> Tensor | None:
        """(1, H, W, 3): what a chunk shows the model as its first frame."""
        number = self.plan.number_of(chunk)
        begins = self.plan.timeline.seconds_at(max(self.plan.frame_of(chunk), 0))
        asked = self.backbone.picture_at(self.picture, number, begins)
        return self.fitted_picture if asked is self.own_picture or not number else self._fit(asked)

    def _fit(self, picture: Tensor | None) -> Tensor | None:
        with name_input("reference"):
            return None if picture is None else self.backbone.fit_pictures(picture, self.plan.width, self.plan.height)

    @cached_property
    def reference(self) -> Tensor | None:
        """The picture's latent (1, C, 1, h, w); of several pictures one each, along the frames."""
        if self.fitted_picture is None:
            return None
        return torch.cat([self.encode(picture) for picture in self.fitted_picture.split(1)], 2)

    @cached_property
    def views(self) -> Tensor:
        """Latents (1, C, k, h, w) of the views that Persistent Latents was given, each encoded alone, copies once."""
        views = [] if self.persistent is None else self.persistent.given_views
        with name_input("views"):
            fitted = [self.backbone.fit_pictures(view, self.plan.width, self.plan.height) for view in views]
            encoded = [self.encode(view) for view in leave_out_copies(fitted, self.fitted_picture)]
        channels, height, width = self.latent_shape
        return torch.cat([torch.zeros(1, channels, 0, height, width), *encoded], 2)

    @cached_property
    def clip_tail(self) -> Tensor | None:
        """The frames (T, H, W, 3) that the first chunk goes on from."""
        if self.before is None:
            return None
        with name_input("continue_from"):
            return self.before.last_frames(self.plan.timeline.frames_for_latents(self.plan.opening_latents))

    @cached_property
    def opening(self) -> Tensor | None:
        """Their latents (1, C, t, h, w)."""
        return None if self.clip_tail is None else self.encode(self.clip_tail)

    @cached_property
    def prompts(self) -> dict[str, list]:
        """CONDITIONING of each distinct prompt of the script."""
        texts = dict.fromkeys(chunk.prompt for chunk in self.plan.chunks if chunk.prompt)
        return {text: self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in texts}

    @cached_property
    def speech(self) -> Speech | None:
        """None for a model that has no use for it. Raises ValueError for features of another model's."""
        if self.features is None or self.backbone.audio_shape is None:
            return None
        speech = Speech.of(self.features)
        self.backbone.check_speech(speech, self.plan.timeline)
        return speech

    @cached_property
    def speakers(self) -> Tensor | None:
        """Masks (1, K, H, W) of the speakers, cut as the picture is."""
        return self.speech and self.speech.speakers_on(self.own_picture, self.plan.height, self.plan.width,
                                                       self.backbone.grid)

    @property
    def silence_note(self) -> str:
        return "" if self.speech is None else self.speech.silence_note(float(self.plan.seconds))

    def audio_for(self, chunk: Chunk) -> Tensor | None:
        """A chunk's audio features, as the backbone takes them."""
        if self.speech is None:
            return None
        return self.backbone.audio_for(self.speech, self.plan.timeline, chunk.first_latent, chunk.latents)

    def driving_times(self, chunk: Chunk) -> tuple[Any, ...]:
        """Which frames of the driving video a chunk has, in its seconds; of several videos also which."""
        return self.driving.times(self.plan.timeline, self.plan.frame_of(chunk), chunk.latents) if self.driving else ()

    @cached_property
    def pads(self) -> bool:
        """Whether the picture stands in each window where nothing is known yet."""
        return any(technique.pads() for technique in self.techniques)

    @cached_property
    def first_opening(self) -> "Opening":
        """What a chunk is given that shows the take's picture."""
        return self._open(self.fitted_picture)

    @cached_property
    def blank_opening(self) -> "Opening":
        """What a chunk is given that shows none."""
        return self._open(None)

    def chunk_opening(self, picture: Tensor | None) -> "Opening":
        if picture is None:
            return self.blank_opening
        return self.first_opening if picture is self.fitted_picture else self._open(picture)

    def request(self, chunk: Chunk, context: Tensor | None = None, reference: Tensor | None = None,
                context_frames: Tensor | None = None, identity: Tensor | None = None) -> ChunkRequest:
        """What the model is asked for; `context`: what was handed over, `context_frames`: what it was encoded from,
        `identity`: further pictures of the person (1, C, k, h, w), None for the views."""
        persistent, picture = None, self.chunk_picture(chunk)
        if self.memory_in_channels and self.persistent is not None and reference is not None:
            others = self.views if identity is None else identity
            persistent = Memory(self.persistent.arrange(reference[:, :, :1], others), context)
            opening = Opening(None, {} if picture is None else self.backbone.picture_conditions(picture))
        else:
            opening = self.chunk_opening(picture)
        given = self.given if self.clip_vision is None else self.given | {CLIP_VISION}
        first = self.plan.frame_of(chunk)
        beside = self.driving.beside(self.plan.timeline, first, chunk.latents) if self.driving else {}
        return ChunkRequest(chunk.latents, self.latent_shape, context, reference, self.audio_for(chunk),
                            opening.concat_latent, self.speakers, opening.conditions, self.pads, context_frames,
                            beside, self.encode, given, self.plan.timeline.fps,
                            not chunk.index or self.handover.handover_frames(1) > 0,
                            self.speech.ahead if self.speech else Fraction(0),
                            self.speech.encode if self.speech and self.speech.encoder is not None else None, persistent)

    def chunk_inputs(self, chunk: Chunk, context: Tensor | None = None, reference: Tensor | None = None,
                     context_frames: Tensor | None = None, identity: Tensor | None = None, seen: Tensor | None = None
                     ) -> ChunkInputs:
        """What the sampler is given for a chunk: the backbone's, and what the vision encoder made of the picture, or of
        `seen` (1, H, W, 3) in its place."""
        inputs = self.backbone.chunk_inputs(self.request(chunk, context, reference, context_frames, identity))
        shown = self.vision_conditions if seen is None else self.show(seen)
        return replace(inputs, conditions={**shown, **inputs.conditions})

    @cached_property
    def vision_conditions(self) -> Mapping[str, Any]:
        """What CLIP vision sees of the whole picture, squeezed into its square, as Wan was trained."""
        return {} if self.fitted_picture is None else self.show(self.fitted_picture)

    def show(self, picture: Tensor) -> Mapping[str, Any]:
        return {} if self.clip_vision is None else {CLIP_VISION: self.clip_vision.encode_image(picture, crop=False)}

    def first_inputs(self) -> ChunkInputs:
        """Of the only chunk of a clip that is sampled with other nodes. ValueError where those cannot be given what it
        goes on from."""
        inputs = self.chunk_inputs(self.plan.chunks[0], self.opening, self.reference, self.clip_tail)
        if inputs.context is not None:
            raise ValueError(f"continue_from: {self.backbone.name} takes what it goes on from as frames beside the "
                             "latent, which Long Take alone can give it. Use Long Take")
        return inputs

    @property
    def colours(self) -> Tensor | None:
        """The picture (1, h, w, 3) whose colours the take has: a clip's end, where it goes on from one."""
        if self.clip_tail is not None:
            return last_shown(self.clip_tail)
        if self.own_picture is None:
            return None
        return fit_picture(self.own_picture[:1], self.plan.width, self.plan.height)

    def open_stream(self) -> FrameStream:
        """The VAE as a stream of frames, as the techniques finish them."""
        finishing, stream, picture = finishing_frames(self.techniques), open_stream(self.decoder), self.colours
        if not finishing or picture is None:
            return stream
        for notice in filter(None, (technique.picture_notice(picture) for technique in finishing)):
            logger.warning(notice)
        return FinishedFrames(stream, finishing, picture)

    def encode(self, frames: Tensor) -> Tensor:
        """(T, H, W, 3) -> (1, C, t, h, w)."""
        self.check_vae()
        return encode_frames(self.vae, frames)

    def check_vae(self) -> None:
        """Raises ValueError for another model's VAE."""
        if self.vae.latent_channels != self.latent_shape[0]:
            raise ValueError(f"vae: it makes latents of {self.vae.latent_channels} channels, {self.backbone.name} "
                             f"wants {self.latent_shape[0]}. Load the VAE that belongs to the model")

    def check_plan(self) -> None:
        """Raises ValueError for a plan that was made for another model."""
        plan, grid, repeated = self.plan, self.backbone.grid, self.plan.overlap_latents
        if plan.width % grid or plan.height % grid or (repeated and not self.backbone.overlap_frames):
            raise ValueError(f"plan: {plan.width}x{plan.height}, chunks that repeat {repeated} latents, was made for "
                             f"another model than the guider's {self.backbone.name} (sizes in steps of {grid}, context "
                             f"{'in' if self.backbone.overlap_frames else 'out'}side the chunk). Connect that model to "
                             "Plan Take")
        with name_input("plan"):
            check_plan_for(self.model, plan)

    def check_guides(self) -> None:
        """Raises ValueError for a driving video that the model cannot follow or that ends before the take, and for a
        vision encoder that is not the model's."""
        if self.clip_vision is not None:
            check_vision(self.model, self.clip_vision)
        self.backbone.check_driving(self.driving.sources if self.driving else ())
        if self.driving is not None:
            self.driving.check_length(self.plan.total_frames, self.plan.timeline.fps)

    def check_first_call(self, latents: int) -> None:
        """Raises ValueError where a technique cannot begin with so many latents."""
        for technique in self.techniques:
            technique.check_first_call(latents)

    def check_techniques(self) -> None:
        """Raises ValueError for a technique that the plan or the take's picture do not fit."""
        check_pictures(self.techniques, *self.latent_shape[1:])
        for chunk in self.plan.chunks:
            for technique in self.techniques:
                technique.check_chunk(chunk.latents, chunk.context_latents, *self.latent_shape[1:])
        if not self.plan.block_latents:     # a stream begins with a window
            self.check_first_call(self.plan.chunks[0].latents)
        if self.pads:
            _ = self.first_opening
        if finishing_frames(self.techniques) and self.colours is None:
            raise ValueError("reference: none came, and each frame is to have its colours (Colour Match). Connect the "
                             "person's picture")

    def check(self, recording: dict[str, Any] | None) -> None:
        """Raises ValueError for what does not fit together. `recording`: the sound that the plan was made for."""
        self.check_vae()
        if self.persistent is not None:
            check_beside(self.model, self.own_picture, self.plan)
        if self.picture is not None and self.own_picture is not self.picture:
            logger.warning("reference: it is not used, since the model brings a video whose frames are the pictures")
        self.check_guides()
        self.backbone.check_handover(self.handover)
        _ = self.clip_tail
        self.check_techniques()
        log_unused(self.techniques, self.plan.seconds)
        self._check_story()
        if self.plan.has_script and self.clip is None:
            raise ValueError("clip: the plan has a script of prompts and no text encoder to read it. Connect clip, or "
                             "empty the script of Plan Take")
        self.check_speech()
        if self.speech is not None:
            self.speech.check_length(float(self.plan.seconds))
            if recording is not None:
                self.speech.check_recording(recording)
        with name_input("clip"):
            for prompt in self.prompts.values():
                check_prompt(self.model, [text for text, _ in prompt])

    def _check_story(self) -> None:
        _ = self.story_keyframes
        if any(chunk.anchor_latents is not None for chunk in self.plan.chunks) and \
                not any(map(_stands_ahead, self.techniques)):
            raise ValueError("plan: its script sets an anchor's distance, and the model has no anchor ahead of its "
                             "chunks. Put a Lookahead Anchor (placement lookahead, no schedule) on the model, or leave "
                             "[anchor ...] out")

    def check_speech(self) -> None:
        """Raises ValueError for speech that the model cannot take, or none where it cannot do without."""
        if self.backbone.audio_shape is None:
            check_unused_speech(self.backbone, self.features)
            return
        if self.speech is None:
            self.backbone.check_silence()
            return
        _ = self.speakers

    def _open(self, picture: Tensor | None) -> "Opening":
        padding = self.fitted_picture if self.pads else None
        if self.pads and padding is None:
            raise ValueError("reference: the anchor of placement 'padding' is the take's picture, and none came. "
                             "Connect one")
        concat = self.backbone.concat_latent(self.encode, picture, self.plan.longest_chunk, self.plan.height,
                                             self.plan.width, padding)
        if self.pads and concat is None:
            raise ValueError(f"anchor: placement 'padding' fills channels for known frames, and {self.backbone.name} "
                             "has none. Choose another placement in Lookahead Anchor, such as lookahead")
        return Opening(concat, {} if picture is None else self.backbone.picture_conditions(picture))


def _stands_ahead(technique: Technique) -> TypeGuard[LookaheadAnchor]:
    return isinstance(technique, LookaheadAnchor) and technique.placement == "lookahead" and not technique.schedule


@dataclass(frozen=True, eq=False)
class Opening:
    """What a chunk is given of the picture it shows: a concat latent (1, C, t, h, w), and `conditions`."""
    concat_latent: Tensor | None
    conditions: Mapping[str, Any]
