"""Floor 1: the papers as plain functions and frozen dataclasses. Knows torch, nothing else."""
