"""Masked image modelling: part of the image is hidden, the network sees the rest and says what the hidden pixels were.

SimMIM (Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling") puts a mask token in the place of what it
hides, and one linear layer decodes. MAE (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners") leaves it out:
the encoder sees the visible patches alone, and mask tokens come in with a decoder that is a small ViT.
Mask polarity, everywhere: True is masked.
"""
import math

import torch
from torch import Tensor

from lib import random
from lib.data.views import MAE_VIEW, SIMMIM, ViewRecipe, make_view
from lib.errors import CourseError
from lib.models.decoder import MAEDecoder
from lib.models.heads import PixelDecoder
from lib.models.vit import ViT
from lib.objectives import Objective
from lib.precision import widen


def patchify(images: Tensor, p: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3 p^2), patches in reading order, pixels as row, column, channel."""
    b, c, h, w = images.shape
    return torch.einsum("bcypxq->byxpqc", images.reshape(b, c, h // p, p, w // p, p)).reshape(b, -1, p * p * c)


def unpatchify(patches: Tensor, p: int) -> Tensor:
    """The inverse for square images: (B, N, 3 p^2) -> (B, 3, H, W)."""
    b, n, length = patches.shape
    side, c = math.isqrt(n), length // p**2
    return torch.einsum("byxpqc->bcypxq", patches.reshape(b, side, side, p, p, c)).reshape(b, c, side * p, side * p)


def count_masked(side: int, cell: int, ratio: float) -> int:
    """Patches masked in a grid of side x side patches with cells of cell x cell: ceil(ratio * cells) whole cells."""
    if side % cell:
        raise CourseError(f"a grid of {side} x {side} patches does not divide into cells of {cell} x {cell}")
    if not 0 < ratio < 1:
        raise CourseError(f"the mask ratio must lie between 0 and 1, got {ratio}")
    cells = (side // cell) ** 2
    if math.ceil(ratio * cells) == cells:
        raise CourseError(f"a mask ratio of {ratio} hides all {cells} cells of {cell} x {cell} patches; lower it, or the cells")
    return math.ceil(ratio * cells) * cell**2


def cell_mask(keys: Tensor, side: int, cell: int, ratio: float) -> Tensor:
    """Random masks made of whole cells, one for each key (B,): (B, side^2) bool, True is masked (SimMIM, section 3.2).

    Every image has the same number of masked patches. At 224 px with patches of 16, cells of 2 patches are the paper's
    32-pixel units: 7 x 7 cells, 30 of them masked.
    """
    masked = count_masked(side, cell, ratio) // cell**2
    cells = side // cell
    order = random.uniform(keys, cells**2).argsort(dim=1, stable=True).argsort(1)      # a random rank for every cell
    mask = (order < masked).view(-1, cells, 1, cells, 1)
    return mask.expand(-1, cells, cell, cells, cell).reshape(len(keys), side**2)


class SimMIM(Objective):
    """SimMIM on a ViT with a mask token: l1 distance between masked pixels and what one linear layer says of them."""
    ships = ("decoder",)

    def __init__(self, backbone: ViT, mask_ratio: float = 0.6, mask_cell: int = 2, view: ViewRecipe = SIMMIM):
        super().__init__()
        if backbone.mask_token is None:
            raise CourseError("SimMIM needs a backbone with a mask token: create(..., mask_token=True)")
        self.backbone = backbone
        self.patch_size, self.side = backbone.patch_embed.patch_size[0], backbone.patch_embed.grid_size[0]
        self.decoder = PixelDecoder(backbone.embed_dim, self.patch_size)
        self.masked = count_masked(self.side, mask_cell, mask_ratio)
        self.mask_ratio, self.mask_cell, self.view = mask_ratio, mask_cell, view

    def prepare(self, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W), a random key each (B,) -> {"view": (B, 3, S, S) normalised, "mask": (B, N) bool}."""
        mask = cell_mask(random.combine(keys, "mask"), self.side, self.mask_cell, self.mask_ratio)
        view = make_view(images, self.view, self.backbone.patch_embed.img_size[0], random.combine(keys, 1))
        return {"view": view, "mask": mask.to(view.device, non_blocking=True)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """-> l1 distance on masked pixels in units of ImageNet's standard deviation, a scalar, and no further logs."""
        masked = batch["mask"].byte().argsort(dim=1, descending=True, stable=True)[:, :self.masked, None]   # (B, M, 1)
        tokens = self.backbone.forward_features(batch["view"], batch["mask"])[:, 1:]                    # (B, N, D)
        predicted = self.decoder(tokens.take_along_dim(masked, 1))                                      # (B, M, 3 p^2)
        pixels = patchify(batch["view"], self.patch_size).take_along_dim(masked, 1)
        return (widen(predicted) - pixels).abs().mean(), {}

    @torch.no_grad()
    def reconstruct(self, batch: dict[str, Tensor]) -> Tensor:
        """The view with its masked patches filled in by the network: (B, 3, S, S), normalised."""
        tokens = self.backbone.forward_features(batch["view"], batch["mask"])[:, 1:]
        predicted, pixels = widen(self.decoder(tokens)), patchify(batch["view"], self.patch_size)
        return unpatchify(torch.where(batch["mask"][..., None], predicted, pixels), self.patch_size)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every patch: (B, N, 3 p^2) -> (B, N, 1) each.

    The variance divides by 3 p^2 - 1, and 1e-6 is added to it, so that a patch of one colour has no 0 (MAE).
    """
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()


class MAE(Objective):
    """MAE on a ViT with sin-cos positions: squared error on masked patches, which only the decoder knows of.

    normalize_target: every patch to be predicted has its own mean taken out and is divided by its own standard deviation.
    """
    ships = ("decoder",)

    def __init__(self, backbone: ViT, mask_ratio: float = 0.75, decoder_dim: int = 512, decoder_depth: int = 8,
                 decoder_heads: int = 16, normalize_target: bool = True, view: ViewRecipe = MAE_VIEW):
        super().__init__()
        if backbone.positions != "sincos":
            raise CourseError(f"MAE leaves patches out: its backbone needs positions 'sincos', got {backbone.positions!r}")
        self.backbone = backbone
        self.patch_size, grid = backbone.patch_embed.patch_size[0], backbone.patch_embed.grid_size
        self.decoder = MAEDecoder(grid, self.patch_size, backbone.embed_dim, decoder_dim, decoder_depth, decoder_heads)
        self.side, self.masked = grid[0], count_masked(grid[0], 1, mask_ratio)
        self.mask_ratio, self.normalize_target, self.view = mask_ratio, normalize_target, view

    def prepare(self, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W), a random key each (B,) -> {"view": (B, 3, S, S) normalised, "mask": (B, N) bool}."""
        mask = cell_mask(random.combine(keys, "mask"), self.side, 1, self.mask_ratio)
        view = make_view(images, self.view, self.backbone.patch_embed.img_size[0], random.combine(keys, 1))
        return {"view": view, "mask": mask.to(view.device, non_blocking=True)}

    def split(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the visible and of the masked patches, in reading order: (B, N) bool -> (B, V), (B, M) int64.

        A mask has as many True in every row as those of `prepare`; to count them would be to wait for the GPU.
        """
        if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape[1] != self.side**2:
            raise CourseError(f"a mask is bool (B, {self.side**2}), got {mask.dtype} {tuple(mask.shape)}")
        order = mask.byte().argsort(dim=1, stable=True)                                                 # (B, N)
        return order[:, :-self.masked], order[:, -self.masked:]

    def predict(self, view: Tensor, mask: Tensor) -> Tensor:
        """What the network says of all patches, in the units of its target: (B, N, 3 p^2)."""
        visible, _ = self.split(mask)
        return widen(self.decoder(self.backbone.forward_features(view, visible=visible), visible))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """-> mean squared error on masked patches, a scalar, and no further logs.

        Always to say a patch's mean costs about 1 where targets are normalised; else the unit is ImageNet's variance.
        """
        _, masked = self.split(batch["mask"])
        target = patchify(batch["view"], self.patch_size).take_along_dim(masked[..., None], 1)          # (B, M, 3 p^2)
        if self.normalize_target:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        predicted = self.predict(batch["view"], batch["mask"]).take_along_dim(masked[..., None], 1)
        return (predicted - target).square().mean(), {}

    @torch.no_grad()
    def reconstruct(self, batch: dict[str, Tensor]) -> Tensor:
        """The view with its masked patches filled in by the network: (B, 3, S, S), normalised.

        Where targets are normalised this is a peek at the answer: mean and standard deviation of a masked patch, which the
        network does not say, are the true ones.
        """
        pixels, predicted = patchify(batch["view"], self.patch_size), self.predict(batch["view"], batch["mask"])
        if self.normalize_target:
            mean, std = patch_statistics(pixels)
            predicted = predicted * std + mean
        return unpatchify(torch.where(batch["mask"][..., None], predicted, pixels), self.patch_size)
