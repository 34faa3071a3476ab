"""HunyuanVideo 1.0 and 1.5 (Kong et al. 2024) on ComfyUI's own network."""
