"""Usual mistakes of assignment 01: task__mistake, and what a check says to it."""


def patchify__channel_first(images, size, stride):
    """You lay out a patch with the channel first, as chapter 01 does; here the channel comes last."""
    return F.unfold(images, size, stride=stride).transpose(1, 2)


def patchify__no_overlap(images, size, stride):
    """The stride has no effect: patches begin every `stride` pixels, not every `size`."""
    return images.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def patchify__columns_first(images, size, stride):
    """The patches come row by row; you go down column by column."""
    return images.unfold(2, size, stride).unfold(3, size, stride).permute(0, 3, 2, 4, 5, 1).flatten(3).flatten(1, 2)


def patchify__lying(images, size, stride):
    """Each patch lies on its side: inside a patch the row comes before the column."""
    return images.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 5, 4, 1).flatten(3).flatten(1, 2)


def patchify__reshape_only(images, size, stride):
    """A reshape alone moves no number: swap the axes before you merge them, the channel goes last."""
    return images.unfold(2, size, stride).unfold(3, size, stride).reshape(len(images), -1, size * size * images.shape[1])


def patchify__all_together(images, size, stride):
    """All patches of all rows come in one axis: merge the rows and columns of the grid too."""
    return images.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 4, 5, 1).flatten(3)


def patchify__fixed_batch(images, size, stride):
    """Unseen: works for a single image only."""
    windows = images.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 4, 5, 1)
    return windows.reshape(1, -1, size * size * images.shape[1])


def pool__no_root(query, keys, values):
    """The 1/√d is missing: divide the logits by the square root of the width of the keys."""
    return torch.einsum("bn,bne->be", (keys @ query).softmax(1), values)


def pool__by_d(query, keys, values):
    """You divide by d; the root is missing."""
    return torch.einsum("bn,bne->be", (keys @ query / query.shape[0]).softmax(1), values)


def pool__width_of_values(query, keys, values):
    """The d under the root is the width of the keys, not of the values."""
    return torch.einsum("bn,bne->be", (keys @ query / math.sqrt(values.shape[-1])).softmax(1), values)


def pool__over_images(query, keys, values):
    """The softmax runs over the images: the weights of the tokens of one image must sum to 1."""
    return torch.einsum("bn,bne->be", (keys @ query / math.sqrt(query.shape[0])).softmax(0), values)


def pool__no_softmax(query, keys, values):
    """The softmax is missing: weights are positive and sum to 1."""
    return torch.einsum("bn,bne->be", keys @ query / math.sqrt(query.shape[0]), values)


def pool__strongest(query, keys, values):
    """You take the value of the strongest key alone; all tokens have a share."""
    return values[torch.arange(len(values)), (keys @ query).argmax(1)]


def pool__mean(query, keys, values):
    """This is the plain mean of the values: the weights have no effect."""
    return values.mean(1)


def pool__overflow(query, keys, values):
    """Unseen: exp of a large logit is inf, and inf / inf is nan; softmax takes the largest logit out first."""
    raised = (keys @ query / math.sqrt(query.shape[0])).exp()
    return torch.einsum("bn,bne->be", raised / raised.sum(1, keepdim=True), values)


def pool__squeezed(query, keys, values):
    """Unseen: squeeze() also removes the axis of a batch of one."""
    weights = (keys @ query / math.sqrt(query.shape[0])).softmax(1)
    return torch.einsum("bn,bne->be", weights, values).squeeze()


def resize_positions__cls_stretched(positions, old, new):
    """CLS has no place in the grid: it keeps its position, the first row, as it is. You resize it with the others."""
    stretched = F.interpolate(positions.T[None], size=1 + new[0] * new[1], mode="linear", align_corners=False)
    return stretched[0].T


def resize_positions__cls_dropped(positions, old, new):
    """CLS is gone: put its position back, first."""
    grid = positions[1:].T.reshape(1, -1, *old)
    return F.interpolate(grid, size=tuple(new), mode="bilinear", align_corners=False)[0].flatten(1).T


def resize_positions__cls_last(positions, old, new):
    """CLS comes first, not last."""
    grid = positions[1:].T.reshape(1, -1, *old)
    stretched = F.interpolate(grid, size=tuple(new), mode="bilinear", align_corners=False)
    return torch.cat([stretched[0].flatten(1).T, positions[:1]])


def resize_positions__no_transpose(positions, old, new):
    """The dimensions come before rows and columns for F.interpolate: transpose first, a reshape alone mixes them."""
    grid = positions[1:].reshape(1, -1, *old)
    stretched = F.interpolate(grid, size=tuple(new), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], stretched[0].flatten(1).T])


def resize_positions__back_by_reshape(positions, old, new):
    """On the way back the dimensions come last again: transpose, a reshape alone mixes them."""
    grid = positions[1:].T.reshape(1, -1, *old)
    stretched = F.interpolate(grid, size=tuple(new), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], stretched.reshape(-1, positions.shape[1])])


def resize_positions__swapped(positions, old, new):
    """Rows come before columns, in `old` and in `new`."""
    grid = positions[1:].T.reshape(1, -1, old[1], old[0])
    stretched = F.interpolate(grid, size=(new[1], new[0]), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], stretched[0].flatten(1).T])


def resize_positions__nearest(positions, old, new):
    """You copy the nearest position; interpolate, mode="bilinear"."""
    grid = positions[1:].T.reshape(1, -1, *old)
    return torch.cat([positions[:1], F.interpolate(grid, size=tuple(new), mode="nearest")[0].flatten(1).T])


def resize_positions__corners(positions, old, new):
    """The corners are aligned; align_corners=False was asked for, which keeps the centres of the outer patches apart."""
    grid = positions[1:].T.reshape(1, -1, *old)
    stretched = F.interpolate(grid, size=tuple(new), mode="bilinear", align_corners=True)
    return torch.cat([positions[:1], stretched[0].flatten(1).T])


def rollout__no_residual(attention):
    """The residual stream is missing: half of every token passes on unchanged, so add the identity and halve."""
    reached = torch.eye(attention.shape[-1])
    for block in attention.mean(1):
        reached = block @ reached
    return reached


def rollout__not_halved(attention):
    """With the identity added a row sums to 2: halve it."""
    reached = torch.eye(attention.shape[-1])
    for block in attention.mean(1):
        reached = (block + torch.eye(attention.shape[-1])) @ reached
    return reached


def rollout__reversed(attention):
    """The order is the other way round: the last block stands on the left, R = Ã_L ... Ã_1."""
    reached = torch.eye(attention.shape[-1])
    for block in attention.mean(1):
        reached = reached @ (block + torch.eye(attention.shape[-1])) / 2
    return reached


def rollout__elementwise(attention):
    """You multiply number by number; a path through two blocks is a matrix product, @."""
    reached = torch.ones(attention.shape[-2:])
    for block in attention.mean(1):
        reached = (block + torch.eye(attention.shape[-1])) / 2 * reached
    return reached


def rollout__summed_heads(attention):
    """Take the mean over heads, not the sum."""
    reached = torch.eye(attention.shape[-1])
    for block in attention.sum(1):
        reached = (block + torch.eye(attention.shape[-1])) / 2 @ reached
    return reached


def rollout__first_head(attention):
    """You use the first head alone; take the mean over heads."""
    reached = torch.eye(attention.shape[-1])
    for block in attention[:, 0]:
        reached = (block + torch.eye(attention.shape[-1])) / 2 @ reached
    return reached


def rollout__last_block(attention):
    """This is the last block alone; multiply through all of them."""
    return (attention[-1].mean(0) + torch.eye(attention.shape[-1])) / 2
