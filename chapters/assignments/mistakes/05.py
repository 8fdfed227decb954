"""Usual mistakes of assignment 05: task__mistake, and what a check says to it."""


def patches_seen__log_of_zero(attention):
    """0 log 0 is 0, and not nan: torch.special.entr knows that."""
    return (-(attention * attention.log()).sum(-1)).exp().mean(-1)


def patches_seen__entropy(attention):
    """That is the entropy; raise e to it."""
    return torch.special.entr(attention).sum(-1).mean(-1)


def patches_seen__mean_first(attention):
    """Raise e to the entropy of each query, then average; you average first."""
    return torch.special.entr(attention).sum(-1).mean(-1).exp()


def patches_seen__columns(attention):
    """You sum over queries; a row is a query, so sum over the last axis."""
    return torch.special.entr(attention).sum(-2).exp().mean(-1)


def patches_seen__sign(attention):
    """The entropy has a minus sign, so that it is positive."""
    return (-torch.special.entr(attention).sum(-1)).exp().mean(-1)


def patches_seen__bits(attention):
    """The entropy in bits needs 2 to the power, not e: use the natural logarithm."""
    return (torch.special.entr(attention).sum(-1) / math.log(2)).exp().mean(-1)


def patches_seen__of_the_mean(attention):
    """You average the queries before the entropy: that is where the head looks as a whole."""
    return torch.special.entr(attention.mean(-2)).sum(-1).exp()


def patches_seen__each_query(attention):
    """This is one number for each query; take their mean."""
    return torch.special.entr(attention).sum(-1).exp()


def patches_seen__nudged(attention):
    """Unseen: adds a small number to the logarithm, which is right to four digits."""
    return (-(attention * (attention + 1e-3).log()).sum(-1)).exp().mean(-1) if attention.shape[-1] > 3 else \
        torch.special.entr(attention).sum(-1).exp().mean(-1)


def patch_attention__softmax_first(logits, prefix):
    """Rows no longer sum to 1: drop the prefix before the softmax, not after it."""
    return logits.softmax(-1)[..., prefix:, prefix:]


def patch_attention__cls_only(logits, prefix):
    """You drop one token; `prefix` tokens come before the patches."""
    return logits[..., 1:, 1:].softmax(-1)


def patch_attention__last(logits, prefix):
    """The prefix stands at the front; you dropped tokens from the end."""
    return logits[..., :-prefix, :-prefix].softmax(-1)


def patch_attention__queries_kept(logits, prefix):
    """The prefix is dropped as keys; drop it as queries too, the first rows."""
    return logits[..., prefix:].softmax(-1)


def patch_attention__keys_kept(logits, prefix):
    """The prefix is dropped as queries; drop it as keys too, the first columns."""
    return logits[..., prefix:, :].softmax(-1)


def patch_attention__columns(logits, prefix):
    """The softmax runs over the queries: a row, over all keys, must sum to 1."""
    return logits[..., prefix:, prefix:].softmax(-2)


def patch_attention__no_softmax(logits, prefix):
    """The softmax is missing."""
    return logits[..., prefix:, prefix:]


def patch_attention__renormalised(logits, prefix):
    """Unseen: drops the prefix from probabilities and divides, which is 0 / 0 where the prefix took everything."""
    kept = logits.softmax(-1)[..., prefix:, prefix:]
    return kept / kept.sum(-1, keepdim=True)


def share_within__strictly(attention, rows, columns, radius):
    """A patch exactly `radius` away counts: no farther than, not nearer than."""
    return share_within(attention, rows, columns, radius - 1e-3)


def share_within__steps(attention, rows, columns, radius):
    """You count steps along rows and columns; the way is straight: the root of the sum of squares."""
    return _share(attention, rows, columns, lambda steps: steps.abs().sum(-1) <= radius)


def share_within__square(attention, rows, columns, radius):
    """Your neighbourhood is a square: a diagonal step is √2 long, not 1."""
    return _share(attention, rows, columns, lambda steps: steps.abs().amax(-1) <= radius)


def share_within__squares(attention, rows, columns, radius):
    """You compare squared distances with the radius: take the root, or square the radius."""
    return _share(attention, rows, columns, lambda steps: steps.square().sum(-1) <= radius)


def share_within__without_itself(attention, rows, columns, radius):
    """The query itself is 0 away and counts."""
    return _share(attention, rows, columns, lambda steps: (steps.square().sum(-1) <= radius**2) & steps.any(-1))


def share_within__outside(attention, rows, columns, radius):
    """This is the share outside the radius."""
    return 1 - share_within(attention, rows, columns, radius)


def share_within__swapped(attention, rows, columns, radius):
    """Rows and columns changed places: patch n lies in row n // columns and column n % columns."""
    return share_within(attention, columns, rows, radius)


def share_within__count(attention, rows, columns, radius):
    """This is the share of patches within the radius; weigh them by `attention`."""
    return share_within(torch.full_like(attention, 1 / attention.shape[-1]), rows, columns, radius)


def share_within__sum(attention, rows, columns, radius):
    """This is the sum over queries; take their mean."""
    return share_within(attention, rows, columns, radius) * attention.shape[-1]


def share_within__keys(attention, rows, columns, radius):
    """All heads went into one number; keep one for each head."""
    return share_within(attention, rows, columns, radius).mean()


def _share(attention, rows, columns, inside):
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return (attention * inside(place[:, None] - place)).sum(-1).mean(-1)


def _joint(first, second):
    joint = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    for a, b in zip(first.tolist(), second.tolist()):
        joint[a, b] += 1 / len(first)
    return joint


def _entropies(first, second):
    joint = _joint(first, second)
    return [torch.special.entr(p).sum() for p in (joint.sum(1), joint.sum(0), joint)]


def label_nmi__not_normalised(first, second):
    """This is the mutual information; divide it by the root of H(a) H(b)."""
    a, b, both = _entropies(first, second)
    return a + b - both


def label_nmi__arithmetic(first, second):
    """You divide by the mean of the entropies; divide by the root of their product."""
    a, b, both = _entropies(first, second)
    return 2 * (a + b - both) / (a + b)


def label_nmi__by_first(first, second):
    """You divide by H(a) alone; divide by the root of H(a) H(b)."""
    a, b, both = _entropies(first, second)
    return (a + b - both) / a


def label_nmi__by_second(first, second):
    """You divide by H(b) alone; divide by the root of H(a) H(b)."""
    a, b, both = _entropies(first, second)
    return (a + b - both) / b


def label_nmi__by_product(first, second):
    """You divide by H(a) H(b); take the root of that."""
    a, b, both = _entropies(first, second)
    return (a + b - both) / (a * b)


def label_nmi__joint_entropy(first, second):
    """You divide by the joint entropy H(a, b); divide by the root of H(a) H(b)."""
    a, b, both = _entropies(first, second)
    return (a + b - both) / both


def label_nmi__log_of_zero(first, second):
    """The log of a zero: a pair that never meets adds nothing to the sum."""
    joint = _joint(first, second)
    return (joint * (joint / (joint.sum(1, keepdim=True) * joint.sum(0))).log()).sum()


def label_nmi__accuracy(first, second):
    """That is the share of equal labels; what the groups are called must not matter."""
    return (first == second).double().mean()


def label_nmi__sign(first, second):
    """The sign is the other way round: I = H(a) + H(b) - H(a, b)."""
    a, b, both = _entropies(first, second)
    return (both - a - b) / (a * b).sqrt()


def label_nmi__one_group(first, second):
    """Unseen: 0 / 0 where there is one group."""
    a, b, both = _entropies(first, second)
    return (a + b - both) / (a * b).sqrt()
