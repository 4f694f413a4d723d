"""Encoders to compare with, of the same weights: SAM's attention as Meta defined it, and Hugging Face transformers'."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from icmoe_monai.networks.attention import Attention, from_windows, relative_table, to_windows
from icmoe_monai.networks.sam import Block, SamImageEncoder
from icmoe_monai.weights.formats import to_hugging_face


class ExplicitAttention(nn.Module):
    """Compute SAM's attention literally: pad before the projection, and add a bias of tokens x tokens.

    Args:
        attention: Our attention, whose weights are used.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.scale = attention.num_heads, attention.window_size, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, h, w, C) to tokens of the same shape."""
        B, h, w = x.shape[:3]
        a, b = (self.window_size,) * 2 if self.window_size else (h, w)
        qkv = self.qkv(to_windows(x, a, b))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 4, 1, 2, 5).flatten(3, 4).unbind(0)
        scores = (self.scale * q) @ k.transpose(-1, -2)
        grid = q.unflatten(2, (a, b))
        of_row = torch.einsum("gnabd,acd->gnabc", grid, relative_table(self.rel_pos_h, a).to(q.dtype))
        of_column = torch.einsum("gnabd,bcd->gnabc", grid, relative_table(self.rel_pos_w, b).to(q.dtype))
        biased = scores.unflatten(3, (a, b)).unflatten(2, (a, b)) + of_row[..., None] + of_column[..., None, :]
        mixed = torch.softmax(biased.flatten(4).flatten(2, 3), dim=-1) @ v
        return self.proj(from_windows(mixed.transpose(1, 2).flatten(2).unflatten(1, (a, b)), B, h, w))


class ExplicitBlock(nn.Module):
    """Compute SAM's block with `ExplicitAttention`, over all tokens at once.

    Args:
        block: Our block, whose weights are used.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attn = ExplicitAttention(block.attn)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, h, w, C) to tokens of the same shape."""
        x = x + self.attn(self.norm1(x))
        return self.mlp(self.norm2(x), x)


def explicit_encoder(encoder: SamImageEncoder) -> SamImageEncoder:
    """Return a copy of an encoder that is made of `ExplicitBlock`."""
    explicit = copy.deepcopy(encoder)
    explicit.blocks = nn.ModuleList(ExplicitBlock(block) for block in explicit.blocks)
    return explicit


class HuggingFaceEncoder(nn.Module):
    """Run transformers' encoder with the weights of ours, for images of one size.

    transformers accepts square images of the size of its tables only: here the position table is resized by our own
    rule, and transformers resizes the relative-position tables itself, as SAM does.

    Args:
        encoder: Our encoder.
        image_size: Height and width of the image in pixels.
        attention: "eager" or "sdpa".
    """

    def __init__(self, encoder: SamImageEncoder, *, image_size: tuple[int, int], attention: str) -> None:
        super().__init__()
        ours = encoder.blocks[0].attn
        config = SamVisionConfig(
            hidden_size=encoder.pos_embed.shape[-1],
            num_hidden_layers=len(encoder.blocks),
            num_attention_heads=ours.num_heads,
            output_channels=encoder.neck[0].out_channels,
            window_size=ours.window_size,
            global_attn_indexes=[i for i, block in enumerate(encoder.blocks) if block.attn.window_size == 0],
            image_size=16 * encoder.pos_embed.shape[1],
            mlp_dim=encoder.blocks[0].mlp.lin1.out_features,
            attn_implementation=attention,
        )
        self.encoder = SamVisionEncoder(config)
        renamed = to_hugging_face(encoder.state_dict())
        self.encoder.load_state_dict({name.removeprefix("vision_encoder."): value for name, value in renamed.items()})
        self.encoder.patch_embed.image_size = image_size
        table, grid = encoder.pos_embed.detach().permute(0, 3, 1, 2), (image_size[0] // 16, image_size[1] // 16)
        if table.shape[2:] != grid:
            table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        self.encoder.pos_embed = nn.Parameter(table.permute(0, 2, 3, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, 3, H, W) to features (B, neck_channels, h, w)."""
        return self.encoder(image)[0]
