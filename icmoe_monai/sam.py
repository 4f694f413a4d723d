"""The foundation encoder: SAM's ViT with windowed and global attention and decomposed relative positions.

Written from the description in "Segment Anything" (Kirillov et al., arXiv 2304.02643) and of decomposed relative
positions in MViTv2 (Li et al., arXiv 2112.01526). Parameter names are those of Meta's checkpoints, so that official
weights load without a key map.

Letters: B batch; H W image; h w = H/16, W/16 token grid; C width; N heads; D = C/N; G windows; a b rows and columns of
a window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.errors import InputError

PATCH_SIZE = 16

# Meta's three sizes ("Segment Anything", and the published checkpoints' shapes), and a small one of our own.
BACKBONES: dict[str, dict] = {
    "vit_t": {
        "image_size": 256, "width": 192, "depth": 8, "num_heads": 3, "window_size": 8,
        "global_blocks": (1, 3, 5, 7), "neck_channels": 128,
    },
    "vit_b": {
        "image_size": 1024, "width": 768, "depth": 12, "num_heads": 12, "window_size": 14,
        "global_blocks": (2, 5, 8, 11), "neck_channels": 256,
    },
    "vit_l": {
        "image_size": 1024, "width": 1024, "depth": 24, "num_heads": 16, "window_size": 14,
        "global_blocks": (5, 11, 17, 23), "neck_channels": 256,
    },
    "vit_h": {
        "image_size": 1024, "width": 1280, "depth": 32, "num_heads": 16, "window_size": 14,
        "global_blocks": (7, 15, 23, 31), "neck_channels": 256,
    },
}  # fmt: skip


class SamImageEncoder(nn.Module):
    """SAM's image encoder at any image size that is a multiple of 16.

    The position table is interpolated when the token grid differs from the one it was made for, and so are the
    relative-position tables of the global blocks.

    Args:
        image_size: Side of the square image that the position tables are made for, in pixels.
        width: Token channels C.
        depth: Number of blocks.
        num_heads: Attention heads N of each block.
        window_size: Side of the attention windows of the other blocks, in tokens.
        global_blocks: Indices of the blocks that attend over the whole grid.
        neck_channels: Channels of the result.

    Example:
        >>> encoder = SamImageEncoder(image_size=64, width=32, depth=2, num_heads=2, window_size=2,
        ...                           global_blocks=(1,), neck_channels=8)
        >>> encoder(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 8, 4, 6])
    """

    def __init__(
        self,
        *,
        image_size: int,
        width: int,
        depth: int,
        num_heads: int,
        window_size: int,
        global_blocks: tuple[int, ...],
        neck_channels: int,
    ) -> None:
        super().__init__()
        self.patch_size = PATCH_SIZE
        grid = image_size // PATCH_SIZE
        self.patch_embed = PatchEmbedding(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, width))
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                num_heads=num_heads,
                window_size=0 if i in global_blocks else window_size,
                table_size=grid if i in global_blocks else window_size,
            )
            for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, neck_channels, 1, bias=False),
            LayerNorm2d(neck_channels),
            nn.Conv2d(neck_channels, neck_channels, 3, padding=1, bias=False),
            LayerNorm2d(neck_channels),
        )
        _initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Encode an image.

        Args:
            image: Normalised RGB, (B, 3, H, W), H and W multiples of 16.

        Returns:
            Feature map, (B, neck_channels, h, w).

        Raises:
            ValueError: If H or W is not a multiple of 16.
        """
        return self.tail(self.trunk(image, len(self.blocks)), len(self.blocks))

    def trunk(self, image: Tensor, stop: int) -> Tensor:
        """Run the patch embedding and the blocks before `stop`.

        Args:
            image: Normalised RGB, (B, 3, H, W).
            stop: Index of the first block that is not run.

        Returns:
            Tokens t, (B, h, w, C).
        """
        H, W = image.shape[-2], image.shape[-1]
        patch = self.patch_size
        if H % patch != 0 or W % patch != 0:
            raise ValueError(
                f"Image height and width must be multiples of {patch}, got (H, W) = ({H}, {W}): pad to "
                f"({H + -H % patch}, {W + -W % patch})."
            )
        x = self.patch_embed(image)
        x = x + _resize_grid(self.pos_embed, x.shape[1], x.shape[2])
        for i, block in enumerate(self.blocks):
            if i < stop:
                x = block(x)
        return x

    def tail(self, tokens: Tensor, start: int) -> Tensor:
        """Run the blocks from `start` on, and the neck.

        Args:
            tokens: Result of `trunk(image, start)`, (B, h, w, C).
            start: Index of the first block that is run.

        Returns:
            Feature map, (B, neck_channels, h, w).
        """
        x = tokens
        for i, block in enumerate(self.blocks):
            if i >= start:
                x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class PatchEmbedding(nn.Module):
    """Cut an image into 16x16 patches and project each.

    Args:
        width: Token channels C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to tokens (B, h, w, C)."""
        return self.proj(image).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm transformer block on a token grid.

    Args:
        width: Token channels C.
        num_heads: Attention heads N.
        window_size: Side of the attention windows in tokens; 0 attends over the whole grid.
        table_size: Side of the grid that the relative-position tables are made for.
    """

    def __init__(self, *, width: int, num_heads: int, window_size: int, table_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width=width, num_heads=num_heads, window_size=window_size, table_size=table_size)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width=width, hidden_width=4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, h, w, C) to tokens of the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MLP(nn.Module):
    """Two linear layers with GELU.

    Args:
        width: Token channels C.
        hidden_width: Channels between the layers.
    """

    def __init__(self, *, width: int, hidden_width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden_width)
        self.lin2 = nn.Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.lin2(F.gelu(self.lin1(x)))


class Attention(nn.Module):
    """Multi-head attention with decomposed relative positions, in windows or over the whole grid.

    softmax(scale q.k + q.R_row + q.R_col) v needs no bias of size tokens x tokens: with
    q' = [scale q, q.R_row, q.R_col] and k' = [k, onehot(row), onehot(col)] the product q'.k' is that sum, and PyTorch's
    fused attention applies.

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

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, h, w, C) to tokens of the same shape."""
        return self.attend(self.project(x))

    def project(self, x: Tensor) -> Tensor:
        """Map tokens (B, h, w, C) to queries, keys and values without their bias, (B, h, w, 3C)."""
        return F.linear(x, self.qkv.weight)

    def attend(self, qkv: Tensor) -> Tensor:
        """Let every token attend to its window.

        The bias of `qkv` is added after the grid is padded to whole windows: in SAM a padding token is the image of
        zero, which is the bias alone, and it takes part in the attention.

        Args:
            qkv: Result of `project`, plus an expert's update of it if any, (B, h, w, 3C).

        Returns:
            Tokens, (B, h, w, C).
        """
        B, h, w = qkv.shape[0], qkv.shape[1], qkv.shape[2]
        a = self.window_size if self.window_size > 0 else h
        b = self.window_size if self.window_size > 0 else w
        windows = _to_windows(qkv, a, b) + self.qkv.bias.to(qkv.dtype)
        q, k, v = windows.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5).unbind(0)  # (G, N, a, b, D)
        rows = _relative_table(self.rel_pos_h, a).to(q.dtype)
        columns = _relative_table(self.rel_pos_w, b).to(q.dtype)
        query = torch.cat(
            [
                self.scale * q,
                torch.einsum("gnabd,acd->gnabc", q, rows),
                torch.einsum("gnabd,bcd->gnabc", q, columns),
            ],
            dim=-1,
        )
        key = torch.cat([k, _one_hot_places(k, a, b)], dim=-1)
        mixed = F.scaled_dot_product_attention(
            query.flatten(2, 3), key.flatten(2, 3), F.pad(v, (0, a + b)).flatten(2, 3), scale=1.0
        )
        mixed = mixed[..., : v.shape[-1]].transpose(1, 2).flatten(2)  # (G, a*b, C)
        return self.proj(_from_windows(mixed.unflatten(1, (a, b)), B, h, w))


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a map.

    Args:
        num_channels: Channels C.
        eps: Added to the variance.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def build_sam_encoder(backbone: str) -> SamImageEncoder:
    """Build an encoder with fresh weights.

    Args:
        backbone: One of `BACKBONES`: "vit_t", "vit_b", "vit_l", "vit_h".

    Raises:
        InputError: If the name is unknown.
    """
    if backbone not in BACKBONES:
        raise InputError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}.")
    return SamImageEncoder(**BACKBONES[backbone])


def _initialise(encoder: SamImageEncoder) -> None:
    """Draw the weights as vision transformers are usually started (normal, 0.02), for training from scratch."""
    for module in encoder.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)


def _resize_grid(table: Tensor, h: int, w: int) -> Tensor:
    """Interpolate a position table (1, s, s, C) to (1, h, w, C)."""
    if table.shape[1] == h and table.shape[2] == w:
        return table
    resized = F.interpolate(table.permute(0, 3, 1, 2), size=(h, w), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


def _relative_table(rel_pos: Tensor, size: int) -> Tensor:
    """Return R[i, j] = rel_pos[i - j], (size, size, D), from a table (L, D) that is resized if L != 2 size - 1."""
    if rel_pos.shape[0] != 2 * size - 1:
        rel_pos = F.interpolate(rel_pos.t().unsqueeze(0), size=2 * size - 1, mode="linear")[0].t()
    place = torch.arange(size, device=rel_pos.device)
    return rel_pos[place[:, None] - place[None, :] + size - 1]


def _one_hot_places(like: Tensor, a: int, b: int) -> Tensor:
    """Return [onehot(row), onehot(column)] of every token, (G, N, a, b, a + b), as a view."""
    rows = torch.eye(a, dtype=like.dtype, device=like.device)[:, None, :].expand(a, b, a)
    columns = torch.eye(b, dtype=like.dtype, device=like.device)[None, :, :].expand(a, b, b)
    return torch.cat([rows, columns], dim=-1).expand(like.shape[0], like.shape[1], a, b, a + b)


def _to_windows(x: Tensor, a: int, b: int) -> Tensor:
    """Cut (B, h, w, C), padded with zeros at the bottom and right, into windows (G, a, b, C)."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % b, 0, -x.shape[1] % a))
    return x.unflatten(2, (-1, b)).unflatten(1, (-1, a)).transpose(2, 3).flatten(0, 2)


def _from_windows(windows: Tensor, B: int, h: int, w: int) -> Tensor:
    """Undo `_to_windows`: (G, a, b, C) to (B, h, w, C)."""
    a, b = windows.shape[1], windows.shape[2]
    x = windows.unflatten(0, (B, (h + a - 1) // a, (w + b - 1) // b)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :h, :w]
