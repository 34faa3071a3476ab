"""Floor 2: how one model family is spoken to. Knows ComfyUI and the techniques."""
