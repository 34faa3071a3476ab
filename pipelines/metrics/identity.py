"""Identity over time: the cosine between an embedding of the person in each frame and that of the reference picture.

Whatever makes the embeddings is the caller's: a face network, or the puppet's regressed parameters.
"""
import torch
from torch import Tensor

from .track import Track


class Identity:
    """Fed embeddings (T, D); NaN is a frame without a face. `reference`: (D,), or None for the first face."""

    def __init__(self, fps: float, reference: Tensor | None = None):
        self.track, self._reference = Track(fps), reference

    def add(self, embeddings: Tensor) -> None:
        known = embeddings.isfinite().all(1)
        if self._reference is None and known.any():
            self._reference = embeddings[known][0].clone()
        if self._reference is None:
            self.track.add([float("nan")] * len(embeddings))
            return
        self.track.add(torch.cosine_similarity(embeddings.double(), self._reference.double()[None], dim=1))

    def result(self) -> dict:
        return self.track.result()
