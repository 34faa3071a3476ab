"""Speech encoders inside ComfyUI, and their features on the wire."""
