"""Speech as tensors: waveforms, mel bands, encoder segments and feature frames. No ComfyUI."""
