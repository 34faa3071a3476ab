"""One Chunk: the inputs that Long Take gives the sampler for its first chunk, for any other sampler."""
from fractions import Fraction

import node_helpers
from comfy_api.latest import io, ui

from .. import backbones
from ..backbones.audio.speech import Speech
from ..backbones.backbone import ChunkRequest
from ..backbones.images import encode_picture, fit_picture
from ..backbones.take_checks import check_prompt
from ..backbones.vae import encode_frames
from ..pipelines.take.settings import Settings, choose_settings
from ..techniques.timeline import Timeline
from .input_checks import checked, named
from .sockets import LARGEST_SIDE, LONGEST_CHUNK, SIDE_STEP, search_words, sentences


class LodestarOneChunk(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarOneChunk",
            display_name="One Chunk",
            category="Lodestar",
            description="A single clip with KSampler or SamplerCustomAdvanced: puts picture and speech into the "
                        "conditioning as the model expects them, and makes the latent. For whole takes use Long Take.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will make the clip."),
                io.Conditioning.Input("positive",
                                      tooltip="The prompt. It gets the audio features and what the model needs."),
                io.Conditioning.Input("negative",
                                      tooltip="The negative prompt. It gets the same, with unconditional audio."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Int.Input("width", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="Of the clip: a multiple of 16 (TI2V-5B: 32). 0, with height 0: the model's own "
                                     "size, in the proportions of the reference where one is connected."),
                io.Int.Input("height", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP,
                             tooltip="Of the clip: a multiple of 16 (TI2V-5B: 32). 0, with width 0: the model's own."),
                io.Int.Input("chunk_frames", default=0, min=0, max=LONGEST_CHUNK,
                             tooltip="Pixel frames of the clip, rounded to whole latents. 0: as many as the model was "
                                     "trained with."),
                io.AudioEncoderOutput.Input("audio_features", optional=True,
                                            tooltip="From Audio Features, LongCat Speech or Two Speakers."),
                io.Image.Input("reference", optional=True,
                               tooltip="The person's picture, cropped to the size: the first frame or the reference, "
                                       "as the model takes it."),
            ],
            outputs=[io.Conditioning.Output(display_name="positive", tooltip="For the sampler or guider."),
                     io.Conditioning.Output(display_name="negative", tooltip="The same with unconditional audio."),
                     io.Latent.Output(display_name="latent",
                                      tooltip="The empty clip, with its first frame where one is given.")],
            **search_words("talking head", "avatar", "lip sync", "audio to video", "image to video", "single clip"),
        )

    @classmethod
    @checked
    def execute(cls, model, positive, negative, vae, width, height, chunk_frames, audio_features=None, reference=None
                ) -> io.NodeOutput:
        for name, prompt in (("positive", positive), ("negative", negative)):
            with named(name):
                check_prompt(model, [text for text, _ in prompt])
        backbone = backbones.find(model)
        chosen = choose_settings(backbone, reference, width=width, height=height, fps=Fraction(backbone.fps),
                                 chunk_frames=chunk_frames, overlap_frames=0)
        inputs = backbone.chunk_inputs(request(model, vae, chosen, audio_features, reference))
        latent = {"samples": inputs.samples, "noise_mask": inputs.noise_mask}
        return io.NodeOutput(node_helpers.conditioning_set_values(positive, inputs.conditions),
                             node_helpers.conditioning_set_values(negative, {**inputs.conditions, **inputs.silent}),
                             {name: value for name, value in latent.items() if value is not None},
                             ui=ui.PreviewText(describe_clip(backbone, chosen, inputs.samples.shape[2])))


def describe_clip(backbone, chosen: Settings, latents: int) -> str:
    """What the clip will be, and what of it is the model's own."""
    frames = Timeline(chosen.fps, backbone.temporal_ratio).frames_for_latents(latents)
    clip = (f"{frames} frames ({latents} latents), {chosen.width}x{chosen.height}, {frames / backbone.fps:.2f} s at "
            f"{backbone.fps} fps")
    return sentences([clip, chosen.note])


def request(model, vae, chosen: Settings, features: dict | None, picture) -> ChunkRequest:
    """The chunk that opens a take. Raises ValueError for a size or speech that the model cannot have."""
    backbone, width, height = backbones.find(model), chosen.width, chosen.height
    if width % backbone.grid or height % backbone.grid:
        raise ValueError(f"width, height: got {width}x{height}, wanted multiples of {backbone.grid} for "
                         f"{backbone.name}")
    clock, audio, people = Timeline(chosen.fps, backbone.temporal_ratio), None, None
    latents = clock.latents_for_frames(chosen.chunk_frames)
    with named("reference"):
        fitted = None if picture is None else fit_picture(picture, width, height)
    if features is not None and backbone.audio_shape is not None:
        speech = Speech.of(features)
        backbone.check_speech(speech, clock)
        audio = backbone.hear(speech, clock, 0, latents)
        people = speech.speakers_on(picture, height, width, backbone.grid)
    size = height // backbone.spatial_ratio, width // backbone.spatial_ratio
    canvas = backbone.canvas(lambda pictures: encode_frames(vae, pictures), fitted, latents, height, width)
    return ChunkRequest(latents, (model.model.latent_format.latent_channels, *size), None,
                        None if fitted is None else encode_picture(vae, fitted), audio, canvas, people)
