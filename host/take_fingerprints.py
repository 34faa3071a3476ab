"""What determines each chunk of a take, read from the values that came and not from the graph that made them.

So a take is the same whatever its nodes, files and name are called, and another one where a loop, a list or a changed
file gave another value.
"""
from collections.abc import Iterable, Mapping
from typing import Any

import comfyui_version

from ..backbones.comfy_values import ComfyValues
from ..pipelines import VERSION
from ..pipelines.frames_at_times import ClipFrames, FileFrames
from ..pipelines.take.fingerprint import Fingerprints

READ_ALONE = ("model_patcher", "model_options", "original_conds")   # of a guider, under names of their own


def take_fingerprints(guider, given: Mapping[str, Any], chunks: Iterable[Mapping[str, Any]]
                      ) -> tuple[list[dict[str, str]], list[str]]:
    """Per chunk everything that determines it, by name, and what of it has no fingerprint, in words.

    `given`: what is the same for all chunks; `chunks`: what is a chunk's own. Names are shown where a value changed.
    """
    prints, held = Fingerprints(TakeValues()), vars(guider)
    values = {"model": [held["model_patcher"], held["model_options"]], "conditioning": held["original_conds"],
              "guider": [type(guider), {name: value for name, value in held.items() if name not in READ_ALONE}],
              "version": f"Lodestar {VERSION}, ComfyUI {comfyui_version.__version__}", **given}
    common = {name: prints.of(value, name) for name, value in values.items()}
    found = [{**common, **{name: prints.of(value, name) for name, value in chunk.items()}} for chunk in chunks]
    return found, prints.unreadable


class TakeValues(ComfyValues):
    """A video that a model brings counts by the frames that chunks have of it, which each chunk's own part tells."""

    def __call__(self, value: Any) -> Any:
        return "video" if isinstance(value, FileFrames | ClipFrames) else super().__call__(value)
