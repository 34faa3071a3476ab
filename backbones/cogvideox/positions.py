"""CogVideoX's positions at any time: rotary frequencies, and the table that the 2B and the 5B I2V add to their patches.

Frequencies are float32 whatever the model's dtype. The 2B's table is a formula of sines and goes on beyond its end; the
5B I2V's was trained from it, so it has no row for a time outside.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

from ...techniques.rope import rope_frequencies

PERIOD = 10000.0


def rotary(times: Sequence[float], height: int, width: int, head_dim: int, scale: float, device: torch.device
           ) -> tuple[Tensor, Tensor]:
    """(cosine, sine), each (T*H*W, head_dim) float32, of token frames at `times`. `scale`: tokens per step in a row."""
    axes = head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3
    rows = rope_frequencies(times, height, width, axes, theta=PERIOD, scale=(1.0, scale, scale), device=device)
    cosine, sine = (rows[0, :, 0, :, part, 0].repeat_interleave(2, -1) for part in (0, 1))
    return cosine, sine


def time_row(time: float, width: int, device: torch.device) -> Tensor:
    """(width,) float32: sines of a time, then cosines."""
    frequency = PERIOD ** -(torch.arange(width // 2, dtype=torch.float64, device=device) / (width // 2))
    return torch.cat([(time * frequency).sin(), (time * frequency).cos()]).float()


def table_rows(table: Tensor, times: Sequence[float]) -> Tensor:
    """Rows (T, H*W, C) for `times` of a table (rows, H*W, C): its own, or the formula beyond them.

    Raises ValueError where a time is none of its own and the table was trained.
    """
    parts = []
    for time in times:
        if time == int(time) and 0 <= time < len(table):
            parts.append(table[int(time)])
        else:
            parts.append(beyond(table, time))
    return torch.stack(parts)


def beyond(table: Tensor, time: float) -> Tensor:
    """The row (H*W, C) of a time that the table has not: its first quarter is time's, the rest is the place's."""
    own = table.shape[-1] // 4
    if not is_formula(table, own):
        raise ValueError(f"anchor: it would stand at latent {time:g}, but this CogVideoX learned its positions, which "
                         f"are those of latents 0 to {len(table) - 1} and no others. Shorten the chunk by the "
                         "distance, or place the anchor 'in chunk' or at 'chunk end'")
    row = table[0].clone()
    row[:, :own] = time_row(time, own, table.device).to(row)
    return row


def is_formula(table: Tensor, own: int) -> bool:
    """Whether time's quarter of a table is the sines of its row's number."""
    wanted = torch.stack([time_row(row, own, table.device) for row in range(len(table))])
    return torch.allclose(table[:, 0, :own].float(), wanted, atol=0.02)


def formula_table(width: int, text: int, latents: int, rows: int, columns: int, spread: float) -> Tensor:
    """(1, text + latents*rows*columns, width) float32: zeros for the text, then a quarter for time, and of the rest one
    half for the column, one for the row; `spread` columns or rows are one step."""
    def sines(count: int, part: int, step: float) -> Tensor:
        return torch.stack([time_row(index / step, part, torch.device("cpu")) for index in range(count)])

    time, side = width // 4, width // 8 * 3
    across, down = sines(columns, side, spread), sines(rows, side, spread)
    place = torch.cat([across[None].expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)], 2).flatten(0, 1)
    times = sines(latents, time, 1.0)
    frames = torch.cat([times[:, None].expand(-1, len(place), -1), place[None].expand(latents, -1, -1)], 2)
    return torch.cat([torch.zeros(text, width), frames.flatten(0, 1)])[None]
