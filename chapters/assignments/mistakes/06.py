"""Usual mistakes of assignment 06: task__mistake, and what a check says to it."""


def token_similarity__with_itself(tokens):
    """A token is compared with itself too, which is always 1: take pairs of different tokens."""
    unit = F.normalize(tokens, dim=-1)
    return (unit @ unit.mT).mean((1, 2))


def token_similarity__not_normalised(tokens):
    """These are products, not cosines: the tokens need length 1."""
    products, count = tokens @ tokens.mT, tokens.shape[1]
    return (products.sum((1, 2)) - products.diagonal(dim1=1, dim2=2).sum(1)) / (count * (count - 1))


def token_similarity__centred(tokens):
    """The tokens are not to be centred here."""
    return token_similarity(tokens - tokens.mean(1, keepdim=True))


def token_similarity__over_tokens(tokens):
    """Each token has length 1, dim=-1; you normalised each channel over the tokens."""
    unit, count = F.normalize(tokens, dim=1), tokens.shape[1]
    products = unit @ unit.mT
    return (products.sum((1, 2)) - products.diagonal(dim1=1, dim2=2).sum(1)) / (count * (count - 1))


def token_similarity__one_number(tokens):
    """All images went into one number; give one for each."""
    return token_similarity(tokens).mean()


def token_similarity__divided_by_all(tokens):
    """There are P (P - 1) pairs of different tokens; you divide by P²."""
    count = tokens.shape[1]
    return token_similarity(tokens) * (count - 1) / count


def token_similarity__neighbours(tokens):
    """You compare each token with the next one only; take all pairs."""
    return F.cosine_similarity(tokens[:, :-1], tokens[:, 1:], dim=-1).mean(1)


def _logs(x, k, centre=1):
    x = x - x.mean(centre, keepdim=True) if centre is not None else x
    return torch.linalg.svdvals(x)[:, :k]


def spectrum_gain__not_centred(before, after, k):
    """The mean token of each image comes off first."""
    return (_logs(after, k, None).log() - _logs(before, k, None).log()).mean(0)


def spectrum_gain__channels_centred(before, after, k):
    """You take the mean over channels; the mean token is the mean over tokens, dim=1."""
    return (_logs(after, k, 2).log() - _logs(before, k, 2).log()).mean(0)


def spectrum_gain__over_images(before, after, k):
    """You take the mean over images off; each image has a mean token of its own, dim=1."""
    return (_logs(after, k, 0).log() - _logs(before, k, 0).log()).mean(0)


def spectrum_gain__backwards(before, after, k):
    """The difference is the other way round: after minus before."""
    return -spectrum_gain(before, after, k)


def spectrum_gain__eigenvalues(before, after, k):
    """These are the squares (variances): their logarithms are twice as large."""
    return 2 * spectrum_gain(before, after, k)


def spectrum_gain__log_of_mean(before, after, k):
    """Take the logarithm for each image, then average; you average first."""
    return _logs(after, k).mean(0).log() - _logs(before, k).mean(0).log()


def spectrum_gain__no_log(before, after, k):
    """The logarithm is missing."""
    return (_logs(after, k) - _logs(before, k)).mean(0)


def spectrum_gain__bits(before, after, k):
    """These are logarithms to base 2; take the natural one."""
    return spectrum_gain(before, after, k) / math.log(2)


def spectrum_gain__relative(before, after, k):
    """You divide by the largest singular value; what it gains itself is then lost."""
    gain = spectrum_gain(before, after, k)
    return gain - gain[0]


def spectrum_gain__each(before, after, k):
    """These are the gains of each image; take the mean over images."""
    return _logs(after, k).log() - _logs(before, k).log()


def _reached(values):
    return values.double().cumsum(0) / values.double().sum()


def _count(reached, share):
    return int((reached < share - 1e-6).sum()) + 1


def components_for__not_squared(tokens, share):
    """The variance is the square of a singular value."""
    return _count(_reached(torch.linalg.svdvals(tokens - tokens.mean(0))), share)


def components_for__not_centred(tokens, share):
    """Take the mean off first; else it is the first direction, and a large one."""
    return _count(_reached(torch.linalg.svdvals(tokens).square()), share)


def components_for__one_less(tokens, share):
    """That many do not reach the share yet: one more."""
    return components_for(tokens, share) - 1


def components_for__all(tokens, share):
    """The share has no effect: this is the number of all directions."""
    return min(tokens.shape)


def components_for__above_threshold(tokens, share):
    """You count the directions that have `share` of the largest; add variances up until they reach the share of all."""
    values = torch.linalg.svdvals(tokens - tokens.mean(0)).square()
    return int((values >= share * values[0]).sum())


def components_for__smallest_first(tokens, share):
    """You add up the smallest first; begin with the largest."""
    return _count(_reached(torch.linalg.svdvals(tokens - tokens.mean(0)).square().flip(0)), share)


def components_for__one_more(tokens, share):
    """Where the share is reached exactly, no further direction is needed: at least, not more than."""
    values = torch.linalg.svdvals((tokens - tokens.mean(0)).double()).square()
    return int((values.cumsum(0) / values.sum() <= share + 1e-6).sum()) + 1


def _silhouette(tokens, images, a_itself=False, b=None, s=None, distance=None):
    between = (distance or torch.cdist)(tokens.double(), tokens.double())
    scores = []
    for i in range(len(tokens)):
        mine = images == images[i]
        own = between[i][mine].sum() / (mine.sum() - (0 if a_itself else 1))
        others = torch.stack([between[i][images == k].mean() for k in images.unique() if k != images[i]])
        away = b(between[i][~mine], others) if b else others.min()
        scores.append(s(own, away) if s else (away - own) / torch.maximum(own, away))
    return torch.stack(scores).mean()


def silhouette__itself(tokens, images):
    """A token is 0 from itself, and not among the others of its image: divide by one less."""
    return _silhouette(tokens, images, a_itself=True)


def silhouette__all_others(tokens, images):
    """You take all other images together for b; take the nearest one."""
    return _silhouette(tokens, images, b=lambda every, each: every.mean())


def silhouette__nearest_token(tokens, images):
    """You take the nearest token for b; take the mean distance to the tokens of the nearest image."""
    return _silhouette(tokens, images, b=lambda every, each: every.min())


def silhouette__farthest(tokens, images):
    """You take the farthest other image for b; take the nearest."""
    return _silhouette(tokens, images, b=lambda every, each: each.max())


def silhouette__sign(tokens, images):
    """The sign is the other way round: b - a, so that 1 is good."""
    return -_silhouette(tokens, images)


def silhouette__not_divided(tokens, images):
    """Divide by the larger of a and b."""
    return _silhouette(tokens, images, s=lambda a, b: b - a)


def silhouette__by_sum(tokens, images):
    """You divide by a + b; divide by the larger of the two."""
    return _silhouette(tokens, images, s=lambda a, b: (b - a) / (a + b))


def silhouette__by_b(tokens, images):
    """You divide by b; where a is larger, divide by a."""
    return _silhouette(tokens, images, s=lambda a, b: (b - a) / b)


def silhouette__squares(tokens, images):
    """These are squared distances; take the root."""
    return _silhouette(tokens, images, distance=lambda x, y: torch.cdist(x, y).square())


def silhouette__of_means(tokens, images):
    """You average a and b over tokens first; each token has a silhouette of its own."""
    pairs = []
    _silhouette(tokens, images, s=lambda a, b: pairs.append((a, b)) or a)
    a, b = (torch.stack(x).mean() for x in zip(*pairs))
    return (b - a) / torch.maximum(a, b)


def silhouette__named_from_zero(tokens, images):
    """Unseen: takes the numbers of the images for places in a list."""
    counts = torch.bincount(images)
    return _silhouette(tokens, images) + (counts == 0).sum()
