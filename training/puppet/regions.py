"""Where in a drawing the head is, and the room without anybody in it: known exactly, where a video has a detector."""
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from .drawing import STATE, Stage, body, draw, lettering
from .identity import Identity
from .world import Take

CELL = 8        # pixels of a latent


def lit(stage: Stage) -> Tensor:
    """(T, H, W, 3) uint8 of what is on a stage, as `draw` gives it."""
    return (stage.pixels.permute(0, 2, 3, 1) * (255 * torch.tensor(stage.identity.light)) + 0.5).to(torch.uint8)


def empty_room(identity: Identity, size: int) -> Tensor:
    """(H, W, 3) uint8: the character's scene, with nobody in it."""
    still = np.array([[float(name == "head_scale") for name in STATE]])
    return lit(Stage(identity, still, size))[0]


def head_cells(take: Take, frames: np.ndarray, size: int) -> Tensor:
    """(T, h, w) bool: latent cells in which the head shows, its hair and neck included."""
    states = take.states(frames)
    stage = Stage(take.identity, states, size)
    for part in (body, lettering):
        part(stage)
    seen = (draw(take.identity, states, size) != lit(stage)).any(-1)
    return max_pool2d(seen[:, None].float(), CELL)[:, 0] > 0
