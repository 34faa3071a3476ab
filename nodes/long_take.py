"""Long Take: the plan, chunk by chunk, through ComfyUI's own sampler, to one video on disk."""
from comfy_api.latest import InputImpl, io, ui

from ..host.chunk_sampler import Sampling
from ..host.continued_take import continue_take
from ..host.output_names import problem_of
from ..host.session import TakeSession
from ..host.take_inputs import TakeInputs
from ..host.take_requests import count_stops
from .input_checks import check_inputs
from .sockets import PLAN, SEVERAL, search_words


class LodestarLongTake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLongTake",
            display_name="Long Take",
            category="Lodestar",
            description="Makes the whole video: samples each chunk of the plan, passes its last latents to the next, "
                        "decodes and writes as it goes, in constant memory. Queue again after a crash or a cancel and "
                        "it resumes.",
            inputs=[
                io.Noise.Input("noise", tooltip="Seed of the take; later chunks' are mixed from it and the plan's "
                                                "seed step."),
                io.Guider.Input("guider", tooltip="Model with Lodestar's techniques, and its conditioning: Basic "
                                                  "Guider, CFG Guider or any other."),
                io.Sampler.Input("sampler", tooltip="Any sampler, as for SamplerCustomAdvanced; for CogVideoX "
                                                      "VOID Sampler."),
                io.Sigmas.Input("sigmas", tooltip="The schedule, used for every chunk."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model. Wan VAEs are decoded as one stream."),
                PLAN.Input("plan", tooltip="From Plan Take."),
                io.AudioEncoderOutput.Input("audio_features", optional=True,
                                            tooltip="From Audio Features for S2V, HuMo and InfiniteTalk, OmniAvatar "
                                                    "Speech for OmniAvatar, LongCat Speech for LongCat Avatar, Two "
                                                    "Speakers for it, InfiniteTalk and MultiTalk, Joint Speech for "
                                                    "LTX-2 and MiniMax H3."),
                io.Image.Input("reference", optional=True, extra_dict=SEVERAL,
                               tooltip="The person's picture: S2V's reference, the first frame for image-to-video, "
                                       "and the picture of an anchor that has none of its own. Cropped to the take's "
                                       "size; HuMo takes up to 8, each whole on white."),
                io.Clip.Input("clip", optional=True,
                              tooltip="The text encoder, only needed when the plan has a script of prompts."),
                io.String.Input("filename_prefix", default="lodestar/take",
                                tooltip="Name of the video below ComfyUI's output folder; takes ComfyUI's tokens, "
                                        "such as %date:yyyy-MM-dd%, %width% or %RandomNoise.noise_seed%."),
                io.Boolean.Input("keep_chunks", default=False,
                                 tooltip="Keep the chunks' latents and video segments after the video is finished, so "
                                         "that after a later change only the chunks it affects are made again."),
                io.ClipVision.Input("clip_vision", optional=True,
                                    tooltip="clip_vision_h, which is shown the reference, for Wan 2.1 image-to-video "
                                            "and Wan-Animate."),
                io.Video.Input("continue_from", optional=True,
                               tooltip="A clip that the take goes on from: the finished video is the clip, at the "
                                       "take's size and frame rate and with its own sound, then the new part. Connect "
                                       "it to Plan Take, too."),
            ],
            outputs=[io.Video.Output(display_name="video",
                                     tooltip="The finished file, for Save Video, preview or further nodes."),
                     io.String.Output(display_name="path", tooltip="Where the video is."),
                     io.Latent.Output(display_name="tail", tooltip="The last chunk's latents, as they were sampled.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            **search_words("talking", "talking head", "talking avatar", "avatar", "lip sync", "long video",
                           "audio to video", "speech to video", "minutes", "extend video", "sadtalker", "infinitetalk"),
        )

    @classmethod
    @check_inputs
    def execute(cls, noise, guider, sampler, sigmas, vae, plan, audio_features=None, reference=None, clip=None,
                filename_prefix="lodestar/take", keep_chunks=False, clip_vision=None, continue_from=None
                ) -> io.NodeOutput:
        sampling = Sampling(noise, guider, sampler, sigmas)
        plan, before = continue_take(guider.model_patcher, plan, continue_from)
        inputs = TakeInputs(guider.model_patcher, vae, plan.plan, reference, audio_features, clip, plan.driving,
                            clip_vision, sampling.given, before, plan.keyframes)
        session = TakeSession(inputs, sampling, plan, cls.hidden)
        take = session.make(filename_prefix, keep_chunks)
        preview = ui.PreviewVideo([ui.SavedResult(take.path.name, take.subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(take.path)), str(take.path), {"samples": take.tail},
                             ui=preview)

    @classmethod
    def fingerprint_inputs(cls, filename_prefix="", **others):
        return count_stops(filename_prefix or "")

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return problem_of(filename_prefix) or True
