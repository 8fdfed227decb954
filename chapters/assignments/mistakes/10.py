"""Usual mistakes of assignment 10: task__mistake, and what a check says to it."""


def _kappa(observed, luck):
    return (observed - luck) / (1 - luck)


def _luck(a, b):
    return a * b + (1 - a) * (1 - b)


def _best(first, second):
    return 1 - (first - second).abs().mean()


def _luck_over_all(first, second):
    return _luck(first.mean(), second.mean())


def consistency_ceiling__over_all(first, second):
    """You compare the accuracies over all images alone; find o in each class, then take the mean."""
    return _kappa(1 - (first.mean() - second.mean()).abs(), _luck_over_all(first, second))


def consistency_ceiling__luck_by_class(first, second):
    """You take e in each class; e is that of the accuracies over all images."""
    return _kappa(_best(first, second), _luck(first, second).mean())


def consistency_ceiling__mean_of_classes(first, second):
    """You average the κ of the classes; average o, and take κ once."""
    return _kappa(1 - (first - second).abs(), _luck(first, second)).mean()


def consistency_ceiling__each(first, second):
    """This is a κ for each class; one for all images was asked for."""
    return _kappa(1 - (first - second).abs(), _luck(first, second))


def consistency_ceiling__both_right(first, second):
    """You count the images where both are right; those where both are wrong count as well."""
    return _kappa(torch.minimum(first, second).mean(), _luck_over_all(first, second))


def consistency_ceiling__observed(first, second):
    """That is o; take what luck gives off, and divide by the room above it."""
    return _best(first, second)


def consistency_ceiling__not_divided(first, second):
    """Divide by the room above luck, 1 - e."""
    return _best(first, second) - _luck_over_all(first, second)


def consistency_ceiling__luck_of_being_right(first, second):
    """By luck both may be wrong too: e has two terms."""
    return _kappa(_best(first, second), first.mean() * second.mean())


def consistency_ceiling__no_absolute_value(first, second):
    """Either may be the larger: in each class, o is 1 less the absolute difference."""
    return _kappa(1 - (first - second).mean(), _luck_over_all(first, second))


def consistency_ceiling__worst_case(first, second):
    """That is the worst case, where the two are right on different images of each class as far as they can be."""
    return _kappa((first + second - 1).abs().mean(), _luck_over_all(first, second))


def consistency_ceiling__ratio(first, second):
    """That is the smaller accuracy over the larger; find o, then take luck off."""
    return (torch.minimum(first, second) / torch.maximum(first, second)).mean()


def consistency_ceiling__one(first, second):
    """1 is reached only where both are right in equally many images of each class."""
    return 1.0


def _counts(first, second, classes):
    both = torch.stack([((first == c) & (second == c)).sum() for c in classes]).double()
    return both, *(torch.stack([(x == c).sum() for c in classes]).double() for x in (first, second))


def _f1(first, second, classes):
    both, n1, n2 = _counts(first, second, classes)
    return 2 * both / (n1 + n2)


def _either(first, second):
    return torch.cat([first, second]).unique().tolist()


def agreement_f1__share(first, second):
    """That is the share of equal answers, in which frequent classes count more; take F1 for each class, then the mean."""
    return (first == second).double().mean()


def agreement_f1__classes_of_first(first, second):
    """You average over classes that the first probe gives; those that only the second gives count, with 0."""
    return _f1(first, second, first.unique().tolist()).mean()


def agreement_f1__classes_of_second(first, second):
    """You average over classes that the second probe gives; those that only the first gives count, with 0."""
    return _f1(first, second, second.unique().tolist()).mean()


def agreement_f1__classes_of_both(first, second):
    """You average over classes that both probes give; those that only one gives count, with 0."""
    return _f1(first, second, sorted(set(first.tolist()) & set(second.tolist()))).mean()


def agreement_f1__all_classes(first, second):
    """Classes that nobody gives do not count; you divide by their number too."""
    return _f1(first, second, range(int(max(first.max(), second.max())) + 1)).nan_to_num().mean()


def agreement_f1__nothing_by_nothing(first, second):
    """0 / 0 for a class that nobody gives: leave it out."""
    return _f1(first, second, range(int(max(first.max(), second.max())) + 1)).mean()


def agreement_f1__not_doubled(first, second):
    """The 2 above the line is missing."""
    return agreement_f1(first, second) / 2


def agreement_f1__jaccard(first, second):
    """You divide by the images that either gives to the class (Jaccard); F1 divides 2m by n1 + n2."""
    both, n1, n2 = _counts(first, second, _either(first, second))
    return (both / (n1 + n2 - both)).mean()


def agreement_f1__precision(first, second):
    """You divide by the number of the second probe alone (precision)."""
    both, _, n2 = _counts(first, second, _either(first, second))
    return (both / n2.clamp(min=1)).mean()


def agreement_f1__recall(first, second):
    """You divide by the number of the first probe alone (recall)."""
    both, n1, _ = _counts(first, second, _either(first, second))
    return (both / n1.clamp(min=1)).mean()


def agreement_f1__weighted(first, second):
    """You weigh classes by how often the first probe gives them; take the plain mean."""
    classes = _either(first, second)
    n1 = _counts(first, second, classes)[1]
    return (n1 * _f1(first, second, classes)).sum() / n1.sum()


def agreement_f1__each(first, second):
    """These are the F1 of each class; take their mean."""
    return _f1(first, second, _either(first, second))


def _places(tokens, labels, means=None, away=None, own=True):
    """means(images of a class with the image itself or without, (n, P, D)); away(means (C, P, D), token (P, D)) -> (C, P)."""
    found, classes = [], labels.unique()
    for i, token in enumerate(tokens):
        keep = torch.arange(len(tokens)) != i if own else torch.ones(len(tokens), dtype=torch.bool)
        centre = torch.stack([(means or (lambda some, c: some.mean(0)))(tokens[keep & (labels == c)], c) for c in classes])
        far = (away or (lambda centre, token: (centre - token).norm(dim=-1)))(centre, token)
        found.append(classes[far.argmin(0)] == labels[i])
    return torch.stack(found).double()                                         # (N, P)


def class_by_place__itself(tokens, labels):
    """An image answers for itself: leave it out of the mean of its class."""
    return _places(tokens, labels, own=False).mean(0)


def class_by_place__divided_by_all(tokens, labels):
    """You leave the image out of the sum, but not out of the number you divide by."""
    found, classes = [], labels.unique()
    sizes = torch.stack([(labels == c).sum() for c in classes])[:, None, None]
    for i, token in enumerate(tokens):
        others = torch.arange(len(tokens)) != i
        centre = torch.stack([tokens[others & (labels == c)].sum(0) for c in classes]) / sizes
        found.append(classes[(centre - token).norm(dim=-1).argmin(0)] == labels[i])
    return torch.stack(found).double().mean(0)


def class_by_place__one_for_all(tokens, labels):
    """You have one mean of a class for all places; each place has its own."""
    return _places(tokens, labels, means=lambda some, c: some.mean((0, 1), keepdim=True)[0].expand_as(some[0])).mean(0)


def class_by_place__mean_token(tokens, labels):
    """You take the mean of the tokens of an image first; each place is asked alone."""
    return _places(tokens.mean(1, keepdim=True).expand_as(tokens), labels).mean(0)


def class_by_place__product(tokens, labels):
    """You take the mean with the largest product; nearest is the smallest distance, as means have different lengths."""
    return _places(tokens, labels, away=lambda centre, token: -(centre * token).sum(-1)).mean(0)


def class_by_place__cosine(tokens, labels):
    """You take the mean with the largest cosine; nearest is the smallest Euclidean distance."""
    return _places(tokens, labels, away=lambda centre, token: -F.cosine_similarity(centre, token, dim=-1)).mean(0)


def class_by_place__farthest(tokens, labels):
    """You take the farthest mean; take the nearest."""
    return _places(tokens, labels, away=lambda centre, token: -(centre - token).norm(dim=-1)).mean(0)


def class_by_place__nearest_image(tokens, labels):
    """You take the class of the nearest image; take that of the nearest class mean."""
    between = torch.cdist(tokens.transpose(0, 1), tokens.transpose(0, 1))      # (P, N, N)
    between = between.masked_fill(torch.eye(len(tokens), dtype=torch.bool), torch.inf)
    return (labels[between.argmin(-1)] == labels).double().mean(1)


def class_by_place__by_image(tokens, labels):
    """These are the shares for each image; average over images, and keep the places."""
    return _places(tokens, labels).mean(1)


def class_by_place__one_number(tokens, labels):
    """All places went into one number; keep one for each."""
    return _places(tokens, labels).mean()


def class_by_place__count(tokens, labels):
    """These are counts; divide by the number of images."""
    return _places(tokens, labels).sum(0)


def class_by_place__wrong(tokens, labels):
    """This is the share of images that get another class."""
    return 1 - _places(tokens, labels).mean(0)


def class_by_place__named_from_zero(tokens, labels):
    """Unseen: takes the place of a class in a list for its name."""
    return class_by_place(tokens, labels) * float(labels.min() == 0)


def _cosines(x):
    unit = F.normalize(x, dim=-1)
    return unit @ unit.mT


def _near(like, k, itself=False):
    """(L, N, N), 1 for the k that are most alike."""
    eye = torch.eye(like.shape[1], dtype=torch.bool)
    like = like if itself else like.masked_fill(eye, -torch.inf)
    return torch.zeros_like(like).scatter(-1, like.topk(k).indices, 1)


def _kept(before, after, k, like=_cosines, itself=False, luck=None):
    share = (_near(like(before), k, itself) * _near(like(after), k, itself)).sum(-1).mean(-1) / k
    luck = k / (before.shape[1] - 1) if luck is None else luck
    return (share - luck) / (1 - luck)


def kept_neighbours__itself(before, after, k):
    """An image is among its own neighbours, and always stays: leave it out."""
    return _kept(before, after, k, itself=True)


def kept_neighbours__no_luck(before, after, k):
    """That is s; take off what luck gives, and divide by the room above it."""
    return _kept(before, after, k, luck=0)


def kept_neighbours__luck_of_all(before, after, k):
    """There are N - 1 other images: luck gives k / (N - 1), not k / N."""
    return _kept(before, after, k, luck=k / before.shape[1])


def kept_neighbours__not_divided(before, after, k):
    """Divide by the room above luck."""
    return _kept(before, after, k) * (1 - k / (before.shape[1] - 1))


def kept_neighbours__distance(before, after, k):
    """You take the nearest by Euclidean distance; take the largest cosine."""
    return _kept(before, after, k, like=lambda x: -torch.cdist(x, x))


def kept_neighbours__products(before, after, k):
    """You take the largest products; the features need length 1."""
    return _kept(before, after, k, like=lambda x: x @ x.mT)


def kept_neighbours__centred(before, after, k):
    """No mean is taken off before the cosines."""
    return _kept(before, after, k, like=lambda x: _cosines(x - x.mean(1, keepdim=True)))


def kept_neighbours__least_alike(before, after, k):
    """You take the images that are least alike."""
    return _kept(before, after, k, like=lambda x: -_cosines(x))


def kept_neighbours__same_rank(before, after, k):
    """The order among the neighbours does not matter; you compare the first with the first, the second with the second."""
    eye = torch.eye(before.shape[1], dtype=torch.bool)
    ranks = [_cosines(x).masked_fill(eye, -torch.inf).topk(k).indices for x in (before, after)]
    luck = k / (before.shape[1] - 1)
    return ((ranks[0] == ranks[1]).double().mean((1, 2)) - luck) / (1 - luck)


def kept_neighbours__jaccard(before, after, k):
    """You divide by the number of images in either set; divide by k."""
    near = [_near(_cosines(x), k) for x in (before, after)]
    common, luck = (near[0] * near[1]).sum(-1), k / (before.shape[1] - 1)
    return ((common / (2 * k - common)).mean(-1) - luck) / (1 - luck)


def kept_neighbours__one_number(before, after, k):
    """All layers went into one number; keep one for each."""
    return _kept(before, after, k).mean()


def kept_neighbours__each(before, after, k):
    """These are the shares of each image; take the mean over images."""
    share = (_near(_cosines(before), k) * _near(_cosines(after), k)).sum(-1) / k
    luck = k / (before.shape[1] - 1)
    return (share - luck) / (1 - luck)
