"""Floor 2: how a long take is made. Knows the techniques, never ComfyUI."""
