"""What the puppet's VAE is to mind: colours, edges, movement, lips, detail, what the face probe sees, what looks drawn.
"""
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, l1_loss, leaky_relu, relu
from torch.nn.utils.parametrizations import spectral_norm

from .face_probe import SIZE as PROBE_SIZE
from .face_probe import FaceProbe

CELLS = 12                  # pixels, in which there should be as much detail as in the truth
WORLD_SIZE = 96             # pixels of a picture of which the probe wants PROBE_SIZE
READ = 9                    # layers of a reader: three convolutions with norm and SiLU
MOST = 0.5                  # the critic's gradient at the decoder's last layer, as a share of the rest's


def difference(made: Tensor, true: Tensor) -> Tensor:
    """(B, 3, T, H, W): of colours, of edges, of movement and where it is, of details."""
    edges = (l1_loss(made.diff(dim=side), true.diff(dim=side)) for side in (-1, -2))
    loss = l1_loss(made, true) + 0.5 * sum(edges) + blur(in_row(made), in_row(true))
    return loss + (0.5 * l1_loss(made.diff(dim=2), true.diff(dim=2)) + 4 * off_where_it_moves(made, true)
                   if true.shape[2] > 1 else 0)


def off_where_it_moves(made: Tensor, true: Tensor) -> Tensor:
    """(B, 3, T, H, W), T > 1: l1, each pixel counted by how much it changes before and after, of the clip's mean. Lips
    are small and change within the frames of one latent: counted as all else, they are left half open."""
    change = true.diff(dim=2).abs().mean(1, keepdim=True)
    weights = torch.cat([change[:, :, :1], change[:, :, 1:] + change[:, :, :-1], change[:, :, -1:]], 2)
    return (weights / weights.mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-6) * (made - true).abs()).mean()


def in_row(clips: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> (B * T, 3, H, W)."""
    return clips.transpose(1, 2).flatten(0, 1)


def detail(x: Tensor) -> Tensor:
    """(..., H, W) -> a quarter of the Laplacian, (..., H - 2, W - 2)."""
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return around / 4 - x[..., 1:-1, 1:-1]


def blur(made: Tensor, true: Tensor) -> Tensor:
    """(N, 3, H, W): of the details themselves, and of how much of them there is in each neighbourhood. Without the
    second, what cannot be predicted exactly is left out, and the picture is soft."""
    made, true = detail(made), detail(true)
    return l1_loss(made, true) + 4 * l1_loss(avg_pool2d(made.abs(), CELLS), avg_pool2d(true.abs(), CELLS))


class Likeness(nn.Module):
    """How different two clips look to the face probe's first convolutions, as a share of the true one's."""

    def __init__(self, probe: FaceProbe):
        super().__init__()
        self.readers = nn.ModuleList([probe.head[:READ], probe.whole[:READ]]).eval().requires_grad_(False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        made, true = (self.extract_features(in_row(x)) for x in (made, true))
        return sum(l1_loss(a, b) / b.abs().mean() for reader in zip(made, true, strict=True)
                   for a, b in zip(*reader, strict=True)) / 30

    def extract_features(self, pictures: Tensor) -> list[list[Tensor]]:
        """After each of three convolutions of both readers."""
        size = [side * PROBE_SIZE // WORLD_SIZE for side in pictures.shape[-2:]]
        pictures = interpolate(pictures / 2, size, mode="bilinear", antialias=True)
        found = []
        for reader in self.readers:
            x, steps = pictures, []
            for place, layer in enumerate(reader):
                x = layer(x)
                if place % 3 == 2:
                    steps.append(x)
            found.append(steps)
        return found


class Critic(nn.Module):
    """Says of every neighbourhood of 22 pixels whether it was drawn: above 0, or made: below."""

    def __init__(self, widths: tuple[int, ...] = (3, 32, 64, 128)):
        super().__init__()
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(before, width, 4, 2, 1))
                                    for before, width in zip(widths, widths[1:], strict=False))
        self.last = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        for layer in self.layers:
            pictures = leaky_relu(layer(pictures), 0.2)
        return self.last(pictures)


def add_critic_loss(plain: Tensor, made: Tensor, true: Tensor, critic: Critic, last: nn.Parameter,
                    asked: bool) -> Tensor:
    """`plain` loss, the decoder's share of the critic's opinion where it is `asked`, and what the critic learns from
    (hinge); the gradient of neither reaches the other's weights."""
    made, true = in_row(made), in_row(true)
    learnt = relu(1 - critic(true)).mean() + relu(1 + critic(made.detach())).mean()
    if not asked:
        return plain + learnt
    critic.requires_grad_(False)
    opinion = -critic(made).mean()
    critic.requires_grad_(True)
    norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (plain, opinion)]
    return plain + learnt + MOST * min(1.0, float(norms[0] / norms[1].clamp(min=1e-6))) * opinion
