"""OmniAvatar (Gan et al. 2025): what it adds to Wan 2.1 T2V, and the layout in which it is published."""
