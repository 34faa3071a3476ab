"""Experiments with the pack: what the papers claim, tried out. `python -m experiments.claims`."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
