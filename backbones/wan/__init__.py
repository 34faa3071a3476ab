"""Wan 2.1 and 2.2 on ComfyUI's own WanModel."""
