"""LongCat-Video and LongCat-Video-Avatar as a network of our own: nothing in this folder's numeric files
knows ComfyUI, which hands its operations and its attention in."""
