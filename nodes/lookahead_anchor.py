"""Lookahead Anchor (Seo et al. 2025): the node that puts the picture ahead of every chunk."""
from fractions import Fraction

from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..techniques.lookahead_anchor import FARTHEST, PLACEMENTS, LookaheadAnchor, parse_schedule
from .input_checks import check_inputs, name_input, try_reading
from .sockets import search_words

SECONDS = 60.0
UNITS = ("pixel frames", "latent frames")


class LodestarLookaheadAnchor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLookaheadAnchor",
            display_name="Lookahead Anchor",
            category="Lodestar/techniques",
            description="Keeps the person the same: a clean picture stands a fixed distance ahead of every chunk, "
                        "always visible and never reached (Lookahead Anchoring). Several anchors may follow one "
                        "another.",
            inputs=[
                io.Model.Input("model", tooltip="Any model that Long Take takes, with or without LoRAs."),
                io.Float.Input("distance", default=12.0, min=0.0, max=FARTHEST, step=1.0,
                               tooltip="How far ahead of the chunk's last frame the anchor stands. A small distance "
                                       "keeps the face more strictly, a large one allows more motion; lip sync is best "
                                       "near 12 pixel frames."),
                io.Combo.Input("unit", options=list(UNITS), default="pixel frames",
                               tooltip="What distance counts. Pixel frames are divided by 4 and rounded down, on "
                                       "LTX-2 taken as they are; so are latent frames, fractions too."),
                io.Combo.Input("placement", options=list(PLACEMENTS), default="lookahead",
                               tooltip="lookahead: ahead of the chunk (the paper). For comparison: past stands before "
                                       "the chunk, in chunk at index, chunk end on the last frame. padding (Stable "
                                       "Video Infinity): Long Take's picture in the concat latent, wherever no "
                                       "frame is given yet; for models that have such channels (the help page "
                                       "lists them), others refuse it."),
                io.Float.Input("index", default=0.0, min=0.0, max=FARTHEST, step=1.0,
                               tooltip="Only for placement 'in chunk': the chunk's latent frame at which it stands."),
                io.Latent.Input("anchor", optional=True,
                                tooltip="The picture, from Reference Picture or VAE Encode, at the take's size. Leave "
                                        "it open to use the model's own reference, where it has one, or Long Take's "
                                        "picture."),
                io.String.Input("schedule", default="", optional=True,
                                tooltip="Optional: one RoPE time per chunk, in latent frames from the chunk's first, "
                                        "such as 10, 30, -10; after the last it starts again. It overrides distance, "
                                        "placement and index. LongCat's authors: 0 to 24 keeps the person more "
                                        "strictly, 30 or -10 repeats fewer movements."),
                io.Float.Input("seconds", default=0.0, min=0.0, max=SECONDS, step=0.05, round=0.001, optional=True,
                               tooltip="How far ahead in seconds, at the model's own frame rate: the same on every "
                                       "model. Above 0 it stands for distance and unit."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the anchor attached.")],
            **search_words("identity", "consistent character", "same person", "keep face", "reference", "drift"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, distance, unit, placement, index, anchor=None, schedule="", seconds=0.0
                ) -> io.NodeOutput:
        backbone = backbones.find(model)
        if seconds:
            latents = float(Fraction(seconds).limit_denominator(1000) * backbone.fps / backbone.temporal_ratio)
        else:
            latents = distance if unit == "latent frames" else backbone.latents_ahead(Fraction(distance))
        with name_input("anchor"):
            pictures = backbones.anchor_latents(model, anchor)
        technique = LookaheadAnchor(latents, placement, index, pictures, parse_schedule(schedule))
        return io.NodeOutput(attach.with_technique(model, technique))

    @classmethod
    def validate_inputs(cls, schedule=None):
        return try_reading(parse_schedule, schedule)
