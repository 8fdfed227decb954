"""Usual mistakes of assignment 08: task__mistake, and what a check says to it."""


def overtakes__first_time(first, second):
    """That is the first depth at which it is above; it falls behind again: look for the one from which on it stays above."""
    return int((second > first).byte().argmax())


def overtakes__level(first, second):
    """Level is not above."""
    behind = (second < first).nonzero().flatten()
    return int(behind[-1]) + 1 if len(behind) else 0


def overtakes__other_way(first, second):
    """You look for the depth from which on the first is above the second."""
    return overtakes(second, first)


def overtakes__from_one(first, second):
    """Depths count from 0."""
    return overtakes(first, second) + 1


def overtakes__one_before(first, second):
    """That is the last depth at which it is not above; the answer is the next one."""
    return overtakes(first, second) - 1


def overtakes__count(first, second):
    """That is the number of depths at which it is above, in whatever order."""
    return int((second > first).sum())


def overtakes__largest_lead(first, second):
    """That is where it is farthest ahead."""
    return int((second - first).argmax())


def overtakes__minus_one(first, second):
    """If it is not above at the last depth, the answer is the number of depths."""
    depth = overtakes(first, second)
    return -1 if depth == len(first) else depth


def _cosines(stream, prefix, a=None, b=None):
    patches = stream[:, :, prefix:]
    return F.cosine_similarity(patches[:-1] if a is None else a(patches), patches[1:] if b is None else b(patches), dim=-1)


def influence__cosine(stream, prefix):
    """That is the mean cosine; the influence is one less it."""
    return _cosines(stream, prefix).mean((1, 2))


def influence__prefix_kept(stream, prefix):
    """All tokens count in yours: drop the prefix first."""
    return influence(stream, 0)


def influence__one_dropped(stream, prefix):
    """You drop one token; `prefix` tokens come before the patches."""
    return influence(stream, 1)


def influence__last_dropped(stream, prefix):
    """The prefix stands at the front; you dropped tokens from the end."""
    return influence(stream[:, :, :-prefix], 0)


def influence__prefix_only(stream, prefix):
    """That is the influence on the prefix; the patches were asked for."""
    return influence(stream[:, :, :prefix], 0)


def influence__from_the_start(stream, prefix):
    """You compare with depth 0 each time; compare with what came into the block."""
    return 1 - _cosines(stream, prefix, a=lambda x: x[:1].expand_as(x[1:])).mean((1, 2))


def influence__branch(stream, prefix):
    """You compare what came in with what the block added; compare it with what comes out."""
    return 1 - _cosines(stream, prefix, b=lambda x: x[1:] - x[:-1]).mean((1, 2))


def influence__mean_token(stream, prefix):
    """You average the tokens of an image first; take the cosine of each token, then the mean."""
    return 1 - _cosines(stream[:, :, prefix:].mean(2, keepdim=True), 0).mean((1, 2))


def influence__whole_image(stream, prefix):
    """You take all tokens of an image as one long vector; take the cosine of each token, then the mean."""
    return 1 - _cosines(stream[:, :, prefix:].flatten(2)[:, :, None], 0).mean((1, 2))


def influence__products(stream, prefix):
    """These are products, not cosines: divide by both lengths."""
    patches = stream[:, :, prefix:]
    return 1 - (patches[:-1] * patches[1:]).sum(-1).mean((1, 2))


def influence__over_tokens(stream, prefix):
    """You take the cosine over tokens for each channel; it runs over channels, dim=-1."""
    return 1 - F.cosine_similarity(stream[:-1, :, prefix:], stream[1:, :, prefix:], dim=2).mean((1, 2))


def influence__centred(stream, prefix):
    """The tokens are not to be centred here."""
    patches = stream[:, :, prefix:]
    return influence(patches - patches.mean((1, 2), keepdim=True), 0)


def influence__each_image(stream, prefix):
    """These are the influences on each image; take the mean over images too."""
    return 1 - _cosines(stream, prefix).mean(2)


def influence__distance(stream, prefix):
    """That is the length of the step, not an angle: one less the cosine."""
    patches = stream[:, :, prefix:]
    return ((patches[1:] - patches[:-1]).norm(dim=-1) / patches[:-1].norm(dim=-1)).mean((1, 2))


def _left(x, y, bias=True):
    x, y = x.double(), y.double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1) if bias else x
    return y - x @ torch.linalg.lstsq(x, y).solution


def _total(y):
    return (y.double() - y.double().mean(0)).square().sum()


def _r2(x, y, bias=True, total=None):
    return 1 - _left(x, y, bias).square().sum() / (_total(y) if total is None else total)


def _both(before, after):
    return torch.cat([before, after], 1)


def added_r2__after_less_before(before, after, targets):
    """You compare the two alone, as the curve of a probe does; fit the features before and after the block together."""
    return _r2(after, targets) - _r2(before, targets)


def added_r2__both(before, after, targets):
    """That is the R² of both together; take off what was there before."""
    return _r2(_both(before, after), targets)


def added_r2__over_after(before, after, targets):
    """You take the R² *after* the block off; take off that before it."""
    return _r2(_both(before, after), targets) - _r2(after, targets)


def added_r2__of_the_rest(before, after, targets):
    """You divide by what was left unread before the block; divide by all the variance of the targets."""
    return 1 - _left(_both(before, after), targets).square().sum() / _left(before, targets).square().sum()


def added_r2__one_after_another(before, after, targets):
    """You fit the features after the block to what the first fit left; fit both in one go, for they may share something."""
    rest = _left(before, targets)
    return (rest.square().sum() - _left(after, rest).square().sum()) / _total(targets)


def added_r2__no_bias(before, after, targets):
    """The bias is missing: add a column of ones, or take the means off."""
    return _r2(_both(before, after), targets, bias=False) - _r2(before, targets, bias=False)


def added_r2__not_centred(before, after, targets):
    """Below the line stands the variance of the targets: take their mean off."""
    total = targets.double().square().sum()
    return _r2(_both(before, after), targets, total=total) - _r2(before, targets, total=total)


def added_r2__one_mean(before, after, targets):
    """Each column of the targets has a mean of its own, over images: mean(0)."""
    total = (targets.double() - targets.double().mean()).square().sum()
    return _r2(_both(before, after), targets, total=total) - _r2(before, targets, total=total)


def added_r2__mean_of_columns(before, after, targets):
    """You average the R² of each column; the sums run over all columns before you divide."""
    return torch.stack([added_r2(before, after, y[:, None]) for y in targets.T]).mean()


def added_r2__each_column(before, after, targets):
    """This is one number for each column; the sums run over all columns before you divide."""
    return torch.stack([added_r2(before, after, y[:, None]) for y in targets.T])


def added_r2__sign(before, after, targets):
    """The difference is the other way round: both together less before."""
    return -added_r2(before, after, targets)


def added_r2__not_divided(before, after, targets):
    """Divide by the variance of the targets."""
    return added_r2(before, after, targets) * _total(targets)


def added_r2__root(before, after, targets):
    """You compare lengths (norms); the sums are of squares."""
    return (_left(before, targets).norm() - _left(_both(before, after), targets).norm()) / _total(targets).sqrt()


def added_r2__below_each_other(before, after, targets):
    """The features stand side by side, cat(..., dim=1); you put them below each other."""
    return _r2(torch.cat([before, after]), targets) - _r2(before, targets)


def added_r2__normal_equations(before, after, targets):
    """Unseen: inverts XᵀX, which has no inverse where features are combinations of others."""
    y = targets.double() - targets.double().mean(0)
    left = []
    for x in (before.double(), _both(before, after).double()):
        x = x - x.mean(0)
        left.append((y - x @ torch.linalg.solve(x.T @ x, x.T @ y)).square().sum())
    return (left[0] - left[1]) / y.square().sum()


def _turned(features, targets, queries, rotate, start=None, end=None, product=None):
    start = features.mean(0) if start is None else start
    end = targets.mean(0) if end is None else end
    product = (features - features.mean(0)).T @ (targets - targets.mean(0)) if product is None else product
    return (queries - start) @ rotate(*torch.linalg.svd(product)) + end


def turn__other_way(features, targets, queries):
    """You turn the other way round: R is U Vᵀ, not V Uᵀ."""
    return _turned(features, targets, queries, lambda u, s, vt: (u @ vt).T)


def turn__transposed_twice(features, targets, queries):
    """torch.linalg.svd returns Vᵀ already; you transpose it again."""
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt.T)


def turn__product(features, targets, queries):
    """That is the product of both itself; of its decomposition, leave the singular values out."""
    return _turned(features, targets, queries, lambda u, s, vt: u * s @ vt)


def turn__least_squares(features, targets, queries):
    """You fit any linear map; only a rotation or reflection is allowed."""
    x, y = features - features.mean(0), targets - targets.mean(0)
    return (queries - features.mean(0)) @ torch.linalg.lstsq(x, y).solution + targets.mean(0)


def turn__stretched(features, targets, queries):
    """You stretch as well; only a rotation or reflection is allowed."""
    size = (features - features.mean(0)).square().sum()
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt * s.sum() / size)


def turn__no_reflection(features, targets, queries):
    """You forbid reflections; R may be one."""
    def proper(u, s, vt):
        signs = torch.ones(len(s))
        signs[-1] = torch.linalg.det(u @ vt).sign()
        return u * signs @ vt
    return _turned(features, targets, queries, proper)


def turn__not_centred(features, targets, queries):
    """The means come off before the decomposition; you used features and targets as they are."""
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt, product=features.T @ targets)


def turn__no_means(features, targets, queries):
    """The means are missing everywhere: take them off, turn, and add that of the targets."""
    none = torch.zeros(features.shape[1])
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt, none, none, features.T @ targets)


def turn__mean_not_added(features, targets, queries):
    """The mean of the targets has to be added in the end."""
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt, end=torch.zeros(features.shape[1]))


def turn__mean_not_taken_off(features, targets, queries):
    """The mean of the features comes off the queries too."""
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt, start=torch.zeros(features.shape[1]))


def turn__own_mean(features, targets, queries):
    """The mean that comes off the queries is that of the features, not their own."""
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt, start=queries.mean(0))


def turn__means_swapped(features, targets, queries):
    """The two means changed places: take off that of the features, add that of the targets."""
    return _turned(features, targets, queries, lambda u, s, vt: u @ vt, start=targets.mean(0), end=features.mean(0))


def turn__only_moved(features, targets, queries):
    """You only moved the queries by the difference of the means; turn them too."""
    return _turned(features, targets, queries, lambda u, s, vt: torch.eye(len(s)))


def turn__rotation(features, targets, queries):
    """This is R; return the queries, turned."""
    u, _, vt = torch.linalg.svd((features - features.mean(0)).T @ (targets - targets.mean(0)))
    return u @ vt
