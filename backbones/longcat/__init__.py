"""LongCat-Video and LongCat-Video-Avatar inside ComfyUI; the network itself is networks/longcat/."""
