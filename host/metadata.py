"""What a video carries with it: the graph that made it, as JSON that every reader takes."""
import json
import math
from collections.abc import Mapping
from typing import Any

from comfy.cli_args import args


def graph_tags(prompt: Any, extra_pnginfo: Mapping[str, Any] | None, **more: Any) -> dict[str, str]:
    """The queued prompt and the workflow, so that the video opens as a graph when dragged into ComfyUI, and `more`."""
    if args.disable_metadata:
        return {}
    found = {**(extra_pnginfo or {}), **more}
    if prompt is not None:
        found["prompt"] = prompt
    return {name: json.dumps(_strict(value), allow_nan=False, default=repr) for name, value in found.items()}


def _strict(value: Any) -> Any:
    """NaN and the infinities, which JSON does not know, as null. ComfyUI itself writes NaN where an IS_CHANGED is."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    return value
