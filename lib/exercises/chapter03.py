"""Checks of chapter 03, masked image modelling."""
import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lib.errors import CourseError
from lib.exercises import check, compare, number


@check
def check_hidden_share(hidden_share) -> str:
    """hidden_share(pixels, patch_size, cell, ratio) -> a number from 0 to 1."""
    for pixels, patch_size, cell, ratio in ((64, 8, 2, 0.6), (224, 16, 2, 0.6), (96, 8, 3, 0.5)):
        side = pixels // patch_size
        cells, patches = (side // cell) ** 2, side**2
        right = math.ceil(ratio * cells) / cells
        mistakes = {
            "The number of masked cells is a whole number: round up.": ratio,
            "Round up, not to the nearest.": round(ratio * cells) / cells,         # right for 64 pixels, so it stands
            "Round up, not down.": math.floor(ratio * cells) / cells,              # before this one, wrong for both
            "What is whole already stays as it is: round up with math.ceil.": (math.floor(ratio * cells) + 1) / cells,
            "Whole cells are masked, not single patches: a cell is cell x cell patches.": math.ceil(ratio * patches) / patches,
            "There are as many cells along y as along x: square it.": math.ceil(ratio * side / cell) / (side / cell),
            "That is the number of masked cells; divide it by the number of all cells.": math.ceil(ratio * cells),
            "That is the share that stays visible.": 1 - right,
        }
        got = hidden_share(pixels, patch_size, cell, ratio)
        try:
            got = float(got)
        except (TypeError, ValueError, RuntimeError):
            raise CourseError(f"a number was expected, and a {type(got).__name__} came. Is the return missing?") from None
        if not math.isclose(got, right, rel_tol=1e-5):
            hint = next((text for text, wrong in mistakes.items() if math.isclose(got, wrong, rel_tol=1e-5)), "")
            raise CourseError(f"for {pixels} pixels, patches of {patch_size}, cells of {cell} and a ratio of {ratio}, "
                              f"{right:.4f} was expected, and {got:.4f} came. {hint}")
    return "61 % of an image of 224 pixels, though the ratio is 0.6."


@check
def check_normalize_patches(normalize_patches) -> str:
    """normalize_patches(patches (B, N, 3 p²)) -> the same shape."""
    patches = torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(0)).double() * 0.01
    patches[0, 0] = 0.25                                                           # a patch of equal numbers
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    centred, biased = patches - mean, patches.var(-1, keepdim=True, correction=0)
    right = centred / (variance + 1e-6).sqrt()
    over_all = (patches - patches.mean()) / (patches.var() + 1e-6).sqrt()
    mistakes = {
        "The variance is the unbiased one: divide by 3p² - 1.": centred / (biased + 1e-6).sqrt(),
        "The 1e-6 stands inside the root.": centred / (variance.sqrt() + 1e-6),
        "Divide by the root of the variance, not by the variance.": centred / (variance + 1e-6),
        "The mean of the patch is not taken out.": patches / (variance + 1e-6).sqrt(),
        "Each patch has its own mean and variance; you take those of all patches together.": over_all,
        "Mean and variance run over the numbers of a patch (the last axis), not over the patches.":
            (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True) + 1e-6).sqrt(),
        "Each patch has its own mean and variance; you take those of each image.":
            (patches - patches.mean((1, 2), keepdim=True)) / (patches.var((1, 2), keepdim=True) + 1e-6).sqrt(),
        "You take the mean out, and do not divide by the deviation.": centred,
    }
    got = normalize_patches(patches.clone())
    if isinstance(got, torch.Tensor) and not got.isfinite().all():
        raise CourseError("for a patch of equal numbers, zeros were expected, and nan came. Add 1e-6 to the variance "
                          "before you take the root")
    compare(got, right, mistakes, "For faint patches, one of equal numbers")
    return "A patch of equal numbers becomes zeros, and no patch counts more for its contrast."


def _noise() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, N, D) and noise (B, N), in an order that no mistake below gets by chance."""
    tokens = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    return tokens, torch.tensor([[0.2, 0.4, 0.6, 0.1, 0.5, 0.3], [0.3, 0.5, 0.2, 0.6, 0.4, 0.1]])


@check
def check_keep_visible(keep_visible) -> str:
    """keep_visible(tokens (B, N, D), noise (B, N), keep) -> visible (B, keep, D), mask (B, N) bool."""
    tokens, noise = _noise()
    order = noise.argsort(1)
    visible = tokens.take_along_dim(order[:, :2, None], 1)
    mask = torch.ones(2, 6, dtype=torch.bool).scatter(1, order[:, :2], False)
    got = keep_visible(tokens.clone(), noise.clone(), 2)
    if not (isinstance(got, tuple | list) and len(got) == 2):
        raise CourseError(f"two results were expected, the visible tokens and the mask, and a {type(got).__name__} came. "
                          "Is the return missing, or one of the two?")
    compare(got[0], visible, {
        "These are the largest numbers; keep the smallest.": tokens.take_along_dim(order[:, -2:, None], 1),
        "These are the largest numbers, first the largest; keep the smallest.":
            tokens.take_along_dim(order.flip(1)[:, :2, None], 1),
        "They are the right ones, in the order of the image; the order of their noise was asked for.":
            tokens.take_along_dim(order[:, :2].sort(1).values[..., None], 1),
        "You keep the first patches of every image: the noise is not used.": tokens[:, :2],
        "You took ranks for places: argsort once gives the places in order, twice gives the ranks.":
            tokens.take_along_dim(order.argsort(1)[:, :2, None], 1),
        "All images share the choice of the first one; each image has noise of its own.":
            tokens.take_along_dim(order[:1, :2, None].expand(2, -1, -1), 1),
        "This is the mask; the visible tokens come first.": mask,
    }, "For 6 tokens of which 2 are kept")
    if not isinstance(got[1], torch.Tensor) or got[1].dtype != torch.bool:
        came = f"one of {got[1].dtype}" if isinstance(got[1], torch.Tensor) else f"a {type(got[1]).__name__}"
        raise CourseError(f"the mask should be a tensor of bool, True is masked, and {came} came")
    compare(got[1].double(), mask.double(), {
        "The polarity is the other way round: True is masked.": (~mask).double(),
        "The mask is in the order of the noise; it belongs in the order of the image.":
            (torch.arange(6) >= 2).expand(2, 6).double(),
        "You compare places with `keep`; compare ranks: argsort once gives the places in order, twice gives the ranks.":
            (order >= 2).double(),
    }, "For the mask, where 1 is masked")
    return "Two tokens of each image stay, and the mask says which are gone."


@check
def check_put_back(put_back) -> str:
    """put_back(visible (B, keep, D), noise (B, N), mask_token (D,)) -> (B, N, D)."""
    tokens, noise = _noise()
    order, token = noise.argsort(1), torch.full((4,), 7.0)
    visible = tokens.take_along_dim(order[:, :2, None], 1)
    mask = torch.ones(2, 6, dtype=torch.bool).scatter(1, order[:, :2], False)
    everything = torch.cat([visible, token.expand(2, 4, 4)], 1)
    compare(put_back(visible.clone(), noise.clone(), token.clone()), torch.where(mask[..., None], token, tokens), {
        "The tokens stand at the front, in the order of the noise; undo the sort.": everything,
        "You sorted once more instead of undoing it: the inverse of a permutation is its argsort.":
            everything.take_along_dim(order[..., None], 1),
        "The mask tokens were put first; the visible ones have the smallest noise.":
            torch.cat([token.expand(2, 4, 4), visible], 1).take_along_dim(order.argsort(1)[..., None], 1),
        "Hidden places hold zeros; they should hold the mask token.": torch.where(mask[..., None], 0.0, tokens),
    }, "For 2 visible tokens of 6")
    return "Every visible token is at its own place again."


@check
def check_mae_loss(mae_loss) -> str:
    """mae_loss(patches (B, N, 3 p²), noise (B, N), keep, parts) -> a number; parts as `_mae_parts` makes them."""
    generator = torch.Generator().manual_seed(0)
    patches, noise = (torch.rand(size, generator=generator) for size in ((3, 9, 12), (3, 9)))
    parts, keep, given = _mae_parts(), 3, "For 3 images of 9 patches, of which 3 are seen"
    right = _mae(patches, noise, keep, parts)
    mistakes = {
        "The loss counts hidden patches alone; yours counts the visible ones too.": dict(count="all"),
        "You count the visible patches, the network has seen those.": dict(count="visible"),
        "You compare places with `keep`; compare ranks: argsort once gives the places in order, twice gives the ranks.":
            dict(count="places"),
        "You count the last patches of the image, whatever was hidden.": dict(count="last"),
        "The target is the patch normalised by itself, not its plain pixels.": dict(normalised=False),
        "The error is squared; you take its size.": dict(power=1),
        "The encoder sees the visible patches alone; yours sees all.": dict(sees_all=True),
        "The patches with the smallest noise stay; you keep the largest.": dict(turn=-1),
        "Positions come before patches are hidden: a visible patch keeps the position of its own place.":
            dict(positions="late"),
        "The encoder does not know where its patches are: add the positions.": dict(positions="none"),
        "The decoder does not know where anything is: add the decoder's positions to all tokens.": dict(second=False),
        "The visible tokens are not back in their places when the decoder's positions are added.": dict(back=False),
        "You add up the squared errors of a patch; take their mean.": dict(total=True),
        "Six of nine patches are hidden; you divide by nine.": dict(over_all=True),
        "keep patches stay; you hide as many and keep the rest.": dict(swapped=True),
        "Tokens are put back by the inverse of the order, its argsort; you used the order itself.": dict(inverse=False),
        "At the hidden places stands the mask token; yours are 0.": dict(masked=False),
        "Each patch is normalised by its own mean and variance, not by those of all.": dict(normalised="all"),
        "Divide by the root of the variance, not by the variance.": dict(root=False),
        "The variance is missing: divide by its root.": dict(normalised="mean"),
    }
    wrong = {text: _mae(patches, noise, keep, parts, **options) for text, options in mistakes.items()}
    with torch.enable_grad():
        got = number(mae_loss(patches.clone(), noise.clone(), keep, parts), given)
    if got.isnan().any():
        raise CourseError("the loss is nan, which is what the mean over no patch gives. Is any patch counted?")
    compare(got.detach(), right, wrong, given)
    if not got.requires_grad:
        raise CourseError("the number is right, and nothing could be trained by it: it does not know where it came from. Give "
                          "back the tensor itself, without .item(), .detach() or no_grad")
    learns = {"embed": parts.embed.weight, "encoder": parts.encoder.own.weight, "to_decoder": parts.to_decoder.weight,
              "decoder": parts.decoder.own.weight}
    for name, gradient in zip(learns, torch.autograd.grad(got, list(learns.values()), allow_unused=True)):
        if gradient is None or not gradient.any():
            raise CourseError(f"the number is right, and no gradient reaches `{name}`. Is a tensor detached on the way, or "
                              "made under no_grad?")
    return "This is MAE: with 12 blocks for the encoder, 8 for the decoder and a CLS token it is the published one."


def _mae_parts() -> SimpleNamespace:
    """Small parts of an MAE for patches of 12 numbers, 9 an image; encoder and decoder let tokens see each other."""
    class Mixer(nn.Module):
        def __init__(self, width: int, out: int):
            super().__init__()
            self.own, self.others = nn.Linear(width, out), nn.Linear(width, out)

        def forward(self, x: Tensor) -> Tensor:
            return self.own(x).tanh() + self.others(x).tanh().mean(1, keepdim=True)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SimpleNamespace(
            embed=nn.Linear(12, 8), positions=torch.randn(9, 8), encoder=Mixer(8, 8), to_decoder=nn.Linear(8, 6),
            mask_token=torch.randn(6), decoder_positions=torch.randn(9, 6), decoder=Mixer(6, 12))


def _mae(patches: Tensor, noise: Tensor, keep: int, parts: SimpleNamespace, *, count="hidden", normalised=True, power=2,
         sees_all=False, turn=1, positions="early", second=True, back=True, total=False, over_all=False, swapped=False,
         inverse=True, masked=True, root=True) -> Tensor:
    """The loss, image by image; each option makes a mistake."""
    losses, keep = [], noise.shape[1] - keep if swapped else keep
    for x, order in zip(patches, (turn * noise).argsort(dim=1)):                   # (N, 3 p²) and (N,)
        seen, hidden = order[:keep], order[keep:]
        tokens = parts.embed(x) + (parts.positions if positions == "early" else 0)
        visible = tokens[order if sees_all else seen] + (parts.positions[:keep] if positions == "late" else 0)
        latent = parts.encoder(visible[None])[0][:keep]
        shuffled = parts.mask_token.repeat(len(x), 1) * masked                     # (N, E), in the order of the noise
        shuffled[:keep] = parts.to_decoder(latent)
        everything = shuffled[order.argsort() if inverse else order] if back else shuffled
        drawn = parts.decoder((everything + (parts.decoder_positions if second else 0))[None])[0]
        over = x if normalised != "all" else patches.flatten()[None]
        scale = (over.var(1, keepdim=True) + 1e-6) ** (0.5 if root else 1) if normalised != "mean" else 1
        target = (x - over.mean(1, keepdim=True)) / scale if normalised else x
        error = (drawn - target).abs() ** power
        error = error.sum(1) if total else error.mean(1)                           # (N,)
        losses.append({"hidden": error[hidden], "visible": error[seen], "all": error, "places": error[order >= keep],
                       "last": error[keep:]}[count])
    return torch.cat(losses).sum() / noise.numel() if over_all else torch.cat(losses).mean()
