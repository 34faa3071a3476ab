"""Floor 1: networks that ComfyUI does not have, and how their files pack weights. Knows torch, nothing else."""
