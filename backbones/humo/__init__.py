"""HuMo 17B and 1.7B on ComfyUI's HumoWanModel."""
