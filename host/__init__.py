"""Joins a take and a backbone inside ComfyUI: how a take is known, where its file goes, what watchers are told."""
