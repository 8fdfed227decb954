"""The Vision Transformer of the course: timm's, with what self-supervision needs (Dosovitskiy et al. 2021).

What it adds to `timm.models.VisionTransformer`: a mask token (SimMIM, section 3.1), fixed sin-cos positions with a patch
projection that may stay frozen (MoCo v3) beside learned ones (ViT, DeiT, DINO), a shared relative position bias (SimMIM on
ViT, after BEiT), and named intermediates. The names of the weights are timm's, so whatever reads a timm ViT reads this one.
"""
import math

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lib.errors import CourseError

# name: (dim, depth, heads). `vit_nano` is for seconds on a CPU, `vit_micro` for minutes, `vit_thin` and `vit_slim` as deep as
# the papers' for hours. From `vit_small` on these are the
# sizes of the papers: MoCo v3, Table 1 (its ViT-S has 12 heads, not DeiT's 6), ViT, Table 1. `vit_tiny` has DeiT-Ti's width
# and depth with heads as wide as MoCo v3's ViT-S (32 numbers each), so that there are 6 to compare. `vit_huge` has patches of
# 14 pixels in the papers; a patch size is no part of a size here.
SIZES = {
    "vit_nano": (48, 3, 3),
    "vit_micro": (96, 6, 3),
    "vit_thin": (48, 12, 6),
    "vit_slim": (96, 12, 6),
    "vit_tiny": (192, 12, 6),
    "vit_small": (384, 12, 12),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}
POSITIONS = ("sincos", "relative", "learned")
INITS = ("xavier", "truncated", "normal")


def sincos_positions(grid: tuple[int, int], dim: int, temperature: float = 10_000.0) -> Tensor:
    """Fixed 2-D sine-cosine position embedding: (rows * columns, dim) (MoCo v3).

    The first half of the channels encodes the column, the second the row (the layout of MAE; MoCo v3's table is its
    transpose). Each half holds sines, then cosines, of the position divided by temperature^(k / (dim / 4)).
    Raises CourseError where dim is not a multiple of 4.
    """
    if dim % 4:
        raise CourseError(f"sin-cos positions need a width that is a multiple of 4, got {dim}")
    frequencies = temperature ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [position.flatten()[:, None] * frequencies for position in (column, row)]           # (N, dim / 4) each
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def relative_index(grid: tuple[int, int]) -> Tensor:
    """Row of the bias table for every query and key, CLS first: (1 + N, 1 + N) int64 (BEiT).

    Two patches share an entry when they are displaced alike: (2 rows - 1)(2 columns - 1) entries, then three more for
    CLS to patch, patch to CLS, and CLS to CLS.
    """
    rows, columns = grid
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))                       # (N, 2)
    offset = place[:, None] - place[None] + torch.tensor([rows - 1, columns - 1])                  # (N, N, 2), from 0
    last = (2 * rows - 1) * (2 * columns - 1)
    index = torch.empty(1 + len(place), 1 + len(place), dtype=torch.int64)
    index[1:, 1:] = offset[..., 0] * (2 * columns - 1) + offset[..., 1]
    index[0, :], index[:, 0], index[0, 0] = last, last + 1, last + 2
    return index


class ViT(VisionTransformer):
    """A Vision Transformer whose patches can be masked.

    Images (B, 3, image_size, image_size) -> tokens (B, 1 + N, dim), CLS first, after the final LayerNorm.
    positions: "sincos" (fixed), "learned" (a vector for each place and for CLS), or "relative" (one learned bias for each
    displacement and head, shared by all blocks). Set `any_size` to take images of other sizes too, with the positions
    resampled (DINO's small crops).
    """

    def __init__(self, image_size: int = 224, patch_size: int = 16, dim: int = 768, depth: int = 12, heads: int = 12,
                 positions: str = "sincos", layer_scale: float | None = None, drop_path: float = 0.0,
                 mask_token: bool = False):
        if positions not in POSITIONS:
            raise CourseError(f"a ViT has no positions {positions!r}; choose one of {', '.join(POSITIONS)}")
        if image_size % patch_size:
            raise CourseError(f"images of {image_size} pixels do not divide into patches of {patch_size}; "
                              f"try {max(image_size // patch_size, 1) * patch_size} pixels")
        if dim % heads:
            raise CourseError(f"a width of {dim} does not divide into {heads} heads")
        super().__init__(img_size=image_size, patch_size=patch_size, embed_dim=dim, depth=depth, num_heads=heads,
                         num_classes=0, init_values=layer_scale, drop_path_rate=drop_path,
                         pos_embed="none" if positions == "relative" else "learn")
        grid = self.patch_embed.grid_size
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if mask_token else None
        if positions == "sincos":
            self.pos_embed.requires_grad_(False)
            self.pos_embed.data = torch.cat([torch.zeros(1, dim), sincos_positions(grid, dim)])[None]
        elif positions == "learned":
            nn.init.trunc_normal_(self.pos_embed, std=0.02)                        # (1, 1 + N, dim)
        else:
            self.bias_table = nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))
            self.register_buffer("bias_index", relative_index(grid), persistent=False)
        self.positions, self.any_size = positions, False

    def relative_bias(self) -> Tensor | None:
        """What is added to the attention logits of every block: (1, heads, 1 + N, 1 + N), or None.

        Its rows lie in one piece in memory, or CUDA's fused attention would refuse it and the slow one would take its place.
        """
        if self.positions != "relative":
            return None
        return self.bias_table[self.bias_index].permute(2, 0, 1)[None].contiguous()

    def embed(self, images: Tensor, mask: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """Images -> tokens (B, 1 + N, D) before the first block.

        mask (B, N), True is masked: those patches become mask tokens. visible (B, V) int64: only these patches, by their
        number in reading order, go in, and tokens are (B, 1 + V, D).
        """
        size, p = self.patch_embed.img_size, self.patch_embed.patch_size[0]
        fits = images.shape[2:] == size or (self.any_size and not any(n % p for n in images.shape[2:]))
        if images.ndim != 4 or images.shape[1] != 3 or not fits or not images.is_floating_point():
            raise CourseError(f"this ViT takes normalised float images (B, 3, {size[0]}, {size[1]}), got {images.dtype} "
                              f"{tuple(images.shape)}; lib.data.views.normalize makes them from uint8")
        tokens = self.patch_embed.proj(images)                                     # (B, D, rows, columns)
        grid, tokens = tokens.shape[2:], tokens.flatten(2).mT                      # (B, N, D)
        if mask is not None:
            if self.mask_token is None or mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
                raise CourseError(f"a mask is bool {tuple(tokens.shape[:2])} and needs create(..., mask_token=True), got "
                                  f"{mask.dtype} {tuple(mask.shape)}")
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        cls = self.cls_token.expand(len(tokens), -1, -1)
        if self.positions != "relative":
            places = self.pos_embed if grid == self.patch_embed.grid_size else \
                resample_abs_pos_embed(self.pos_embed, list(grid), num_prefix_tokens=1)
            cls, tokens = cls + places[:, :1], tokens + places[:, 1:]
        if visible is not None:
            if self.positions == "relative":
                raise CourseError("a ViT with relative positions sees all patches; MAE needs positions='sincos'")
            tokens = tokens.take_along_dim(visible[..., None], 1)                  # (B, V, D)
        return torch.cat([cls, tokens], dim=1)                                     # (B, 1 + N or V, D)

    def forward_features(self, images: Tensor, mask: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """-> tokens (B, 1 + N, D) after the final LayerNorm; `mask` and `visible` as in `embed`."""
        tokens, bias = self.embed(images, mask, visible), self.relative_bias()
        for block in self.blocks:
            tokens = block(tokens, attn_mask=bias)
        return self.norm(tokens)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """-> the CLS token after the final LayerNorm: (B, D)."""
        return self.forward_head(self.forward_features(images, mask))

    def intermediates(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Every stop on the way, by name: "embedding", "block1.attention", "block1", ..., "norm"; each (B, 1 + N, D).

        "block3.attention" is the residual stream after the attention half of block 3, "block3" after its MLP.
        """
        tokens, bias = self.embed(images, mask), self.relative_bias()
        named = {"embedding": tokens}
        for depth, block in enumerate(self.blocks, start=1):
            tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens), attn_mask=bias)))
            named[f"block{depth}.attention"] = tokens
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
            named[f"block{depth}"] = tokens
        return named | {"norm": self.norm(tokens)}


def create(name: str, heads: int = 0, **options) -> ViT:
    """A ViT by its name in SIZES: `create("vit_tiny", image_size=64, patch_size=8)`. Raises CourseError if unknown.

    heads: 0 for those of the size; `create("vit_small", heads=6)` is the ViT-S of DeiT and DINO.
    """
    if name not in SIZES:
        raise CourseError(f"there is no model {name!r}; choose one of {', '.join(SIZES)}")
    dim, depth, usual = SIZES[name]
    return ViT(dim=dim, depth=depth, heads=heads or usual, **options)


@torch.no_grad()
def init_xavier(vit: ViT) -> ViT:
    """Initial weights of MoCo v3: Xavier-uniform, with q, k and v seen as matrices of their own; CLS almost 0."""
    for name, module in vit.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith("qkv"):
                bound = math.sqrt(6 / (module.in_features + module.out_features // 3))
                nn.init.uniform_(module.weight, -bound, bound)
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    projection = vit.patch_embed.proj
    bound = math.sqrt(6 / (projection.weight[0].numel() + projection.out_channels))
    nn.init.uniform_(projection.weight, -bound, bound)
    nn.init.zeros_(projection.bias)
    nn.init.normal_(vit.cls_token, std=1e-6)
    return _init_mask_token(vit)


@torch.no_grad()
def init_truncated(vit: ViT) -> ViT:
    """Initial weights of SimMIM and BEiT: normal 0.02, cut off at 0.02, what a block adds divided by sqrt(2 depth).

    Cut off so near, what is left has a standard deviation of 0.0108.
    """
    def draw(x: Tensor) -> None:
        nn.init.trunc_normal_(x, std=0.02, a=-0.02, b=0.02)

    for module in vit.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            draw(module.weight)
            nn.init.zeros_(module.bias)
    for depth, block in enumerate(vit.blocks, start=1):
        block.attn.proj.weight /= math.sqrt(2 * depth)
        block.mlp.fc2.weight /= math.sqrt(2 * depth)
    draw(vit.cls_token)
    if vit.mask_token is not None:
        draw(vit.mask_token)
    return vit


@torch.no_grad()
def init_normal(vit: ViT) -> ViT:
    """Initial weights of DINO and DeiT: truncated normal 0.02 at every depth; the patch projection as PyTorch draws it."""
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    vit.patch_embed.proj.reset_parameters()
    nn.init.trunc_normal_(vit.cls_token, std=0.02)
    return _init_mask_token(vit)


def _init_mask_token(vit: ViT) -> ViT:
    if vit.mask_token is not None:
        nn.init.trunc_normal_(vit.mask_token, std=0.02)
    return vit
