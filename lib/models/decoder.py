"""The decoder of MAE (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners"), thrown away after the training."""
from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lib.errors import CourseError
from lib.models.vit import sincos_positions


class MAEDecoder(nn.Module):
    """A small ViT from the tokens of the visible patches to the pixels of all: (B, 1 + V, encoder_dim) -> (B, N, 3 p^2).

    Tokens are brought to the decoder's width and put back at their places, CLS first; a mask token, one and the same, stands
    at every hidden place. Fixed sin-cos positions say which is which. Pixels come in the order of
    `lib.objectives.masked.patchify`. The names of the weights are the published ones without their "decoder_".
    Initial weights are Xavier-uniform with zero biases; the mask token is normal with a standard deviation of 0.02.
    Raises CourseError if the width is not a multiple of 4 and of the number of heads.
    """

    def __init__(self, grid: tuple[int, int], patch_size: int, encoder_dim: int, dim: int = 512, depth: int = 8,
                 heads: int = 16):
        super().__init__()
        if dim % heads:
            raise CourseError(f"a decoder of width {dim} does not divide into {heads} heads")
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("pos_embed", torch.cat([torch.zeros(1, dim), sincos_positions(grid, dim)])[None])
        self.blocks = nn.ModuleList([Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)])
        self.norm = norm(dim)
        self.pred = nn.Linear(dim, 3 * patch_size**2)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def intermediates(self, tokens: Tensor, visible: Tensor) -> dict[str, Tensor]:
        """Every stop on the way, by name: "input", with positions, "block1", ..., "norm"; each (B, 1 + N, dim).

        tokens (B, 1 + V, encoder_dim) from the encoder, CLS first; visible (B, V) int64: the number in reading order of the
        patch that each other token stands for.
        """
        tokens = self.embed(tokens)                                                # (B, 1 + V, dim)
        cls, seen = tokens[:, :1], tokens[:, 1:]
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), self.pos_embed.shape[1] - 1, -1)      # (B, N, dim)
        patches = hidden.scatter(1, visible[..., None].expand_as(seen), seen)
        tokens = torch.cat([cls, patches], dim=1) + self.pos_embed
        named = {"input": tokens}
        for depth, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            named[f"block{depth}"] = tokens
        return named | {"norm": self.norm(tokens)}

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """-> the pixels of all patches, visible ones too: (B, N, 3 p^2); `tokens` and `visible` as in `intermediates`."""
        return self.pred(self.intermediates(tokens, visible)["norm"][:, 1:])
