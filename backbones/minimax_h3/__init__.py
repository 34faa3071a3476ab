"""MiniMax H3 (2026) on ComfyUI's own network: picture and sound in one sequence."""
