"""Live Take: speech that is still arriving, and its video while it is made."""
import time

from comfy_api.latest import InputImpl, io, ui

from ..host.chunk_sampler import Sampling
from ..host.live_inputs import LiveInputs
from ..host.live_session import FILE, FOLDER, PREVIEW, LiveSession
from ..host.live_sources import problem_of_source
from ..host.output_names import problem_of, subfolder_of
from .input_checks import check_inputs
from .sockets import PLAN, SEVERAL, search_words


class LodestarLiveTake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLiveTake",
            display_name="Live Take",
            category="Lodestar",
            description="Makes a talking video while the speech is still arriving: block by block through a Rolling "
                        "Window, to be watched as it grows. Ends with the speech, after some silence, or on Cancel, "
                        "always with a complete file.",
            inputs=[
                io.Noise.Input("noise", tooltip="Seed of the take; each block's noise is mixed from it."),
                io.Guider.Input("guider", tooltip="The model with Style Anchor and Temporal Anchor, its prompt."),
                io.Sampler.Input("sampler", tooltip="Rolling Window; no other sampler makes a block at a time."),
                io.Sigmas.Input("sigmas", tooltip="From Student Schedule. Each block of the window makes the picture "
                                                  "one block later."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model; a light decoder such as lighttaew2_1 "
                                            "can stand here, too."),
                PLAN.Input("plan", tooltip="From Plan Take with block_latents as Rolling Window has them. Its length "
                                           "is the longest that the take becomes."),
                io.Image.Input("reference", extra_dict=SEVERAL,
                               tooltip="The person's picture, which is the first frame."),
                io.AudioEncoder.Input("audio_encoder", optional=True,
                                      tooltip="From Load Audio Encoder, as the model was trained: speech is encoded "
                                              "while it comes, 8 s and the window at a time."),
                io.Clip.Input("clip", optional=True,
                              tooltip="The text encoder, only needed when the plan has a script of prompts."),
                io.Vae.Input("light_decoder", optional=True,
                             tooltip="A tiny autoencoder of ComfyUI's (lighttaew2_1 for Wan 2.1, lighttaew2_2 for Wan "
                                     "2.2 5B) that decodes instead of the VAE: faster, with less detail."),
                io.String.Input("source", default="",
                                tooltip="Where speech comes from. Empty: the plan's speech. A WAV in ComfyUI's input "
                                        "folder that may still grow, such as talk.wav. live:NAME for what programs of "
                                        "this machine send to ComfyUI's /lodestar/live/NAME."),
                io.Combo.Input("show", options=[PREVIEW, FOLDER, FILE], default=PREVIEW,
                               tooltip="Where it can be watched meanwhile. preview: in the node. HLS folder: also as a "
                                       "playlist in the output folder, which stays. file: only as the growing file."),
                io.Float.Input("end_after_silence_seconds", default=5.0, min=0.0, max=3600.0, step=0.5,
                               tooltip="Once somebody spoke, so much silence ends the take. 0: it goes on until the "
                                       "source closes, the plan's length, or Cancel."),
                io.Boolean.Input("idle", default=True,
                                 tooltip="Where no sound comes in time the take goes on in silence. Off: it waits."),
                io.String.Input("filename_prefix", default="lodestar/live",
                                tooltip="Name of the video below ComfyUI's output folder; takes ComfyUI's tokens."),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The complete file."),
                     io.String.Output(display_name="path", tooltip="Where the video is.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            **search_words("live", "streaming", "real time", "talking avatar", "microphone", "websocket", "hls",
                           "conversation", "interrupt"),
        )

    @classmethod
    @check_inputs
    def execute(cls, noise, guider, sampler, sigmas, vae, plan, reference, audio_encoder=None, clip=None,
                light_decoder=None, source="", show=PREVIEW, end_after_silence_seconds=5.0, idle=True,
                filename_prefix="lodestar/live") -> io.NodeOutput:
        sampling = Sampling(noise, guider, sampler, sigmas)
        inputs = LiveInputs(guider.model_patcher, vae, plan.plan, reference, clip=clip, given=sampling.given,
                            encoder=audio_encoder, light_decoder=light_decoder)
        session = LiveSession(inputs, sampling, plan, cls.hidden, source, show, end_after_silence_seconds, idle)
        path = session.make(filename_prefix)
        preview = ui.PreviewVideo([ui.SavedResult(path.name, subfolder_of(path), io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), str(path), ui=preview)

    @classmethod
    def fingerprint_inputs(cls, source=None, **inputs):
        return time.time() if source else 0.0     # what was sent is not the same another time

    @classmethod
    def validate_inputs(cls, filename_prefix=None, source=None):
        return problem_of(filename_prefix) or problem_of_source(source) or True
