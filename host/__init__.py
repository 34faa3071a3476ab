"""The floor that joins a take and a backbone inside ComfyUI: where its file goes, and what its watchers are told."""
