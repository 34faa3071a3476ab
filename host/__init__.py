"""Joins a take and a backbone inside ComfyUI: a take's fingerprints, file name, progress and events."""
