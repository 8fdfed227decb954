"""The checks of chapter 02: right answers pass, and each usual mistake fails with its name."""
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lib.exercises import chapter02


def half_life(momentum):
    return math.log(0.5) / math.log(momentum)


def nt_xent(z1, z2, temperature):
    logits = similarities(z1, z2) / temperature
    return F.cross_entropy(logits.fill_diagonal_(-torch.inf), torch.arange(len(logits)).roll(len(z1)))


def alignment_uniformity(a, b):
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    return (a - b).square().sum(1).mean(), torch.pdist(a).square().mul(-2).exp().mean().log()


def effective_rank(features):
    values = torch.linalg.svdvals(features)
    return torch.special.entr(values / values.sum()).sum().exp()


def train_simclr(network, two_views, steps, loss=lambda a, b: nt_xent(a, b, 0.2), optimizer=torch.optim.AdamW, lr=0.005,
                 views=lambda a, b: (a, b)):
    """Right as it is; each option makes a mistake."""
    optimizer, losses = optimizer(network.parameters(), lr=lr), []
    for step in range(steps):
        value = loss(*(network(view) for view in views(*two_views(step))))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value)
    return losses


def no_training(network, two_views, steps, step_of=lambda step: step, loss=lambda step: -step, nudge=0.0):
    """Asks for views and gives losses, and moves weights by `nudge`."""
    for step in range(steps):
        two_views(step_of(step))
    with torch.no_grad():
        for p in network.parameters():
            p += nudge
    return [float(loss(step)) for step in range(steps)]


def without_length_1(a, b):
    z = torch.cat([a, b])
    logits = (z @ z.T / 0.2).masked_fill(torch.eye(len(z), dtype=bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))


def similarities(z1, z2):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    return z @ z.T


# Other right answers

def in_single_precision(momentum):
    return torch.tensor(0.5).log() / torch.tensor(momentum).log()


def query_by_query(z1, z2, temperature):
    s, n, total = similarities(z1, z2) / temperature, len(z1), 0.0
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        total += math.log(sum(math.exp(s[i, j]) for j in others)) - float(s[i, (i + n) % (2 * n)])
    return total / (2 * n)


def with_cosines(a, b):
    """On the sphere the squared distance is 2 - 2 cos; and the two numbers in a tensor are fine too."""
    cosines = (F.normalize(a) @ F.normalize(a).T)[tuple(torch.triu_indices(len(a), len(a), 1))]
    return torch.stack([2 - 2 * F.cosine_similarity(a, b).mean(), (4 * cosines - 4).exp().mean().log()])


def with_an_epsilon(features):
    """As in the paper."""
    values = torch.linalg.svdvals(features)
    shares = values / values.sum() + 1e-7
    return (-(shares * shares.log()).sum()).exp().item()


# Mistakes

def loss(z1, z2, temperature, partner=None, diagonal=-torch.inf):
    s, n = similarities(z1, z2) / temperature, len(z1)
    partner = torch.arange(2 * n).roll(n) if partner is None else partner
    return F.cross_entropy(s if diagonal is None else s.fill_diagonal_(diagonal), partner)


def without_length(z1, z2, temperature):
    z = torch.cat([z1, z2])
    return F.cross_entropy((z @ z.T / temperature).fill_diagonal_(-torch.inf), torch.arange(10).roll(5))


def first_views_only(z1, z2, temperature):
    s = (similarities(z1, z2) / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(s[:len(z1)], torch.arange(len(z1)) + len(z1))


def as_in_moco(z1, z2, temperature):
    return F.cross_entropy(similarities(z1, z2)[:len(z1), len(z1):] / temperature, torch.arange(len(z1)))


def without_mean(z1, z2, temperature):
    s = (similarities(z1, z2) / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(s, torch.arange(len(s)).roll(len(z1)), reduction="none")


def wishes(a, b, long=False, align=lambda d: d.square().sum(1).mean(), spread=lambda d: (-2 * d**2).exp().mean().log()):
    a, b = (a, b) if long else (F.normalize(a), F.normalize(b))
    return align(a - b), spread(torch.pdist(a))


def with_itself(a, b):
    one = F.normalize(a)
    return alignment_uniformity(a, b)[0], (one[:, None] - one).square().sum(-1).mul(-2).exp().mean().log()


def entropy(features, power=1, base=math.e):
    values = torch.linalg.svdvals(features) ** power
    shares = values / values.sum()
    return torch.special.entr(shares).sum().item() / math.log(base)


def by_the_largest(features):
    values = torch.linalg.svdvals(features)
    return torch.special.entr(values / values.max()).sum().exp()


def nan_at_zero(features):
    values = torch.linalg.svdvals(features)
    shares = values / values.sum()
    return (-shares * shares.log()).sum().exp()


def test_the_helpers_behind_the_mistakes_are_right_themselves():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(a, b, 0.3), nt_xent(a, b, 0.3))
    torch.testing.assert_close(wishes(a, b), alignment_uniformity(a, b))
    assert math.exp(entropy(a)) == pytest.approx(effective_rank(a).item(), rel=1e-5)


@pytest.mark.parametrize("name, answer", [
    ("half_life", half_life), ("half_life", in_single_precision), ("nt_xent", nt_xent), ("nt_xent", query_by_query),
    ("alignment_uniformity", alignment_uniformity), ("alignment_uniformity", with_cosines),
    ("effective_rank", effective_rank), ("effective_rank", with_an_epsilon), ("train_simclr", train_simclr),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter02, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


@pytest.mark.parametrize("name, answer, message", [
    ("half_life", lambda m: 1 / (1 - m), "worth 1/e"),
    ("half_life", lambda m: -half_life(m), "A number of steps is positive"),
    ("half_life", lambda m: half_life(1 - m), "the old one counts m"),
    ("half_life", lambda m: 0.5 / (1 - m), "the same amount at every step"),
    ("half_life", lambda m: math.log(2) / (1 - m), "is near, if m is near 1"),
    ("half_life", lambda m: math.log2(m) / math.log2(0.5), "the other way round"),
    ("nt_xent", without_length, "need length 1"),
    ("nt_xent", lambda a, b, t: loss(a, b, t, diagonal=None), "may not choose itself"),
    ("nt_xent", lambda a, b, t: loss(a, b, t, diagonal=0), "exp(0) is 1"),
    ("nt_xent", lambda a, b, t: loss(a, b, t, torch.arange(10)), "asked to choose itself"),
    ("nt_xent", lambda a, b, t: loss(a, b, t, torch.arange(5).repeat(2)), "asked to choose itself"),
    ("nt_xent", lambda a, b, t: loss(a, b, t, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6, 9, 8])), "neighbours for partners"),
    ("nt_xent", first_views_only, "ask only the first views"),
    ("nt_xent", as_in_moco, "as in MoCo"),
    ("nt_xent", lambda a, b, t: nt_xent(a, b, 1 / t), "you multiply"),
    ("nt_xent", lambda a, b, t: nt_xent(a, b, 1), "temperature is missing"),
    ("nt_xent", lambda a, b, t: without_mean(a, b, t).sum(), "sum over queries"),
    ("nt_xent", lambda a, b, t: 2 * t * nt_xent(a, b, t), "MoCo v3's factor"),
    ("nt_xent", without_mean, "one number was expected, and 10 came. Is a mean missing?"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, long=True), "need length 1"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, spread=lambda d: (-2 * d).exp().mean().log()),
     "uniformity takes the squared distance"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, spread=lambda d: (-d**2).exp().mean().log()), "factor 2"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, spread=lambda d: (-2 * d**2).exp().mean()), "logarithm is missing"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, spread=lambda d: (-2 * d**2).exp().log().mean()),
     "not the mean of the logarithms"),
    ("alignment_uniformity", with_itself, "distance to itself"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, align=lambda d: d.square().mean()), "sums the squares"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, align=lambda d: d.norm(dim=1).mean()), "Alignment takes the squared"),
    ("alignment_uniformity", lambda a, b: alignment_uniformity(a, b)[::-1], "Alignment comes first"),
    ("alignment_uniformity", lambda a, b: alignment_uniformity(a, b)[0], "2 numbers were expected, and 1 came"),
    ("alignment_uniformity", lambda a, b: wishes(a, b, align=lambda d: d.square().sum(1)),
     "2 numbers were expected, and 7 came. Is a mean missing?"),
    ("effective_rank", lambda x: math.exp(entropy(x, power=2)), "squares of the singular values"),
    ("effective_rank", lambda x: effective_rank(x - x.mean(0)), "not to be centred"),
    ("effective_rank", entropy, "That is the entropy"),
    ("effective_rank", lambda x: math.exp(-entropy(x)), "minus sign"),
    ("effective_rank", lambda x: math.exp(entropy(x, base=2)), "in bits"),
    ("effective_rank", by_the_largest, "not by the largest"),
    ("effective_rank", torch.linalg.matrix_rank, "above a threshold"),
    ("effective_rank", nan_at_zero, "1.0000 was expected, and nan came. 0 log 0 is 0"),
    ("effective_rank", torch.linalg.svdvals, "one number was expected, and 5 came"),
    ("train_simclr", partial(train_simclr, views=lambda a, b: (a, a)), "two *different* views"),
    ("train_simclr", partial(train_simclr, loss=without_length_1), "scaled to length 1"),
    ("train_simclr", partial(train_simclr, loss=lambda a, b: -torch.cosine_similarity(a, b).mean()), "That is collapse"),
    ("train_simclr", no_training, "no weight of the network moved"),
    ("train_simclr", partial(no_training, nudge=1e-4, loss=lambda step: step), "does not fall: 2.00 in the first five"),
    ("train_simclr", partial(no_training, loss=lambda step: math.inf if step == 7 else 1), "the loss was inf in step 7"),
    ("train_simclr", partial(no_training, step_of=lambda step: 0), "it was asked for 1 different ones"),
    ("train_simclr", partial(no_training, step_of=lambda step: step + 1), "asked for step 60; steps are counted from 0 to 59"),
    ("train_simclr", lambda network, two_views, steps: [1.0], "60 losses were expected, one for each step, and 1 came"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter02, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_an_unknown_mistake_still_says_what_came(verdict):
    assert verdict(chapter02.check_half_life, lambda m: 7) == (
        False, "Not right: For a momentum of 0.9, 6.5788 was expected, and 7.0000 came.")
    result, line = verdict(chapter02.check_alignment_uniformity, lambda a, b: (2, -3))
    assert result is False and line.endswith(" was expected, and 2.0000 and -3.0000 came.")


@pytest.mark.parametrize("answer", [half_life, nt_xent, alignment_uniformity, effective_rank])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter02, f"check_{answer.__name__}"), answer)
