"""CogVideoX (Yang et al. 2024) on ComfyUI's own network."""
