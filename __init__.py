"""ComfyUI-Lodestar: minute-scale talking-avatar video as graph nodes. ComfyUI reads the two names below."""
from importlib.util import find_spec

WEB_DIRECTORY = "./web"

if find_spec("comfy_api"):  # imported by ComfyUI; without it the lower floors still work (tests, scripts, training)
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
