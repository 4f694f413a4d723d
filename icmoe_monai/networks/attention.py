"""The attention of SAM's image encoder: in windows or over the whole grid, with decomposed relative positions.

softmax(q.k / sqrt(D) + q.R_row + q.R_col) v is computed in one of two exact forms, neither of which stores a bias of
tokens x tokens:

- folded: with q' = [q / sqrt(D), q.R_row, q.R_col] and k' = [k, onehot(row), onehot(col)] the product q'.k' is the
  whole sum, and PyTorch's fused attention applies, forward and backward, on every device. It multiplies heads of
  D + a + b channels instead of D.
- by rows: the scores of some rows of queries at a time, few enough for the processor's cache. It multiplies heads of D
  channels, so it is the faster one on a CPU where a + b > D (the global blocks of SAM's ViT-B above 512 pixels), but
  keeping its scores for a backward pass would cost the memory that it saves.

Relative positions are decomposed as in MViTv2 (Li et al., arXiv 2112.01526) and "Segment Anything" (Kirillov et al.,
arXiv 2304.02643). Letters: B batch; h w token grid; C width; N heads; D = C/N; G windows; a b rows and columns of a
window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.networks.low_rank import BlockUpdate, add_update


class Attention(nn.Module):
    """Multi-head attention with decomposed relative positions, in windows or over the whole grid.

    Args:
        width: Token channels C.
        num_heads: Attention heads N.
        window_size: Side of the windows in tokens; 0 attends over the whole grid.
        table_size: Side of the grid that the relative-position tables are made for.
    """

    def __init__(self, *, width: int, num_heads: int, window_size: int, table_size: int) -> None:
        super().__init__()
        head_width = width // num_heads
        self.num_heads = num_heads
        self.window_size = window_size
        self.scale = head_width**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_size - 1, head_width))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_size - 1, head_width))

    def forward(self, x: Tensor, update: BlockUpdate | None = None) -> Tensor:
        """Map tokens (B, h, w, C) to tokens of the same shape.

        Args:
            x: Tokens.
            update: An expert's update of queries, keys and values; None adds nothing.
        """
        qkv = self.project(x)
        if update is not None:
            qkv = add_update(qkv, x, update.qkv, update.gain)
        return self.attend(qkv)

    def project(self, x: Tensor) -> Tensor:
        """Map tokens (B, h, w, C) to queries, keys and values without their bias, (B, h, w, 3C)."""
        return F.linear(x, self.qkv.weight)

    def attend(self, qkv: Tensor) -> Tensor:
        """Let every token attend to the tokens of its window.

        The bias of `qkv` is added after the grid is padded to whole windows: in SAM a padding token is the projection
        of zero, which is the bias alone, and it takes part in the attention.

        Args:
            qkv: Result of `project`, plus an expert's update if there is one, (B, h, w, 3C).

        Returns:
            Tokens, (B, h, w, C).
        """
        B, h, w = qkv.shape[0], qkv.shape[1], qkv.shape[2]
        a = self.window_size if self.window_size > 0 else h
        b = self.window_size if self.window_size > 0 else w
        windows = to_windows(qkv, a, b) + self.qkv.bias.to(qkv.dtype)
        q, k, v = windows.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5).unbind(0)  # (G, N, a, b, D)
        row_bias = torch.einsum("gnabd,acd->gnabc", q, relative_table(self.rel_pos_h, a).to(q.dtype))
        column_bias = torch.einsum("gnabd,bcd->gnabc", q, relative_table(self.rel_pos_w, b).to(q.dtype))
        if is_faster_by_rows(q) and not (is_recorded(q) or is_recorded(row_bias) or is_recorded(column_bias)):
            mixed = attend_by_rows(self.scale * q, k, v, row_bias, column_bias)
        else:
            mixed = attend_folded(self.scale * q, k, v, row_bias, column_bias)
        return self.proj(from_windows(mixed.permute(0, 2, 3, 1, 4).flatten(3), B, h, w))


def attend_folded(query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
    """Attend by PyTorch's fused attention, with the bias folded into queries and keys.

    Args:
        query: Scaled queries, (G, N, a, b, D).
        key: Keys, (G, N, a, b, D).
        value: Values, (G, N, a, b, D).
        row_bias: Bias q.R_row of a query's scores with the keys of each row, (G, N, a, b, a).
        column_bias: Bias q.R_col of a query's scores with the keys of each column, (G, N, a, b, b).

    Returns:
        Mixed values, (G, N, a, b, D).
    """
    a, b, D = query.shape[2], query.shape[3], query.shape[4]
    queries = torch.cat([query, row_bias, column_bias], dim=-1).flatten(2, 3)
    keys = torch.cat([key, _one_hot_places(key, a, b)], dim=-1).flatten(2, 3)
    values = F.pad(value, (0, a + b)).flatten(2, 3)  # fused attention wants heads of one width
    mixed = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return mixed[..., :D].unflatten(2, (a, b))


def attend_by_rows(query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
    """Attend head by head, some rows of queries at a time; a backward pass is not supported.

    Arguments and result are those of `attend_folded`.
    """
    a, b, D = query.shape[2], query.shape[3], query.shape[4]
    # Contiguous: as views of one projection, the rows of a head's matrices would lie 3 C numbers apart.
    queries = query.contiguous().flatten(0, 1)
    keys, values = (x.contiguous().flatten(0, 1).flatten(1, 2) for x in (key, value))
    of_row, of_column = row_bias.flatten(0, 1).unsqueeze(-1), column_bias.flatten(0, 1).unsqueeze(-2)
    mixed = torch.empty_like(queries)
    num_rows = max(1, 1048576 // (b * a * b))  # 4 MB of scores in float32, in one buffer that stays in the cache
    buffer = query.new_empty(num_rows, b, a, b)
    for head in range(queries.shape[0]):
        for i in range(0, a, num_rows):
            j = min(i + num_rows, a)
            scores = buffer[: j - i]
            torch.add(of_row[head, i:j], of_column[head, i:j], out=scores)
            scores = scores.view(-1, a * b)
            scores.addmm_(queries[head, i:j].view(-1, D), keys[head].t())
            torch.softmax(scores, dim=-1, out=scores)
            torch.mm(scores, values[head], out=mixed[head, i:j].view(-1, D))
    return mixed.unflatten(0, (query.shape[0], query.shape[1]))


def is_faster_by_rows(query: Tensor) -> bool:
    """Tell whether `attend_by_rows` is faster than `attend_folded` for queries (G, N, a, b, D)."""
    is_full_precision = query.dtype == torch.float32 or query.dtype == torch.float64
    is_wide = query.shape[2] + query.shape[3] > query.shape[4]
    return query.device.type == "cpu" and is_full_precision and is_wide


def is_recorded(x: Tensor) -> bool:
    """Tell whether operations on a tensor are recorded, for autograd or an export, with every pass of a loop."""
    if torch.jit.is_scripting():
        return x.requires_grad
    return x.requires_grad or torch.jit.is_tracing() or torch.compiler.is_compiling()


def relative_table(rel_pos: Tensor, size: int) -> Tensor:
    """Return R[i, j] = rel_pos[i - j], (size, size, D), from a table (L, D) that is resized if L != 2 size - 1."""
    if rel_pos.shape[0] != 2 * size - 1:
        rel_pos = F.interpolate(rel_pos.t().unsqueeze(0), size=2 * size - 1, mode="linear")[0].t()
    place = torch.arange(size, device=rel_pos.device)
    return rel_pos[place[:, None] - place[None, :] + size - 1]


def to_windows(x: Tensor, a: int, b: int) -> Tensor:
    """Cut (B, h, w, C), padded with zeros at the bottom and right, into windows (G, a, b, C)."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % b, 0, -x.shape[1] % a))
    return x.unflatten(2, (-1, b)).unflatten(1, (-1, a)).transpose(2, 3).flatten(0, 2)


def from_windows(windows: Tensor, B: int, h: int, w: int) -> Tensor:
    """Undo `to_windows`: (G, a, b, C) to (B, h, w, C)."""
    a, b = windows.shape[1], windows.shape[2]
    x = windows.unflatten(0, (B, (h + a - 1) // a, (w + b - 1) // b)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :h, :w]


def _one_hot_places(like: Tensor, a: int, b: int) -> Tensor:
    """Return [onehot(row), onehot(column)] of every token, (G, N, a, b, a + b), as a view."""
    rows = torch.eye(a, dtype=like.dtype, device=like.device)[:, None, :].expand(a, b, a)
    columns = torch.eye(b, dtype=like.dtype, device=like.device)[None, :, :].expand(a, b, b)
    return torch.cat([rows, columns], dim=-1).expand(like.shape[0], like.shape[1], a, b, a + b)
