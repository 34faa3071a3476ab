"""Speech Guidance (LongCat-Video-Avatar): a guider with one scale for the text and one for the speech, as each family
was trained to be guided."""
import logging

from comfy_api.latest import io

from ..backbones import find
from ..backbones.speech_guider import guide_speech
from ..backbones.take_checks import check_prompt
from ..techniques.projected_guidance import LARGEST_NORM, MOMENTUM, Projection
from .input_checks import check_inputs, name_input
from .sockets import search_words

logger = logging.getLogger("lodestar")


class LodestarSpeechGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        scale = {"default": 4.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}
        return io.Schema(
            node_id="LodestarSpeechGuidance",
            display_name="Speech Guidance",
            category="Lodestar/sampling",
            description="Guides text and speech each with a scale of its own (disentangled guidance), for models that "
                        "are driven by speech. Makes no prediction that the scales make redundant.",
            inputs=[
                io.Model.Input("model",
                               tooltip="The model. One without audio conditioning is guided by its text alone."),
                io.Conditioning.Input("positive", tooltip="The prompt. Long Take adds the audio features; for other "
                                                          "samplers they must be in here."),
                io.Conditioning.Input("negative", tooltip="The negative prompt. It gets the positive one's audio "
                                                          "features where it has none, and is used once more with "
                                                          "unconditional audio."),
                io.Float.Input("text_scale", **scale, tooltip="How strongly the prompt leads. 1 for distilled models."),
                io.Float.Input("audio_scale", **scale,
                               tooltip="How strongly the speech leads lips and gestures: 3 to 5. Equal to text_scale "
                                       "saves a third of the time; 1 for distilled models."),
                io.Boolean.Input("cfg_zero", default=False,
                                 tooltip="CFG-zero: projects the negative prediction onto the positive one first. "
                                         "The authors use it for LongCat-Video, not for Avatar."),
                io.Boolean.Input("apg", default=False, optional=True,
                                 tooltip="Adaptive projected guidance, as InfiniteTalk offers it: what of a direction "
                                         "lies along the prediction itself is left out, so that high scales do not "
                                         "oversaturate."),
                io.Float.Input("apg_momentum", default=MOMENTUM, min=-1.0, max=1.0, step=0.05, round=0.01,
                               optional=True,
                               tooltip="Only for apg: how much of the step before's direction is added; below 0 it is "
                                       "taken off."),
                io.Float.Input("apg_norm", default=LARGEST_NORM, min=0.0, max=10000.0, step=1.0, round=0.01,
                               optional=True,
                               tooltip="Only for apg: the length to which a direction is cut. 0 leaves it."),
                io.Float.Input("reference_scale", **scale, optional=True,
                               tooltip="Only for HuMo 1.7B, which is guided by its reference, too: how strongly the "
                                       "picture leads. 4 as its authors have it."),
            ],
            outputs=[io.Guider.Output(tooltip="For Long Take or SamplerCustomAdvanced.")],
            **search_words("cfg", "guider", "audio cfg", "lip sync", "guidance scale"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, positive, negative, text_scale, audio_scale, cfg_zero, apg=False, apg_momentum=MOMENTUM,
                apg_norm=LARGEST_NORM, reference_scale=4.0) -> io.NodeOutput:
        if apg and cfg_zero:
            raise ValueError("apg, cfg_zero: both are on, and each is another way to guide. Switch one off")
        for name, prompt in (("positive", positive), ("negative", negative)):
            with name_input(name):
                check_prompt(model, [text for text, _ in prompt])
        guider = guide_speech(model, positive, negative, text_scale, audio_scale, cfg_zero, reference_scale)
        if apg:
            guider.project_directions(Projection(apg_momentum, apg_norm))
        if guider.audio_condition is None:
            logger.warning("Speech Guidance: %s has no audio conditioning; audio_scale is not used, text_scale leads",
                           find(model).name)
        return io.NodeOutput(guider)
