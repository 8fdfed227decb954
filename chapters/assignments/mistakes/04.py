"""Usual mistakes of assignment 04: task__mistake, and what a check says to it."""


def rate_of__from_zero(name, blocks, base, decay):
    """`blocks.0.` is block 1: add 1 to the number in the name."""
    if name.startswith("blocks."):
        return base * decay ** (blocks + 1 - int(name.split(".")[1]))
    return rate_of(name, blocks, base, decay)


def rate_of__backwards(name, blocks, base, decay):
    """The head learns fastest; yours learns slowest: the exponent is L + 1 - l."""
    layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else blocks + 1 if name[0] in "nh" else 0
    return base * decay**layer


def rate_of__embedding_as_block(name, blocks, base, decay):
    """What comes before block 1 is layer 0, and not layer 1."""
    return rate_of(name if name[0] in "bnh" else "blocks.0.", blocks, base, decay)


def rate_of__any_norm(name, blocks, base, decay):
    """Blocks have norms too: only a name that *begins* with norm is the final one."""
    return base if "norm" in name else rate_of(name, blocks, base, decay)


def rate_of__one_digit(name, blocks, base, decay):
    """The number of a block may have two digits: cut the name at its points."""
    return rate_of(f"blocks.{name[7]}." if name.startswith("blocks.") else name, blocks, base, decay)


def rate_of__norm_in_last_block(name, blocks, base, decay):
    """The final norm is no part of the last block: it is in layer L + 1, with the head."""
    return base * decay if name.startswith("norm.") else rate_of(name, blocks, base, decay)


def rate_of__base_forgotten(name, blocks, base, decay):
    """This is the decay alone; multiply by the base."""
    return rate_of(name, blocks, 1, decay)


def rate_of__straight(name, blocks, base, decay):
    """The decay is taken to the power of L + 1 - l, not multiplied by it."""
    layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else blocks + 1 if name[0] in "nh" else 0
    return base * decay * (blocks + 1 - layer)


def _votes(features, labels, classes, k, weigh, itself=False, compare=None, pick=None):
    unit = F.normalize(features, dim=1)
    cosine = compare(features) if compare else unit @ unit.T
    if not itself:
        cosine = cosine.clone().fill_diagonal_(-torch.inf)
    near = pick(cosine) if pick else cosine.topk(k, dim=1)
    weights = weigh(near.values)
    return torch.zeros(len(features), classes).to(weights).scatter_add(1, labels[near.indices], weights)


def _shares(votes):
    return votes / votes.sum(1, keepdim=True)


def votes_of_others__itself(features, labels, classes, k, temperature):
    """Each image votes for itself: put -inf where an image meets itself, before you look for the nearest."""
    return _votes(features, labels, classes, k, lambda c: (c / temperature).softmax(1), itself=True)


def votes_of_others__one_less(features, labels, classes, k, temperature):
    """Only k - 1 others vote: you took the k nearest and dropped the image itself from them."""
    return votes_of_others(features, labels, classes, k - 1, temperature)


def votes_of_others__not_normalised(features, labels, classes, k, temperature):
    """These are products, not cosines: the vectors need length 1."""
    return _votes(features, labels, classes, k, lambda c: (c / temperature).softmax(1), compare=lambda f: f @ f.T)


def votes_of_others__columns_normalised(features, labels, classes, k, temperature):
    """Each vector has length 1, dim=1; you normalised each feature over the images."""
    unit = F.normalize
    return _votes(features, labels, classes, k, lambda c: (c / temperature).softmax(1),
                  compare=lambda f: unit(f, dim=0) @ unit(f, dim=0).T)


def votes_of_others__equal(features, labels, classes, k, temperature):
    """All neighbours count the same; weigh each with exp(cosine / temperature)."""
    return _votes(features, labels, classes, k, lambda c: torch.full_like(c, 1 / k))


def votes_of_others__no_temperature(features, labels, classes, k, temperature):
    """The temperature is missing."""
    return votes_of_others(features, labels, classes, k, 1.0)


def votes_of_others__times_temperature(features, labels, classes, k, temperature):
    """Divide the cosine by the temperature; you multiply."""
    return votes_of_others(features, labels, classes, k, 1 / temperature)


def votes_of_others__no_exponential(features, labels, classes, k, temperature):
    """The exponential is missing."""
    return _shares(_votes(features, labels, classes, k, lambda c: c))


def votes_of_others__everyone(features, labels, classes, k, temperature):
    """All others vote; only the k nearest may."""
    return votes_of_others(features, labels, classes, len(features) - 1, temperature)


def votes_of_others__farthest(features, labels, classes, k, temperature):
    """You took the farthest; a large cosine is near."""
    return _votes(features, labels, classes, k, lambda c: (-c / temperature).softmax(1),
                  compare=lambda f: -F.normalize(f, dim=1) @ F.normalize(f, dim=1).T)


def votes_of_others__not_divided(features, labels, classes, k, temperature):
    """The votes are right, and their rows do not sum to 1: divide by the sum."""
    return _votes(features, labels, classes, k, lambda c: (c / temperature).exp())


def votes_of_others__softmax_of_sums(features, labels, classes, k, temperature):
    """A softmax over the sums is something else: divide the sums by their sum."""
    return _votes(features, labels, classes, k, lambda c: (c / temperature).exp()).softmax(1)


def votes_of_others__classes(features, labels, classes, k, temperature):
    """This is the class with the most votes; the votes were asked for."""
    return votes_of_others(features, labels, classes, k, temperature).argmax(1)


def votes_of_others__overflow(features, labels, classes, k, temperature):
    """Unseen: exp of a large number is inf, and inf / inf is nan."""
    return _shares(_votes(features.float(), labels, classes, k, lambda c: (c / temperature).exp()))


def votes_of_others__first_dropped(features, labels, classes, k, temperature):
    """Unseen: takes the nearest of all for the image itself, which another exactly like it may be."""
    def pick(cosine):
        values, indices = cosine.sort(dim=1, descending=True, stable=True)
        return torch.return_types.topk((values[:, 1:k + 1], indices[:, 1:k + 1]))
    return _votes(features, labels, classes, k, lambda c: (c / temperature).softmax(1), itself=True, pick=pick)


def _scores(right, seeds, images):
    return right.double()[seeds[:, :, None], images[:, None]].mean((1, 2))


def _ends(values, share=0.95):
    low, high = values.quantile(torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64))
    return low, high


def difference_interval__images_only(first, second, first_seeds, second_seeds, images):
    """Only images are drawn here: take the drawn seeds, not all of them."""
    return _ends((first.double().mean(0) - second.double().mean(0))[images].mean(1))


def difference_interval__seeds_only(first, second, first_seeds, second_seeds, images):
    """Only seeds are drawn here: take the drawn images, not all of them."""
    return _ends(first.double().mean(1)[first_seeds].mean(1) - second.double().mean(1)[second_seeds].mean(1))


def difference_interval__first_seed(first, second, first_seeds, second_seeds, images):
    """You use one seed of each draw; average over all that were drawn."""
    return _ends(_scores(first, first_seeds[:, :1], images) - _scores(second, second_seeds[:, :1], images))


def difference_interval__other_images(first, second, first_seeds, second_seeds, images):
    """Both methods are scored on the same images in each draw: yours get different ones, and the interval widens."""
    return _ends(_scores(first, first_seeds, images) - _scores(second, second_seeds, images.roll(1, 0)))


def difference_interval__ends_subtracted(first, second, first_seeds, second_seeds, images):
    """Subtract in each draw and then take the ends: ends of a difference are not differences of ends."""
    a, b = (_ends(_scores(*x, images)) for x in ((first, first_seeds), (second, second_seeds)))
    return a[0] - b[0], a[1] - b[1]


def difference_interval__widest(first, second, first_seeds, second_seeds, images):
    """You subtract one interval's end from the other's far end, as if the two knew nothing of each other: subtract in each draw."""
    a, b = (_ends(_scores(*x, images)) for x in ((first, first_seeds), (second, second_seeds)))
    return a[0] - b[1], a[1] - b[0]


def difference_interval__other_way(first, second, first_seeds, second_seeds, images):
    """The difference is the other way round: first minus second."""
    return difference_interval(second, first, second_seeds, first_seeds, images)


def difference_interval__ninety(first, second, first_seeds, second_seeds, images):
    """That is the middle 90 %: 95 % leaves 0.025 on either side."""
    return _ends(_scores(first, first_seeds, images) - _scores(second, second_seeds, images), 0.9)


def difference_interval__extremes(first, second, first_seeds, second_seeds, images):
    """These are the smallest and the largest difference, not the middle 95 %."""
    return _ends(_scores(first, first_seeds, images) - _scores(second, second_seeds, images), 1.0)


def difference_interval__normal(first, second, first_seeds, second_seeds, images):
    """These are mean ± 1.96 standard deviations; take quantiles of the draws."""
    each = _scores(first, first_seeds, images) - _scores(second, second_seeds, images)
    return each.mean() - 1.96 * each.std(), each.mean() + 1.96 * each.std()


def difference_interval__high_first(first, second, first_seeds, second_seeds, images):
    """The lower end comes first."""
    return difference_interval(first, second, first_seeds, second_seeds, images)[::-1]


def difference_interval__together(first, second, first_seeds, second_seeds, images):
    """The two ends stand in one tensor; return two results, low and high."""
    return torch.stack(difference_interval(first, second, first_seeds, second_seeds, images))


def _ridge(features, labels, queries, classes, penalty, mean=None, std=None, own=False, goal=None, bias=1.0, careful=True):
    x, q = features.double(), queries.double()
    middle = x.mean(0) if mean is None else mean
    spread = x.std(0, correction=0) if std is None else std
    spread = torch.where(spread > 0, spread, 1.0) if careful else spread
    z = (x - middle) / spread
    q = (q - q.mean(0)) / (q.std(0, correction=0) + 1e-12) if own else (q - middle) / spread
    y = 2 * F.one_hot(labels, classes).double() - 1 if goal is None else goal
    square = z.T @ z + penalty * torch.eye(z.shape[1], dtype=torch.float64)
    return q @ torch.linalg.solve(square, z.T @ (y - y.mean(0))) + bias * y.mean(0)


def ridge_scores__zero_one(features, labels, queries, classes, penalty):
    """The targets are +1 and -1; yours are 1 and 0."""
    return _ridge(features, labels, queries, classes, penalty, goal=F.one_hot(labels, classes).double())


def ridge_scores__zero_over_zero(features, labels, queries, classes, penalty):
    """A feature that never varies is divided by 0: leave it out, or make it 0."""
    return _ridge(features, labels, queries, classes, penalty, careful=False)


def ridge_scores__not_standardised(features, labels, queries, classes, penalty):
    """Mean and standard deviation of the features come off first."""
    return _ridge(features, labels, queries, classes, penalty, mean=torch.zeros(()), std=torch.ones(()))


def ridge_scores__centred_only(features, labels, queries, classes, penalty):
    """Divide by the standard deviations too: the penalty weighs on features of all sizes alike."""
    return _ridge(features, labels, queries, classes, penalty, std=torch.ones(()))


def ridge_scores__own_standards(features, labels, queries, classes, penalty):
    """Queries are standardised by the mean and the deviation of the features, not by their own."""
    return _ridge(features, labels, queries, classes, penalty, own=True)


def ridge_scores__queries_raw(features, labels, queries, classes, penalty):
    """The queries are not standardised."""
    x = features.double()
    return _ridge(features, labels, queries.double() * x.std(0, correction=0) + x.mean(0), classes, penalty)


def ridge_scores__variance(features, labels, queries, classes, penalty):
    """Divide by the standard deviation, not by the variance."""
    return _ridge(features, labels, queries, classes, penalty, std=features.double().var(0, correction=0))


def ridge_scores__less_one(features, labels, queries, classes, penalty):
    """Your standard deviation divides by N - 1; here it is N: correction=0."""
    return _ridge(features, labels, queries, classes, penalty, std=features.double().std(0))


def ridge_scores__no_bias(features, labels, queries, classes, penalty):
    """The bias is missing: add the mean of the targets."""
    return _ridge(features, labels, queries, classes, penalty, bias=0.0)


def ridge_scores__penalised_bias(features, labels, queries, classes, penalty):
    """The penalty holds your bias small (a column of ones?): take the mean of the targets off, and add it afterwards."""
    return _ridge(features, labels, queries, classes, penalty, bias=len(features) / (len(features) + penalty))


def ridge_scores__no_penalty(features, labels, queries, classes, penalty):
    """The penalty is missing."""
    return _ridge(features, labels, queries, classes, 0.0)


def ridge_scores__penalty_by_images(features, labels, queries, classes, penalty):
    """The penalty is multiplied by N (or the products divided by it); it stays as it is in the formula."""
    return _ridge(features, labels, queries, classes, penalty * len(features))


def ridge_scores__penalty_squared(features, labels, queries, classes, penalty):
    """The penalty is squared; it stays as it is in the formula."""
    return _ridge(features, labels, queries, classes, penalty**2)


def ridge_scores__classes(features, labels, queries, classes, penalty):
    """This is the class with the largest score; the scores were asked for."""
    return ridge_scores(features, labels, queries, classes, penalty).argmax(1)
