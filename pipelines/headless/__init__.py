"""A take without ComfyUI: for the demo, for training and for measuring."""
