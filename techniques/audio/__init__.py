"""Speech as numbers: waveforms, mel bands, encoder windows and feature frames. Knows torch, never ComfyUI."""
