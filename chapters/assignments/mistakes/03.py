"""Usual mistakes of assignment 03: task__mistake, and what a check says to it."""


def mask_tokens__positions_lost(tokens, mask, mask_token, positions):
    """The mask token replaced the positions too: replace first, then add the positions."""
    return torch.where(mask[..., None], mask_token, tokens + positions)


def mask_tokens__polarity(tokens, mask, mask_token, positions):
    """You hide the patches that should be seen: True is masked."""
    return mask_tokens(tokens, ~mask, mask_token, positions)


def mask_tokens__added(tokens, mask, mask_token, positions):
    """The mask token is added to what it should replace, so the hidden patch shows through."""
    return tokens + mask[..., None] * mask_token + positions


def mask_tokens__no_positions(tokens, mask, mask_token, positions):
    """The positions are missing."""
    return torch.where(mask[..., None], mask_token, tokens)


def mask_tokens__zeros(tokens, mask, mask_token, positions):
    """Hidden places hold zeros; they should hold the mask token."""
    return torch.where(mask[..., None], 0.0, tokens) + positions


def mask_tokens__first_mask(tokens, mask, mask_token, positions):
    """All images share the mask of the first one; each has its own."""
    return torch.where(mask[:1, :, None], mask_token, tokens) + positions


def mask_tokens__dropped(tokens, mask, mask_token, positions):
    """You leave the hidden patches out, as MAE does; here a mask token stands in their place."""
    return (tokens + positions)[~mask].reshape(-1, tokens.shape[-1])


def reconstruction_loss__all(predicted, patches, mask):
    """This is over all patches; only the hidden ones count."""
    return (predicted - patches).square().mean()


def reconstruction_loss__visible(predicted, patches, mask):
    """These are the visible patches: True is masked."""
    return reconstruction_loss(predicted, patches, ~mask)


def reconstruction_loss__pooled(predicted, patches, mask):
    """You pool the hidden patches of all images; take the mean within each image first."""
    return (predicted - patches)[mask].square().mean()


def reconstruction_loss__absolute(predicted, patches, mask):
    """That is the absolute error of chapter 03; square it here."""
    error = (predicted - patches).abs().mean(-1)
    return ((error * mask).sum(1) / mask.sum(1)).mean()


def reconstruction_loss__by_all_patches(predicted, patches, mask):
    """You divide by the number of all patches; divide by the number of hidden ones."""
    return ((predicted - patches).square().mean(-1) * mask).mean()


def reconstruction_loss__sum_in_patch(predicted, patches, mask):
    """Within a patch take the mean over its numbers, not the sum."""
    return reconstruction_loss(predicted, patches, mask) * patches.shape[2]


def reconstruction_loss__sum_over_images(predicted, patches, mask):
    """Take the mean over images, not the sum."""
    return reconstruction_loss(predicted, patches, mask) * len(patches)


def reconstruction_loss__each(predicted, patches, mask):
    """These are the losses of each image; take their mean."""
    error = (predicted - patches).square().mean(-1)
    return (error * mask).sum(1) / mask.sum(1)


def reconstruction_loss__root(predicted, patches, mask):
    """The root is too much: the squared error was asked for."""
    return reconstruction_loss(predicted, patches, mask).sqrt()


def blockwise_mask__counts_twice(rows, columns, boxes, budget):
    """You add up the areas of the boxes: a patch under two boxes counts once."""
    mask, count = torch.zeros(rows, columns, dtype=torch.bool), 0
    for top, left, height, width in boxes:
        area = mask[top:top + height, left:left + width].numel()
        if count + area <= budget:
            mask[top:top + height, left:left + width] = True
            count += area
    return mask


def blockwise_mask__counts_outside(rows, columns, boxes, budget):
    """A box counts only as far as it lies inside the grid: height times width is too much where it sticks out."""
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for top, left, height, width in boxes:
        hidden = mask[top:top + height, left:left + width].sum()
        if mask.sum() - hidden + height * width <= budget:
            mask[top:top + height, left:left + width] = True
    return mask


def blockwise_mask__stops(rows, columns, boxes, budget):
    """You stop at the first box that does not fit; a later, smaller one may fit."""
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for top, left, height, width in boxes:
        larger = mask.clone()
        larger[top:top + height, left:left + width] = True
        if larger.sum() > budget:
            break
        mask = larger
    return mask


def blockwise_mask__overshoots(rows, columns, boxes, budget):
    """You look at the budget before the box, not after it: too much is hidden."""
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for top, left, height, width in boxes:
        if mask.sum() < budget:
            mask[top:top + height, left:left + width] = True
    return mask


def blockwise_mask__no_budget(rows, columns, boxes, budget):
    """The budget has no effect: every box is taken."""
    return blockwise_mask(rows, columns, boxes, rows * columns)


def blockwise_mask__strictly_below(rows, columns, boxes, budget):
    """A box after which exactly `budget` patches are hidden fits: at most, not fewer than."""
    return blockwise_mask(rows, columns, boxes, budget - 1)


def blockwise_mask__polarity(rows, columns, boxes, budget):
    """The polarity is the other way round: True is masked."""
    return ~blockwise_mask(rows, columns, boxes, budget)


def blockwise_mask__swapped(rows, columns, boxes, budget):
    """A box is (top, left, height, width): you took the first number for a column."""
    return blockwise_mask(rows, columns, [(left, top, width, height) for top, left, height, width in boxes], budget)


def blockwise_mask__ends(rows, columns, boxes, budget):
    """Height and width are sizes, not the row and column where the box ends: top:top + height."""
    return blockwise_mask(rows, columns, [(top, left, max(height - top, 0), max(width - left, 0))
                                          for top, left, height, width in boxes], budget)


def blockwise_mask__one_row_more(rows, columns, boxes, budget):
    """The box is one row and one column too large: the end of a slice does not belong to it."""
    return blockwise_mask(rows, columns, [(top, left, height + 1, width + 1) for top, left, height, width in boxes], budget)


def average_distance__over_all(mask):
    """You take the mean over all patches; visible ones, which are 0 away, do not count."""
    hidden = mask.flatten(1)
    return average_distance(mask) * hidden.sum(1) / hidden.shape[1]


def average_distance__to_all(mask):
    """That is the mean distance to all visible patches; take the nearest."""
    return _distances(mask, lambda d: d.mean())


def average_distance__farthest(mask):
    """That is the distance to the farthest visible patch; take the nearest."""
    return _distances(mask, lambda d: d.max())


def average_distance__steps(mask):
    """You count steps along rows and columns; the way is straight: the root of the sum of squares."""
    return _distances(mask, lambda d: d.min(), p=1)


def average_distance__squares(mask):
    """These are squared distances; take the root before you average."""
    return _distances(mask, lambda d: d.min() ** 2)


def average_distance__polarity(mask):
    """This is from visible to hidden patches: True is masked."""
    return average_distance(~mask)


def average_distance__largest(mask):
    """This is the hidden patch that is farthest away; take the mean over all hidden ones."""
    return _distances(mask, lambda d: d.min(), over=torch.max)


def average_distance__sum(mask):
    """That is the sum over hidden patches; take the mean."""
    return _distances(mask, lambda d: d.min(), over=torch.sum)


def average_distance__pooled(mask):
    """All images went into one number; give one for each."""
    hidden = mask.flatten(1).sum(1)
    return (average_distance(mask) * hidden).sum() / hidden.sum()


def average_distance__columns(mask):
    """Patch n lies in row n // columns and column n % columns; you divide by the number of rows."""
    rows = mask.shape[1]
    return _distances(mask, lambda d: d.min(), place=lambda n: torch.stack([n // rows, n % rows], 1))


def average_distance__nothing_hidden(mask):
    """Unseen: 0 / 0 where nothing is hidden."""
    hidden = mask.flatten(1)
    return average_distance(mask) * hidden.sum(1) / hidden.sum(1)


def _distances(mask, of, p=2, over=torch.mean, place=None):
    """For each image `over` its hidden patches, of the distances to the visible ones `of`."""
    columns = mask.shape[2]
    place = place or (lambda n: torch.stack([n // columns, n % columns], 1))
    result = []
    for one in mask.flatten(1):
        hidden, seen = (place(which.nonzero()[:, 0]).double() for which in (one, ~one))
        between = torch.cdist(hidden, seen, p=p)
        result.append(over(torch.stack([of(row) for row in between])) if len(hidden) else torch.tensor(0.0).double())
    return torch.stack(result)
