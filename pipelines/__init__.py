"""Floor 2: how a long take is made. Knows the techniques, never ComfyUI."""

VERSION = "0.1.0"   # of the pack, as pyproject.toml has it: part of what makes a chunk
