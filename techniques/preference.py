"""Masked DPO (TAVR, equation 7): of two takes of the same speech the one that is more the person is preferred.

Where the paper sums over the latents, these are means over the mask, so that `beta` does not depend on the size: ours.
"""
import torch
from torch import Tensor

BETA, WEIGHTS = 500.0, (1.0, 2.0)       # of the paper: outside the face, inside it


def face_weight(mask: Tensor, weights: tuple[float, float] = WEIGHTS) -> Tensor:
    """The weight (1, 1, T, h, w) of each latent where `mask`, 0 to 1, shows the face."""
    return weights[0] + (weights[1] - weights[0]) * mask


def masked_error(velocity: Tensor, clean: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """The mean of |m (y - f)|^2 over a take, y being noise - clean."""
    return (mask * (noise - clean - velocity)).square().mean()


def preference_loss(winner: Tensor, loser: Tensor, reference_winner: Tensor, reference_loser: Tensor,
                    beta: float = BETA) -> Tensor:
    """-log sigmoid(-beta/2 (D_w - D_l)), D being an error less that of the network before this training."""
    apart = (winner - reference_winner) - (loser - reference_loser)
    return -torch.nn.functional.logsigmoid(-beta / 2 * apart)
