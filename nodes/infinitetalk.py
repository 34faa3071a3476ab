"""InfiniteTalk: a Wan 2.1 image-to-video model driven by speech through a model patch."""
from comfy_api.latest import io

from ..backbones.infinitetalk.patching import with_speech_patch
from ..host.driving_sources import open_video
from .input_checks import check_inputs, name_input
from .sockets import search_words


class LodestarInfiniteTalk(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarInfiniteTalk",
            display_name="InfiniteTalk",
            category="Lodestar/loaders",
            description="Joins Wan 2.1 image-to-video and the model patch of InfiniteTalk or MultiTalk to one model, "
                        "driven by speech: for Long Take, Plan Take, One Chunk and every technique.",
            inputs=[
                io.Model.Input("model", tooltip="Wan 2.1 I2V 14B 480p, with its LoRAs."),
                io.Custom("MODEL_PATCH").Input("model_patch",
                                               tooltip="From core's Load Model Patch: InfiniteTalk single or multi, "
                                                       "or MultiTalk."),
                io.Float.Input("audio_scale", default=1.0, min=-10.0, max=10.0, step=0.01,
                               tooltip="How strongly the audio features drive the picture. 1 as trained; for stronger "
                                       "lips rather raise the audio_scale of Speech Guidance."),
                io.ClipVision.Input("clip_vision", optional=True,
                                    tooltip="clip_vision_h, from core's Load CLIP Vision: it sees each chunk's "
                                            "picture, as the model was trained. Left out: the prompts must bring what "
                                            "CLIP Vision Encode gives."),
                io.Float.Input("colour_match", default=1.0, min=0.0, max=1.0, step=0.05, round=0.01, optional=True,
                               tooltip="How much of the way each frame of Long Take is brought to the picture's "
                                       "colours, so that they do not drift. 1 as its authors have it, 0 for none."),
                io.Video.Input("video", optional=True,
                               tooltip="A video to dub: each chunk has its frame at that time in place of the picture, "
                                       "behind its end the last one. It is read frame by frame."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the speech patch attached.")],
            **search_words("multitalk", "talking head", "avatar", "lip sync", "audio to video", "wan talk"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, model_patch, audio_scale, clip_vision=None, colour_match=1.0, video=None) -> io.NodeOutput:
        with name_input("video"):
            frames = None if video is None else open_video(video, "the video")
        return io.NodeOutput(with_speech_patch(model, model_patch, audio_scale, clip_vision, colour_match, frames))
