"""Narrative Keyframe (Seo et al. 2025, section 4.4): a picture the take moves towards until its time has passed."""
from fractions import Fraction

from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..techniques.narrative_keyframes import NarrativeKeyframes
from .input_checks import check_inputs, name_input
from .sockets import search_words


class LodestarNarrativeKeyframe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarNarrativeKeyframe",
            display_name="Narrative Keyframe",
            category="Lodestar/techniques",
            description="Sets a picture (an expression, a pose) at a time of the story. Every chunk before that time "
                        "has the next keyframe as its lookahead anchor. Chain one node per keyframe, in any order.",
            inputs=[
                io.Model.Input("model", tooltip="The model, usually after Lookahead Anchor, which sets the distance."),
                io.Latent.Input("keyframe",
                                tooltip="The picture, from Reference Picture or VAE Encode, at the take's size."),
                io.Float.Input("at_seconds", default=5.0, min=0.0, max=86400.0, step=0.1,
                               tooltip="When it should be reached, in seconds of the whole take. From the first chunk "
                                       "that starts at or after this time the next keyframe is the anchor."),
            ],
            outputs=[io.Model.Output(tooltip="The model with one more keyframe.")],
            **search_words("keyframe", "expression", "story", "pose", "timeline", "identity"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, keyframe, at_seconds) -> io.NodeOutput:
        story = attach.technique_of(model, NarrativeKeyframes) or NarrativeKeyframes()
        with name_input("keyframe"):
            latents = backbones.anchor_latents(model, keyframe)
        return io.NodeOutput(attach.with_technique(model, story.plus(Fraction(str(at_seconds)), latents)))
