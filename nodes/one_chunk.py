"""One Chunk: the inputs that Long Take gives the sampler for its first chunk, for any other sampler."""
import node_helpers
from comfy_api.latest import io, ui

from ..backbones import attach
from ..backbones.take_checks import check_prompt
from ..host.clip_plan import plan_clip
from ..host.take_inputs import TakeInputs
from .input_checks import check_inputs, name_input
from .sockets import (
    DRIVING,
    LARGEST_SIDE,
    LONGEST_CHUNK,
    NEAREST_BUCKET,
    SEVERAL,
    SIDE_STEP,
    search_words,
    sentences,
)


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
                                            tooltip="From Audio Features (S2V, HuMo, InfiniteTalk), OmniAvatar Speech, "
                                                    "LongCat Speech, Two Speakers or Joint Speech."),
                io.Image.Input("reference", optional=True, extra_dict=SEVERAL,
                               tooltip="The person's picture, cropped to the size: the first frame or the reference, "
                                       "as the model takes it. HuMo takes up to 8, each whole on white."),
                io.Boolean.Input("nearest_bucket", default=False, optional=True, tooltip=NEAREST_BUCKET),
                DRIVING.Input("driving", optional=True,
                              tooltip="From Driving Video, for models that follow one; its beginning is used."),
                io.ClipVision.Input("clip_vision", optional=True,
                                    tooltip="clip_vision_h, which is shown the reference, for Wan 2.1 image-to-video "
                                            "and Wan-Animate."),
                io.Video.Input("continue_from", optional=True,
                               tooltip="A clip to go on from: its last frames are the context, as many as the model "
                                       "repeats in Long Take. They open the latent; cut them off when it is decoded. "
                                       "Models that take them as tokens beside it want Long Take."),
            ],
            outputs=[io.Conditioning.Output(display_name="positive", tooltip="For the sampler or guider."),
                     io.Conditioning.Output(display_name="negative", tooltip="The same with unconditional audio."),
                     io.Latent.Output(display_name="latent",
                                      tooltip="The empty clip, with its first frame where one is given."),
                     io.Model.Output(display_name="model", tooltip="The model, ready to read that conditioning: for "
                                                                   "the sampler or guider.")],
            **search_words("talking head", "avatar", "lip sync", "audio to video", "image to video", "single clip"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, positive, negative, vae, width, height, chunk_frames, audio_features=None, reference=None,
                nearest_bucket=False, driving=None, clip_vision=None, continue_from=None) -> io.NodeOutput:
        for name, prompt in (("positive", positive), ("negative", negative)):
            with name_input(name):
                check_prompt(model, [text for text, _ in prompt])
        plan, lines, clip = plan_clip(model, reference, width, height, chunk_frames, nearest_bucket, continue_from)
        take = TakeInputs(model, vae, plan, reference, audio_features, None, driving, clip_vision,
                          frozenset(name for _, values in positive for name in values), clip)
        take.check_guides()
        take.check_speech()
        inputs = take.first_inputs()
        given, latent = inputs.with_text(positive[0][0]), {"samples": inputs.samples}
        return io.NodeOutput(node_helpers.conditioning_set_values(positive, given),
                             node_helpers.conditioning_set_values(negative, {**given, **inputs.uncond}),
                             latent if inputs.noise_mask is None else {**latent, "noise_mask": inputs.noise_mask},
                             attach.ready_model(model),
                             ui=ui.PreviewText(sentences([*lines, take.silence_note, inputs.others_note])))
