"""The foundation encoder: SAM's vision transformer, with windowed and global attention and relative positions.

Written from the description in "Segment Anything" (Kirillov et al., arXiv 2304.02643). Parameter names are those of
Meta's checkpoints, so that official weights load without a key map.

Letters: B batch; H W image; h w = H/16, W/16 token grid; C width; N heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icmoe_monai.errors import InputError
from icmoe_monai.networks.attention import Attention, is_recorded
from icmoe_monai.networks.low_rank import BlockUpdate, add_update
from icmoe_monai.utils.precision import at_least_float32

PATCH_SIZE = 16
NORM_EPS = 1e-6  # added to a variance, as in SAM
MLP_BAND = 16  # rows of tokens that go through an MLP at a time (`bands`)

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
        window_size: Side of the attention windows of the blocks that are not global, in tokens.
        global_blocks: Indices of the blocks that attend over the whole grid.
        neck_channels: Channels of the resulting feature map.

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

        Raises:
            ValueError: If H or W is not a multiple of 16.
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

    def tail(self, tokens: Tensor, start: int, updates: list[BlockUpdate] | None = None) -> Tensor:
        """Run the blocks from `start` on, and the neck.

        Args:
            tokens: Result of `trunk(image, start)`, (B, h, w, C).
            start: Index of the first block that is run.
            updates: An expert's updates, one per block that is run; None for the blocks as they are.

        Returns:
            Feature map, (B, neck_channels, h, w).
        """
        x = tokens
        for i, block in enumerate(self.blocks):
            if i >= start:
                x = block(x, None if updates is None else updates[i - start])
        return self.neck(x.permute(0, 3, 1, 2))


class PatchEmbedding(nn.Module):
    """Patch embedding: cut an image into patches of 16 x 16 pixels and project each to a token.

    Args:
        width: Token channels C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to tokens (B, h, w, C)."""
        # Contiguous: every sum and norm of the blocks would else walk through memory in the convolution's order.
        return self.proj(image).permute(0, 2, 3, 1).contiguous()


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
        self.mlp_band = MLP_BAND
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width=width, num_heads=num_heads, window_size=window_size, table_size=table_size)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width=width, hidden_width=4 * width)

    def forward(self, x: Tensor, update: BlockUpdate | None = None) -> Tensor:
        """Map tokens (B, h, w, C) to tokens of the same shape.

        Args:
            x: Tokens.
            update: An expert's updates of the block's matrices; None for the block as it is.
        """
        x = join([band + self.attn(self.norm1(band), part) for band, part in bands(x, update, self.attn.window_size)])
        return join([self.mlp(self.norm2(band), band, part) for band, part in bands(x, update, self.mlp_band)])


class MLP(nn.Module):
    """Two linear layers with GELU between, and the sum with a residual.

    Args:
        width: Token channels C.
        hidden_width: Channels between the layers.
    """

    def __init__(self, *, width: int, hidden_width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden_width)
        self.lin2 = nn.Linear(hidden_width, width)

    def forward(self, x: Tensor, residual: Tensor, update: BlockUpdate | None = None) -> Tensor:
        """Return residual + W2 gelu(W1 x), each matrix with its update if there is one.

        Args:
            x: Normalised tokens, (..., C).
            residual: The tokens before normalisation, (..., C).
            update: An expert's updates of the two matrices; None adds nothing.

        Returns:
            Tokens, (..., C).
        """
        hidden = self.lin1(x)
        if update is not None:
            hidden = add_update(hidden, x, update.lin1, update.gain)
        hidden = F.gelu(hidden)
        x = residual + self.lin2(hidden)
        return x if update is None else add_update(x, hidden, update.lin2, update.gain)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a map, in float32 or better.

    Args:
        num_channels: Channels C.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = NORM_EPS

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        # Tokens reach a block's norms in float32 under autocast; the result of a convolution does not.
        x = at_least_float32(x).permute(0, 2, 3, 1)
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        normed = F.layer_norm(x, self.weight.shape, weight, bias, self.eps)
        return normed.to(self.weight.dtype).permute(0, 3, 1, 2)


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


def bands(x: Tensor, update: BlockUpdate | None, num_rows: int) -> list[tuple[Tensor, BlockUpdate | None]]:
    """Split tokens and their update into bands of rows where that is faster, else return them whole.

    Bands do not affect each other: no token attends beyond its window, and the MLP maps every token separately. On a
    CPU a band's intermediate results fit the cache and reuse memory just freed, unless a backward pass keeps them.

    Args:
        x: Tokens, (B, h, w, C).
        update: An expert's updates of the block's matrices, or None.
        num_rows: Rows of a band; 0 for no bands, where all tokens attend to each other.

    Returns:
        Bands, (B, rows, w, C), from top to bottom, each with its part of the update.
    """
    rows = [x]
    if num_rows > 0 and x.device.type == "cpu" and not is_recorded(x):
        rows = list(x.split(num_rows, dim=1))
    parts: list[tuple[Tensor, BlockUpdate | None]] = []
    i = 0
    for band in rows:
        j = i + band.shape[1]
        part = update
        if update is not None:
            part = BlockUpdate(update.gain[:, i:j], update.qkv, update.lin1, update.lin2)
        parts.append((band, part))
        i = j
    return parts


def join(parts: list[Tensor]) -> Tensor:
    """Join bands, (B, rows, w, C), from top to bottom into tokens (B, h, w, C)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


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
