"""Rolling Window (AvatarForcing): a sampler that denoises a clip block by block, each block cleaner than the next."""
from comfy_api.latest import io

from ..host.rolling_sampler import RollingSampler
from ..techniques.rolling_window import RENOISE
from .input_checks import check_inputs
from .sockets import search_words


class LodestarRollingWindow(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarRollingWindow",
            display_name="Rolling Window",
            category="Lodestar/sampling",
            description="Denoises a clip as a stream: a window of blocks moves on, the oldest nearly clean, the newest "
                        "noise, at the same cost however long the clip is.",
            inputs=[
                io.Int.Input("block_latents", default=4, min=1, max=16,
                             tooltip="Latents that leave the window at a time; each is 4 pixel frames."),
                io.Int.Input("passes", default=1, min=1, max=8,
                             tooltip="How often a window is refined before it moves on. Sigmas need blocks x passes "
                                     "values and a 0."),
                io.Combo.Input("renoise", options=list(RENOISE), default="fresh",
                               tooltip="fresh: new noise between levels, for distilled students. keep: the same "
                                       "path, for any other flow model."),
            ],
            outputs=[io.Sampler.Output(tooltip="For Long Take or SamplerCustomAdvanced, with Student Schedule.")],
            **search_words("streaming", "sampler", "causal", "self forcing", "avatarforcing", "real time"),
        )

    @classmethod
    @check_inputs
    def execute(cls, block_latents, passes, renoise) -> io.NodeOutput:
        return io.NodeOutput(RollingSampler(block_latents, passes, renoise))
