"""InfiniteTalk and MultiTalk: speech attention from a model patch, on ComfyUI's Wan 2.1 image-to-video."""
