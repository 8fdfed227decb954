"""Usual mistakes of assignment 09: task__mistake, and what a check says to it."""


def centred__rows_only(k):
    """You take the mean of each row off; take that of each column off as well, and add the mean of all back."""
    return k - k.mean(1, keepdim=True)


def centred__columns_only(k):
    """You take the mean of each column off; take that of each row off as well, and add the mean of all back."""
    return k - k.mean(0)


def centred__not_added_back(k):
    """With the means of rows and columns the mean of all went off twice; add it once."""
    return k - k.mean(0) - k.mean(1, keepdim=True)


def centred__taken_off(k):
    """The mean of all is added, not taken off."""
    return k - k.mean(0) - k.mean(1, keepdim=True) - k.mean()


def centred__one_number(k):
    """You take the mean of all off; each row and each column has its own."""
    return k - k.mean()


def centred__same_axis(k):
    """You take the same means off twice, those of columns; one of the two needs keepdim=True."""
    return k - k.mean(0) - k.mean(1) + k.mean()


def centred__sums(k):
    """You take sums off; divide by n to get means."""
    return k - k.sum(0) - k.sum(1, keepdim=True) + k.sum()


def centred__without_diagonal(k):
    """The diagonal stays here; it goes in the next task."""
    return centred(k) - centred(k).diag().diag()


def _u(k, before=True, after=True, row=2, total=None, sign=1):
    n, off = len(k), 1 - torch.eye(len(k), dtype=k.dtype)
    k = k * off if before else k
    found = k - (k.sum(0) + k.sum(1, keepdim=True)) / (n - row) + sign * k.sum() / (total or (n - 1) * (n - 2))
    return found * off if after else found


def u_centred__diagonal_first(k):
    """Set the diagonal to 0 before you take the sums."""
    return _u(k, before=False)


def u_centred__diagonal_last(k):
    """The diagonal of the result is 0 too."""
    return _u(k, after=False)


def u_centred__means(k):
    """These are plain means, as in task 1: divide the sums of rows and columns by n - 2, the sum of all by (n - 1)(n - 2)."""
    return _u(k, row=0, total=len(k) ** 2)


def u_centred__means_of_the_others(k):
    """You divide by how many others there are, n - 1; divide by n - 2, and the sum of all by (n - 1)(n - 2)."""
    return _u(k, row=1, total=len(k) * (len(k) - 1))


def u_centred__total(k):
    """The sum of all is divided by (n - 1)(n - 2)."""
    return _u(k, total=len(k) ** 2)


def u_centred__total_squared(k):
    """The sum of all is divided by (n - 1)(n - 2), not by (n - 2) squared."""
    return _u(k, total=(len(k) - 2) ** 2)


def u_centred__sign(k):
    """The sum of all is added, not taken off."""
    return _u(k, sign=-1)


def u_centred__of_task_1(k):
    """That is the matrix of task 1 without its diagonal: the sums still hold how alike an image is to itself."""
    return centred(k) * (1 - torch.eye(len(k), dtype=k.dtype))


def u_centred__divided(k):
    """Nothing is divided by n (n - 3) yet; that comes with HSIC."""
    return _u(k) / (len(k) * (len(k) - 3))


def _grams(x):
    x = x.double() - x.double().mean(0)
    return x @ x.T


def _parts(first, second, inner=None, least=4):
    """HSIC of both, of the first and of the second, a row for each minibatch (B, 3)."""
    inner, rows = inner or hsic, []
    for x, y in zip(first, second):
        if len(x) >= least:
            k, l = _grams(x), _grams(y)
            rows.append(torch.stack([inner(k, l), inner(k, k), inner(l, l)]))
    return torch.stack(rows)


def _ratio(sums):
    return sums[..., 0] / (sums[..., 1] * sums[..., 2]).sqrt()


def minibatch_cka__mean_of_ratios(first, second):
    """You take the mean of the CKA of each minibatch; add up each HSIC first, and divide once."""
    return _ratio(_parts(first, second)).mean()


def minibatch_cka__together(first, second):
    """You put all images into one matrix; images of different minibatches are never compared."""
    kept = [len(x) > 3 for x in first]
    return cka(*(torch.cat([x for x, k in zip(side, kept) if k]) for side in (first, second)))


def minibatch_cka__too_small(first, second):
    """A minibatch of fewer than 4 images has no unbiased HSIC (it divides by n - 3): leave it out."""
    return _ratio(_parts(first, second, least=1).sum(0))


def minibatch_cka__biased(first, second):
    """That is the biased HSIC, with the diagonals; use `hsic`."""
    return _ratio(_parts(first, second, lambda k, l: (k * l).sum() / (len(k) - 1) ** 2).sum(0))


def minibatch_cka__weighted(first, second):
    """You weigh a minibatch by its number of images; each HSIC counts the same."""
    sizes = torch.tensor([len(x) for x in first if len(x) > 3])
    return _ratio((sizes[:, None] * _parts(first, second)).sum(0))


def minibatch_cka__no_root(first, second):
    """The root below the line is missing."""
    both, own, other = _parts(first, second).sum(0)
    return both / (own * other)


def minibatch_cka__by_first(first, second):
    """You divide by the HSIC of the first layer with itself; divide by the root of the product of both."""
    both, own, _ = _parts(first, second).sum(0)
    return both / own


def minibatch_cka__roots_of_each(first, second):
    """Below the line, add up over minibatches first, then take the root; you take it for each minibatch."""
    parts = _parts(first, second)
    return parts[:, 0].sum() / (parts[:, 1] * parts[:, 2]).sqrt().sum()


def minibatch_cka__last_only(first, second):
    """This is the CKA of one minibatch alone; add up over all."""
    return _ratio(_parts(first, second)[-1])


def minibatch_cka__features_of_an_image(first, second):
    """The mean goes off over images, dim 0; you took one off each image."""
    def turned(side):
        return [x - x.mean(1, keepdim=True) for x in side]
    return _ratio(_parts(turned(first), turned(second)).sum(0))


def minibatch_cka__clamped(first, second):
    """Unseen: sets values below 0 to 0."""
    return _ratio(_parts(first, second).sum(0)).clamp(min=0)


def minibatch_cka__far_from_the_origin(first, second):
    """Unseen: products of features as they are, in 32 bits."""
    rows = []
    for x, y in zip(first, second):
        if len(x) > 3:
            k, l = x @ x.T, y @ y.T
            rows.append(torch.stack([hsic(k, l), hsic(k, k), hsic(l, l)]))
    return _ratio(torch.stack(rows).sum(0))


def _cut(images, patch):
    """(rows, columns, n, C, patch, patch)"""
    n, channels, height, width = images.shape
    return images.reshape(n, channels, height // patch, patch, width // patch, patch).permute(2, 4, 0, 1, 3, 5)


def _map(token, cut):
    return torch.stack([torch.stack([cka(token, pixels.flatten(1)) for pixels in row]) for row in cut])


def place_map__interleaved(token, images, patch):
    """You take every so-many-th pixel; a patch is a square of neighbouring pixels."""
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    return _map(token, [[images[:, :, r::rows, c::columns] for c in range(columns)] for r in range(rows)])


def place_map__turned(token, images, patch):
    """Rows and columns changed places in the result."""
    return place_map(token, images, patch).T


def place_map__filled_by_columns(token, images, patch):
    """You go down the columns and fill in along the rows; the first row of the map is the top of the image."""
    found = place_map(token, images, patch)
    return found.T.reshape(found.shape)


def place_map__upside_down(token, images, patch):
    """The map stands on its head: row 0 is the top."""
    return place_map(token, images, patch).flip(0)


def place_map__grey(token, images, patch):
    """You take the mean over channels; take all of them, side by side."""
    return place_map(token, images.mean(1, keepdim=True), patch)


def place_map__first_channel(token, images, patch):
    """You take one channel; take all of them, side by side."""
    return place_map(token, images[:, :1], patch)


def place_map__mean_of_the_patch(token, images, patch):
    """You take the mean of a patch; take all its pixels, side by side."""
    return _map(token, _cut(images, patch).mean((4, 5)))


def place_map__pixel_of_the_patch(token, images, patch):
    """You take one pixel of each patch; take all of them, side by side."""
    return place_map(token, images[:, :, ::patch, ::patch], 1)


def place_map__one_row(token, images, patch):
    """All patches are in one row; give the map as (rows, columns)."""
    return place_map(token, images, patch).flatten()


def place_map__centred_by_patch(token, images, patch):
    """You take the mean of each patch off its pixels; `cka` takes off what is to be taken off, the mean over images."""
    cut = _cut(images, patch)
    return _map(token, cut - cut.mean((3, 4, 5), keepdim=True))


def place_map__square(token, images, patch):
    """Unseen: takes it that there are as many columns as rows."""
    found = place_map(token, images, patch)
    return found if min(images.shape[2:]) < 5 else found[:, :found.shape[0]]
