"""Persistent Latents (EverAnimate): the node that lets a take remember the person in pictures that never change."""
import logging

from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..backbones.socket_values import unit_values
from ..techniques.persistent_latents import (
    CLIP_PICTURES,
    COMPLETE_WITH,
    MOST_MOTION,
    MOST_PICTURES,
    ORDERS,
    PersistentLatents,
)
from .input_checks import check_inputs, name_input
from .sockets import search_words

logger = logging.getLogger("lodestar")


class LodestarPersistentLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarPersistentLatents",
            display_name="Persistent Latents",
            category="Lodestar/techniques",
            description="Keeps person and room the same for minutes: a few pictures of the person that never change, "
                        "and the last latents of each clip, handed to the next as they were sampled (EverAnimate).",
            inputs=[
                io.Model.Input("model", tooltip="Wan-Animate with EverAnimate's LoRA, Wan image-to-video with a Stable "
                                                "Video Infinity 2.0 Pro LoRA, or another model. Connect what comes "
                                                "out to Plan Take, too."),
                io.Image.Input("views", optional=True, extra_dict={"pictures": MOST_PICTURES},
                               tooltip="Further pictures of the person: other sides, other distances. Cropped to the "
                                       "take's size; of more than there is room for the first are taken."),
                io.Int.Input("count", default=4, min=1, max=MOST_PICTURES,
                             tooltip="Pictures remembered in all, Long Take's reference among them; 4 is what "
                                     "EverAnimate was trained with, 1 Stable Video Infinity."),
                io.Int.Input("motion_latents", default=1, min=0, max=MOST_MOTION,
                             tooltip="Latents of the last clip that the next one continues, each of 4 frames, for "
                                     "Wan-Animate and Wan image-to-video. 0: every clip starts without them. For other "
                                     "models overlap_frames of Plan Take says it."),
                io.Combo.Input("complete_with", options=list(COMPLETE_WITH), default=COMPLETE_WITH[0],
                               tooltip="What fills up where fewer views are given. frames of the first chunk: drawn "
                                       "once it is finished, then always the same. the reference: again and again."),
                io.Combo.Input("order", options=list(ORDERS), default=ORDERS[0],
                               tooltip="Of the pictures, in the model's channels. upstream: drawn frames first, the "
                                       "reference last, as the authors' script has it."),
                io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff,
                             tooltip="Which frames of the first chunk. The same seed draws the same."),
                io.Combo.Input("clip_picture", options=list(CLIP_PICTURES), default=CLIP_PICTURES[0], optional=True,
                               tooltip="What CLIP vision sees from the second clip of Wan-Animate on. last frame: of "
                                       "the clip before, as the authors' code runs. reference: no pixels pass from "
                                       "clip to clip, as their paper says."),
            ],
            outputs=[io.Model.Output(tooltip="The model that remembers, for Plan Take and a guider.")],
            **search_words("identity", "everanimate", "long animation", "memory", "consistent character", "drift",
                           "stable video infinity", "svi"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, count, motion_latents, complete_with, order, seed, views=None,
                clip_picture=CLIP_PICTURES[0]) -> io.NodeOutput:
        backbones.find(model).memory_in_channels()
        with name_input("views"):
            views = None if views is None else unit_values(views, "pixels", "load the pictures again")
        technique = PersistentLatents(count, motion_latents, complete_with, order, seed, views, clip_picture)
        if views is not None and len(views) > len(technique.given_views):
            logger.warning("views: %d pictures came, and %d have room beside the reference; the first are taken",
                           len(views), len(technique.given_views))
        return io.NodeOutput(attach.with_technique(model, technique))
