"""LTX-2, 2.3 and 2.5 (HaCohen et al. 2026) on ComfyUI's own network: picture and sound in one latent."""
