"""HuMo 17B and 1.7B on ComfyUI's HumoWanModel, with its references as it was trained.

References are slots of the clip itself, behind the video's latents: sampled along in the 17B, which sees the picture in
its concat channels, and held clean in the 1.7B. Anchor techniques move their time, further anchors follow them. Chunks
continue from latents that the sampler holds; speech counts over the whole take, of any length or none.
"""
from dataclasses import dataclass, replace
from typing import ClassVar

import comfy.latent_formats
import comfy.ldm.wan.model
import comfy.model_base
import torch
from torch import Tensor

from ...techniques.audio.features import WHISPER_GROUPS, interpolate_frames, positions
from ...techniques.audio.talk_windows import humo_steps, humo_windows, steps_of_samples
from ...techniques.closed_span import hides_frames
from ...techniques.layout import Layout, Span
from ...techniques.technique import restricts_visibility
from ...techniques.timeline import Timeline
from ..audio.families import RATE
from ..audio.speech import Speech, check_finite
from ..backbone import OWN, Backbone, ChunkInputs, ChunkRequest, lay_out_call, needs_layout
from ..frame_conditions import WINDOW, Cut, window_of
from ..images import fit_picture
from ..reference_pass import Beside, SeveralKeys, VideoKeys, bytes_beside_wan, join_keys, take_out_closed
from ..socket_values import unit_values
from ..wan.call import WanCall, split_attention
from ..wan.video_reference import video_keys
from .features import FPS, WHISPER_HZ
from .references import check_count, concat_channels
from .speech import RECIPE

SPEECH, REFERENCE = "audio_embed", OWN + "reference"
GROUPS, STATES, WIDTH = len(WHISPER_GROUPS), WHISPER_GROUPS[-1][1], 1280     # whisper-large-v3


@dataclass(frozen=True)
class HuMo(Backbone):
    supported: ClassVar[str] = "HuMo 17B and 1.7B"
    memory: ClassVar[str] = "joint"
    frame_conditions: ClassVar = {"c_concat": Cut(2, per_latent=1, first=1, core_cuts=True),
                                  SPEECH: Cut(1, per_latent=1, first=1, core_cuts=True)}
    encoder: ClassVar[str] = "Audio Features with whisper-large-v3, all of its layers or trained_as HuMo"
    recipe: ClassVar = RECIPE
    large: bool                                 # the 17B, with concat channels
    name: str = "HuMo"
    fps: int = FPS
    chunk_frames: int = 97
    overlap_frames: int = 13
    grid: int = 16
    audio_shape: tuple[int, int] | None = (GROUPS, WIDTH)
    audio_condition: str | None = SPEECH

    @classmethod
    def of(cls, model) -> "HuMo | None":
        module = model.model.diffusion_model
        if type(model.model) is not comfy.model_base.WAN21_HuMo or type(module) is not comfy.ldm.wan.model.HumoWanModel:
            return None
        large = module.in_dim != module.out_dim
        return cls(large, f"HuMo {'17B' if large else '1.7B'}")

    def speech_guider(self):
        from .guider import HuMoGuider
        return HuMoGuider

    def fit_pictures(self, pictures: Tensor, width: int, height: int) -> Tensor:
        """(n, height, width, 3): each whole on white, as it was trained."""
        check_count(len(pictures), self.name)
        pictures = unit_values(pictures, "pixels", "load the pictures again")
        return torch.cat([fit_picture(picture, width, height, "white") for picture in pictures.split(1)])

    @property
    def layers_taken(self) -> tuple[int, ...]:
        return GROUPS, STATES

    def check_silence(self) -> None:
        """It makes silent takes as well."""

    def check_speech(self, speech: Speech, clock: Timeline) -> None:
        super().check_speech(speech, clock)
        if speech.layers == GROUPS and speech.rate_hz != self.fps:
            raise ValueError(f"audio_features: got {GROUPS} layers at {speech.rate_hz:g} Hz, wanted whisper's "
                             f"{STATES} states, or their {GROUPS} groups at {self.fps} Hz. Use {self.encoder}")
        if clock.fps != self.fps:
            raise ValueError(f"plan: {float(clock.fps):g} fps, but {self.name} has audio for {self.fps} a second. Set "
                             f"fps of Plan Take to {self.fps}")

    def audio_for(self, speech: Speech, clock: Timeline, first_latent: int, latents: int) -> Tensor:
        """(1, latents, 8, 5, C), zeros before the speech and behind it."""
        steps = humo_steps(first_latent * self.temporal_ratio, latents)
        low, high = max(int(steps.max()) + 1 - latents * 4 - 8, 0), int(steps.max()) + 1
        features = frame_features(speech, low, high)
        windows = humo_windows(features, torch.where(steps < 0, steps, steps - low))
        speech.release()
        return check_finite(windows[None].float())

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        channels, height, width = request.latent_shape
        picture = torch.zeros(1, channels, 1, height, width) if request.reference is None else request.reference
        slots = picture.shape[2]
        known = torch.full_like(picture[:, :1], float(request.reference is not None))
        reference = torch.cat([known, picture], 1)
        audio = torch.zeros(1, request.latents, 8, GROUPS, WIDTH) if request.audio is None else request.audio
        audio = torch.cat([audio, audio.new_zeros(1, slots, *audio.shape[2:])], 1)
        with_slots = replace(request, latents=request.latents + slots)
        samples, mask = with_slots.open_with(request.context, comfy.latent_formats.Wan21())
        return ChunkInputs(samples, mask, {SPEECH: audio, REFERENCE: reference},
                           {SPEECH: torch.zeros_like(audio), REFERENCE: torch.zeros_like(reference)},
                           behind=slots)

    def stream_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """The references stand beside each window, so the speech has no rows of theirs."""
        inputs = self.chunk_inputs(replace(request, context=None))
        conditions, uncond = ({**values, SPEECH: values[SPEECH][:, :request.latents]}
                              for values in (inputs.conditions, inputs.uncond))
        return replace(inputs, conditions=conditions, uncond=uncond)

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> WanCall:
        call = WanCall.bind(executor, args, kwargs)
        extra = dict(call.extra)
        reference = extra.pop(REFERENCE, None)
        if WINDOW in call.transformer_options and reference is not None:
            return self.prepare_window(call.change(extra=extra), reference, techniques, position, process_in)
        own = own_layout(call, 0 if reference is None else reference.shape[2])
        layout, visibility = lay_out_call(own, techniques, position, call.transformer_options)
        layout, visibility, beside = take_out_closed(layout, visibility, techniques)
        if reference is not None:
            if window_of(call.transformer_options) is not None:
                raise ValueError(f"context windows: {self.name} has its references behind the last latent, where a "
                                 "window would cut them off. Remove the context windows; Long Take makes takes of any "
                                 "length")
            call = self.with_slots(call.change(extra=extra), reference, layout["reference"], process_in)
            layout = whole_slots(layout, reference.shape[2])
        elif layout is not own or restricts_visibility(techniques):
            raise ValueError(f"conditioning: {self.name} has no reference slots in it that an anchor could move. Use "
                             "Long Take, or One Chunk in place of WanHuMoImageToVideo")
        if not needs_layout(own, layout, techniques, call.x.dtype, call.transformer_options):
            return call
        keys = self.keys_beside(call, beside, process_in)
        call = self.with_anchors(call, layout, process_in)
        times = [time for span in layout.spans for time in span.times]
        rows = call.rows(times)
        if restricts_visibility(techniques):
            call = call.with_attention(split_attention(call, visibility, len(times), lambda: rows.shape[1], keys))
        return call.change(stand_ins={"rope_encode": lambda *_, **__: rows})

    def prepare_window(self, call: WanCall, reference: Tensor, techniques, position, process_in) -> WanCall:
        """A call of a stream: its references are clean frames beside the window, as finished as its oldest latents."""
        if not position.call_latents:
            raise ValueError(f"sampler: {self.name} has its references behind the clip's last latent, where the blocks "
                             "of a Rolling Window would take them for the clip. Use Rolling Window with Long Take")
        if hides_frames(techniques):
            raise ValueError(f"model: a node on it hides frames from {self.name}'s references, which stand beside the "
                             "windows of a stream. Remove Reference Skip")
        frames, slots = call.x.shape[2], reference.shape[2]
        own = Layout.of_chunk(frames).append(Span("reference", tuple(range(frames, frames + slots))))
        layout, table = lay_out_call(own, techniques, position, call.transformer_options)
        layout, _, beside = take_out_closed(layout, table, techniques)
        keys = self.keys_beside(call, beside, process_in)
        known = (reference[:, :1] > 0.5).to(call.x)
        pictures = process_in(reference[:, 1:].float()).to(call.x)
        if layout["reference"].latents is not None:
            shown = call.latents(layout["reference"], process_in)
            pictures = torch.cat([shown, pictures[:, :, shown.shape[2]:].expand(len(shown), -1, -1, -1, -1)], 2)
        layout = whole_slots(layout, slots)
        if self.large:
            grey = call.x[:, 20:, -1:]
            shown = known * pictures + (1 - known) * grey
            pictures = torch.cat([pictures, torch.ones_like(pictures[:, :4]), shown], 1)
        else:
            pictures = known * pictures
        call = self.with_anchors(self.beside(call, pictures), layout, process_in)
        times = [time for span in layout.spans for time in span.times]
        rows = call.rows(times)
        if keys is not None:
            call = call.with_attention(split_attention(call, {}, len(times), lambda: rows.shape[1], keys))
        return call.change(stand_ins={"rope_encode": lambda *_, **__: rows})

    @staticmethod
    def beside(call: WanCall, frames: Tensor) -> WanCall:
        """The call with clean frames behind its own, which have no audio; at level 0 where each has its own level."""
        audio, timestep, before = call.extra[SPEECH], call.timestep, call.time_dim_concat
        audio = torch.cat([audio, audio.new_zeros(len(audio), frames.shape[2], *audio.shape[2:])], 1)
        if timestep.ndim == 2 and timestep.shape[1] > 1:
            timestep = torch.cat([timestep, timestep.new_zeros(len(timestep), frames.shape[2])], 1)
        return call.change(time_dim_concat=frames if before is None else torch.cat([before, frames], 2),
                           timestep=timestep, extra={**call.extra, SPEECH: audio})

    def with_slots(self, call: WanCall, reference: Tensor, span: Span, process_in) -> WanCall:
        """The references in their slots: of the 17B in its concat channels, of the 1.7B in the latents themselves.
        What stands in `span` (a keyframe) takes the place of the first picture, never of the unconditional one."""
        slots, known = reference.shape[2], (reference[:, :1] > 0.5).to(call.x)
        pictures = process_in(reference[:, 1:].float()).to(call.x)
        if span.latents is not None:
            shown = call.latents(span, process_in)
            pictures = torch.cat([shown, pictures[:, :, shown.shape[2]:].expand(len(shown), -1, -1, -1, -1)], 2)
        if not self.large:
            return call.change(x=torch.cat([call.x[:, :, :-slots], known * pictures], 2))
        noise, grey = call.x[:, :16], call.x[:, 20:]
        shown = known * pictures + (1 - known) * grey[:, :, -slots:]
        return call.change(x=torch.cat([noise, concat_channels(grey, shown, slots)], 1))

    def keys_beside(self, call: WanCall, beside: tuple[Beside, ...], process_in) -> SeveralKeys | None:
        """What the call attends to of a video of the person and of a scene, known as a further anchor is."""
        def keys_of(one: Beside) -> VideoKeys:
            def with_video(alone: WanCall) -> WanCall:
                latents = alone.latents(one.span, process_in)[:1]
                x = torch.cat([torch.zeros_like(latents), torch.ones_like(latents[:, :4]), latents], 1)
                audio = call.extra[SPEECH]
                silence = audio.new_zeros(1, latents.shape[2], *audio.shape[2:])
                return alone.change(x=x if self.large else latents, extra={SPEECH: silence})

            return video_keys(call, one, with_video)

        return join_keys(beside, keys_of)

    def check_video_reference(self, audio: bool) -> None:
        if audio:
            raise ValueError(f"audio_features: {self.name} was trained with references that have no audio, so what is "
                             "said in the video has no way to its frames. Disconnect it")

    def cache_bytes(self, model, noise_shape, techniques, position) -> int:
        return bytes_beside_wan(model, techniques, noise_shape)

    def with_anchors(self, call: WanCall, layout: Layout, process_in) -> WanCall:
        """Further anchors behind the slots, without noise; they have no audio."""
        parts = [call.latents(span, process_in) for span in layout.spans
                 if span.latents is not None and span.name != "reference"]
        if not parts:
            return call
        anchors = torch.cat(parts, 2)
        if self.large:
            anchors = torch.cat([torch.zeros_like(anchors), torch.ones_like(anchors[:, :4]), anchors], 1)
        return self.beside(call, anchors)


def whole_slots(layout: Layout, slots: int) -> Layout:
    """The layout with a time for each slot, where a keyframe left that of the first alone."""
    times = layout["reference"].times
    further = tuple(times[-1] + step for step in range(1, slots - len(times) + 1))
    return layout.change("reference", times=(*times, *further), latents=None) if further else layout


def own_layout(call: WanCall, slots: int) -> Layout:
    """The clip, and its references right behind it."""
    frames = call.x.shape[2] - slots
    layout = Layout.of_chunk(frames)
    return layout.append(Span("reference", tuple(range(frames, frames + slots)), clean=False)) if slots else layout


def frame_features(speech: Speech, first: int, end: int) -> Tensor:
    """(steps, 5, C) at 25 Hz, of which only [first, end) are read, and less where the speech ends before."""
    layers = speech.streams[0]
    if len(layers) == GROUPS:
        return torch.stack([layer[0, first:end] for layer in layers], 1)
    frames = layers[0].shape[1] // 2 if speech.samples is None else speech.samples * FPS // RATE
    rows = min(2 * frames, layers[0].shape[1])
    below, share = (part[first:end] for part in positions(rows, steps_of_samples(rows, WHISPER_HZ, FPS)))
    if not len(below):
        return layers[0].new_zeros(0, GROUPS, layers[0].shape[-1])
    start, stop = int(below[0]), min(int(below[-1]) + 2, rows)
    groups = torch.stack([torch.stack([layer[0, start:stop] for layer in layers[low:high]]).mean(0)
                          for low, high in WHISPER_GROUPS], 1)
    return interpolate_frames(groups, below - start, share)
