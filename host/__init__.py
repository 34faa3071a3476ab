"""Floor 3: joins a take and a backbone inside ComfyUI: inputs, chunk sampler, session, fingerprints, progress."""
