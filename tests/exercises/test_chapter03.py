"""The checks of chapter 03: right answers pass, and each usual mistake fails with its name."""
import math
from functools import partial

import pytest
import torch

from lib.exercises import chapter03


def hidden_share(pixels, patch_size, cell, ratio):
    cells = (pixels // patch_size // cell) ** 2
    return math.ceil(ratio * cells) / cells


def normalize_patches(patches):
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6) ** 0.5


def keep_visible(tokens, noise, keep):
    kept = noise.argsort(dim=1)[:, :keep]
    return tokens.take_along_dim(kept[..., None], dim=1), torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)


def put_back(visible, noise, mask_token):
    everything = append(visible, noise, mask_token)
    return everything.take_along_dim(noise.argsort(dim=1).argsort(dim=1)[..., None], dim=1)


def append(visible, noise, mask_token, first=False):
    hidden = mask_token.expand(len(noise), noise.shape[1] - visible.shape[1], -1)
    return torch.cat([hidden, visible] if first else [visible, hidden], dim=1)


def mae_loss(patches, noise, keep, parts, keep_visible=keep_visible, put_back=put_back, target=normalize_patches, power=2,
             counted=lambda mask: mask, mean=lambda error: error.mean(-1), positions=1, late=0, second=1,
             encode=lambda encoder, x: encoder(x)):
    """Right as it is; each option makes a mistake."""
    tokens = parts.embed(patches) + positions * parts.positions
    visible, mask = keep_visible(tokens, noise, keep)
    latent = encode(parts.encoder, visible + late * parts.positions[:keep])
    tokens = put_back(parts.to_decoder(latent), noise, parts.mask_token) + second * parts.decoder_positions
    error = mean((parts.decoder(tokens) - target(patches)).abs() ** power)
    return error[counted(mask)].mean()


def mae_that_sees_all(patches, noise, keep, parts):
    tokens = parts.encoder(parts.embed(patches) + parts.positions)
    visible, mask = keep_visible(tokens, noise, keep)
    tokens = put_back(parts.to_decoder(visible), noise, parts.mask_token) + parts.decoder_positions
    return (parts.decoder(tokens) - normalize_patches(patches)).square().mean(-1)[mask].mean()


# Other right answers

def mae_by_mask(patches, noise, keep, parts):
    """Visible tokens in the order of their places instead of their noise, each image alone, a weighted sum for the mean."""
    total, count = 0.0, 0
    for x, order in zip(patches, noise.argsort(1)):
        seen = torch.zeros(len(x), dtype=torch.bool).scatter(0, order[:keep], True)
        full = parts.mask_token.expand(len(x), -1).clone()
        full[seen] = parts.to_decoder(parts.encoder((parts.embed(x) + parts.positions)[None, seen])[0])
        drawn = parts.decoder((full + parts.decoder_positions)[None])[0]
        total += (drawn - normalize_patches(x))[~seen].square().sum()
        count += (~seen).sum() * x.shape[1]
    return total / count


def in_single_precision(pixels, patch_size, cell, ratio):
    cells = (pixels // (patch_size * cell)) ** 2
    return torch.tensor(ratio * cells).ceil() / cells


def patch_by_patch(patches):
    out = torch.zeros_like(patches)
    for b, image in enumerate(patches):
        for n, patch in enumerate(image):
            centred = patch - patch.mean()
            out[b, n] = centred / torch.sqrt(centred.square().sum() / (len(patch) - 1) + 1e-6)
    return out


def image_by_image(tokens, noise, keep):
    visible, mask = torch.zeros(len(tokens), keep, tokens.shape[2]), torch.ones(noise.shape, dtype=torch.bool)
    for b in range(len(tokens)):
        places = sorted(range(noise.shape[1]), key=lambda n, b=b: noise[b, n])[:keep]
        visible[b] = tokens[b, places]
        mask[b, places] = False
    return visible, mask


def scattered(visible, noise, mask_token):
    kept = noise.argsort(1)[:, :visible.shape[1], None].expand_as(visible)
    return mask_token.repeat(*noise.shape, 1).scatter(1, kept, visible)


# Mistakes

def share(pixels, patch_size, cell, ratio, whole=math.ceil, power=2):
    cells = (pixels // patch_size // cell) ** power
    return whole(ratio * cells) / cells


def normalized(patches, dim=-1, correction=1, scale=lambda variance: (variance + 1e-6).sqrt(), centre=1):
    mean, variance = patches.mean(dim, keepdim=True), patches.var(dim, keepdim=True, correction=correction)
    return (patches - centre * mean) / scale(variance)


def by_the_order(visible, noise, mask_token):
    return append(visible, noise, mask_token).take_along_dim(noise.argsort(dim=1)[..., None], dim=1)


def of_zeros(visible, noise, mask_token):
    return put_back(visible, noise, 0 * mask_token)


def choose(tokens, noise, keep, places=lambda order, keep: order[:, :keep]):
    """The mask is right; which tokens are taken is what `places` says."""
    return tokens.take_along_dim(places(noise.argsort(1), keep)[..., None], 1), keep_visible(tokens, noise, keep)[1]


def masked(tokens, noise, keep, mask):
    """The tokens are right; the mask is what `mask` says."""
    return keep_visible(tokens, noise, keep)[0], mask(noise, keep)


def test_the_helpers_behind_the_mistakes_are_right_themselves():
    generator = torch.Generator().manual_seed(1)
    tokens, noise = torch.randn(2, 6, 4, generator=generator), torch.rand(2, 6, generator=generator)
    assert share(224, 16, 2, 0.6) == hidden_share(224, 16, 2, 0.6)
    torch.testing.assert_close(normalized(tokens), normalize_patches(tokens))
    torch.testing.assert_close(choose(tokens, noise, 3), keep_visible(tokens, noise, 3))


@pytest.mark.parametrize("name, answer", [
    ("hidden_share", hidden_share), ("hidden_share", in_single_precision),
    ("normalize_patches", normalize_patches), ("normalize_patches", patch_by_patch),
    ("keep_visible", keep_visible), ("keep_visible", image_by_image), ("put_back", put_back), ("put_back", scattered),
    ("mae_loss", mae_loss), ("mae_loss", mae_by_mask),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter03, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


@pytest.mark.parametrize("name, answer, message", [
    ("hidden_share", lambda pixels, patch_size, cell, ratio: ratio, "is a whole number"),
    ("hidden_share", lambda *a: share(*a, whole=math.floor), "Round up, not down"),
    ("hidden_share", lambda *a: share(*a, whole=round), "not to the nearest"),
    ("hidden_share", lambda *a: share(*a, whole=lambda x: int(x) + 1), "already stays as it is"),
    ("hidden_share", lambda pixels, patch_size, cell, ratio: hidden_share(pixels, patch_size, 1, ratio), "not single patches"),
    ("hidden_share", lambda *a: share(*a, power=1), "square it"),
    ("hidden_share", lambda *a: hidden_share(*a) * (a[0] // a[1] // a[2]) ** 2, "divide it by the number of all cells"),
    ("hidden_share", lambda *a: 1 - hidden_share(*a), "stays visible"),
    ("normalize_patches", lambda x: normalized(x, correction=0), "the unbiased one"),
    ("normalize_patches", lambda x: normalized(x, scale=lambda v: v.sqrt() + 1e-6), "inside the root"),
    ("normalize_patches", lambda x: normalized(x, scale=lambda v: v + 1e-6), "not by the variance"),
    ("normalize_patches", lambda x: normalized(x, centre=0), "is not taken out"),
    ("normalize_patches", lambda x: normalized(x.flatten()).reshape(x.shape), "of all patches together"),
    ("normalize_patches", lambda x: normalized(x, dim=1), "not over the patches"),
    ("normalize_patches", lambda x: normalized(x, dim=(1, 2)), "those of each image"),
    ("normalize_patches", lambda x: x - x.mean(-1, keepdim=True), "do not divide"),
    ("normalize_patches", lambda x: normalized(x, scale=torch.sqrt), "Add 1e-6 to the variance"),
    ("normalize_patches", lambda x: x.mean(-1), "the shape (2, 3, 12) was expected, and (2, 3) came"),
    ("keep_visible", lambda *a: choose(*a, lambda order, keep: order[:, -keep:]), "the largest numbers; keep"),
    ("keep_visible", lambda tokens, noise, keep: keep_visible(tokens, -noise, keep), "first the largest"),
    ("keep_visible", lambda *a: choose(*a, lambda order, keep: order[:, :keep].sort(1).values), "in the order of the image"),
    ("keep_visible", lambda tokens, noise, keep: (tokens[:, :keep], None), "the noise is not used"),
    ("keep_visible", lambda *a: choose(*a, lambda order, keep: order.argsort(1)[:, :keep]), "ranks for places"),
    ("keep_visible", lambda tokens, noise, keep: (tokens[:, noise[0].argsort()[:keep]], None), "the choice of the first one"),
    ("keep_visible", lambda *a: keep_visible(*a)[::-1], "the visible tokens come first"),
    ("keep_visible", lambda *a: keep_visible(*a)[0], "and a Tensor came. Is the return missing, or one of the two?"),
    ("keep_visible", lambda *a: masked(*a, lambda noise, keep: keep_visible(*a)[1].float()), "one of torch.float32 came"),
    ("keep_visible", lambda *a: masked(*a, lambda noise, keep: None), "a NoneType came"),
    ("keep_visible", lambda *a: masked(*a, lambda noise, keep: ~keep_visible(*a)[1]), "polarity"),
    ("keep_visible", lambda *a: masked(*a, lambda noise, keep: torch.arange(6).expand(2, 6) >= keep), "mask is in the order"),
    ("keep_visible", lambda *a: masked(*a, lambda noise, keep: noise.argsort(1) >= keep), "compare ranks"),
    ("put_back", append, "at the front"),
    ("put_back", lambda *a: append(*a).take_along_dim(a[1].argsort(1)[..., None], 1), "sorted once more"),
    ("put_back", lambda *a: append(*a, first=True).take_along_dim(a[1].argsort(1).argsort(1)[..., None], 1), "were put first"),
    ("put_back", lambda visible, noise, token: put_back(visible, noise, 0 * token), "Hidden places hold zeros"),
    ("put_back", lambda visible, noise, token: visible, "the shape (2, 6, 4) was expected, and (2, 2, 4) came"),
    ("mae_loss", partial(mae_loss, counted=torch.ones_like), "counts the visible ones too"),
    ("mae_loss", partial(mae_loss, counted=torch.logical_not), "the network has seen those"),
    ("mae_loss", partial(mae_loss, counted=lambda mask: torch.arange(9).expand_as(mask) >= 3), "whatever was hidden"),
    ("mae_loss", lambda x, noise, *a: mae_loss(x, noise, *a, counted=lambda mask: noise.argsort(1) >= 3), "compare ranks"),
    ("mae_loss", partial(mae_loss, counted=torch.zeros_like), "the mean over no patch"),
    ("mae_loss", partial(mae_loss, encode=lambda encoder, x: encoder(x).detach()), "no gradient reaches `embed`"),
    ("mae_loss", partial(mae_loss, target=lambda x: x), "not its plain pixels"),
    ("mae_loss", partial(mae_loss, power=1), "you take its size"),
    ("mae_loss", mae_that_sees_all, "yours sees all"),
    ("mae_loss", lambda x, noise, *a: mae_loss(x, -noise, *a), "you keep the largest"),
    ("mae_loss", partial(mae_loss, positions=0, late=1), "the position of its own place"),
    ("mae_loss", partial(mae_loss, positions=0), "does not know where its patches are"),
    ("mae_loss", partial(mae_loss, second=0), "does not know where anything is"),
    ("mae_loss", partial(mae_loss, put_back=append), "not back in their places"),
    ("mae_loss", partial(mae_loss, mean=lambda error: error.sum(-1)), "take their mean"),
    ("mae_loss", partial(mae_loss, put_back=by_the_order), "you used the order itself"),
    ("mae_loss", partial(mae_loss, put_back=of_zeros), "yours are 0"),
    ("mae_loss", lambda *a: mae_loss(*a) * 6 / 9, "you divide by nine"),
    ("mae_loss", lambda x, noise, keep, parts: mae_loss(x, noise, 9 - keep, parts), "you hide as many"),
    ("mae_loss", partial(mae_loss, target=lambda x: (x - x.mean()) / (x.var() + 1e-6).sqrt()), "not by those of all"),
    ("mae_loss", partial(mae_loss, target=lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6)),
     "not by the variance"),
    ("mae_loss", partial(mae_loss, target=lambda x: x - x.mean(-1, keepdim=True)), "The variance is missing"),
    ("mae_loss", lambda *a: mae_loss(*a).item(), "nothing could be trained by it"),
    ("mae_loss", lambda *a: mae_loss(*a).detach(), "nothing could be trained by it"),
    ("mae_loss", lambda *a: mae_loss(*a)[None], "the shape () was expected, and (1,) came"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter03, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_an_unknown_mistake_still_says_what_came(verdict):
    assert verdict(chapter03.check_hidden_share, lambda *a: 0.5) == (
        False, "Not right: for 64 pixels, patches of 8, cells of 2 and a ratio of 0.6, 0.6250 was expected, and 0.5000 came.")


@pytest.mark.parametrize("answer", [normalize_patches, keep_visible, put_back])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter03, f"check_{answer.__name__}"), answer)
