"""OmniAvatar (Gan et al. 2025) on ComfyUI's WanModel."""
