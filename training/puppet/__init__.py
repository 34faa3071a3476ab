"""The puppet: a drawn character that talks, with exact ground truth, and the tiny avatar model that learns it."""
