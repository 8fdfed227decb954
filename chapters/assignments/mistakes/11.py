"""Usual mistakes of assignment 11: task__mistake, and what a check says to it."""


def _line(progress, first, last, low=0.0, high=1.0):
    return first + (last - first) * min(max(progress, low), high)


def weight_at__one_late(step, steps, first, last, hold):
    """The line begins in the last of the steps that are held, number hold - 1; yours begins a step later."""
    return _line((step - hold) / (steps - 2 * hold), first, last)


def weight_at__one_early(step, steps, first, last, hold):
    """The line ends in step steps - hold, the first that is held again; yours ends a step earlier."""
    return _line((step - hold + 1) / (steps - 2 * hold), first, last)


def weight_at__goes_on(step, steps, first, last, hold):
    """The line goes on where λ is held: λ stays between `first` and `last`."""
    return _line((step - hold + 1) / (steps - 2 * hold + 1), first, last, -9, 9)


def weight_at__held_at_first(step, steps, first, last, hold):
    """λ is held at the end as well, for the last `hold` steps."""
    return _line((step - hold + 1) / (steps - hold), first, last)


def weight_at__held_at_last(step, steps, first, last, hold):
    """λ is held at the beginning as well, for the first `hold` steps."""
    return _line(step / (steps - hold), first, last)


def weight_at__not_held(step, steps, first, last, hold):
    """λ is held for `hold` steps at the beginning and at the end; your line goes from the first step to the last."""
    return _line(step / (steps - 1), first, last)


def weight_at__backwards(step, steps, first, last, hold):
    """It goes from `first` to `last`; yours goes the other way."""
    return weight_at(step, steps, last, first, hold)


def weight_at__cosine(step, steps, first, last, hold):
    """A straight line was asked for, not a cosine."""
    progress = min(max((step - hold + 1) / (steps - 2 * hold + 1), 0.0), 1.0)
    return first + (last - first) * (1 - math.cos(math.pi * progress)) / 2


def weight_at__progress(step, steps, first, last, hold):
    """That is how far the line has gone, from 0 to 1; go that far from `first` to `last`."""
    return weight_at(step, steps, 0.0, 1.0, hold)


def _choose(weights, right, choose=0, measure=1, middle=slice(1, -1), parent=max, choose_parent=None, half=None, back=1):
    """choose, measure, choose_parent: 0 even images, 1 odd images, None all."""
    part = {0: right[:, ::2].double(), 1: right[:, 1::2].double(), None: right.double()}
    chosen = (middle.start or 0) + int(part[choose].mean(1)[middle].argmax())
    score = part[choose_parent if choose_parent is not None else choose].mean(1)
    other = parent((0, len(right) - 1), key=lambda row: score[row])
    d = back * (part[measure][chosen] - part[measure][other])
    return weights[chosen], d.mean(), (half or (lambda d: 1.96 * d.std() / len(d) ** 0.5))(d)


def choose_weight__on_all(weights, right):
    """You choose and measure on all images: choose on the even ones, measure on the odd ones."""
    return _choose(weights, right, None, None)


def choose_weight__on_even(weights, right):
    """You measure on the images you chose on; measure on the odd ones."""
    return _choose(weights, right, 0, 0)


def choose_weight__on_odd(weights, right):
    """You choose and measure on odd images; choose on the even ones."""
    return _choose(weights, right, 1, 1)


def choose_weight__halves_swapped(weights, right):
    """You choose on odd images and measure on even ones: the other way round."""
    return _choose(weights, right, 1, 0)


def choose_weight__chosen_on_all(weights, right):
    """You choose on all images, so those that measure had a say; choose on the even ones."""
    return _choose(weights, right, None, 1)


def choose_weight__measured_on_all(weights, right):
    """You measure on all images; those that chose must not measure."""
    return _choose(weights, right, 0, None)


def choose_weight__parent_on_odd(weights, right):
    """Unseen: chooses the parent on odd images."""
    return _choose(weights, right, choose_parent=1)


def choose_weight__worse_parent(weights, right):
    """You compare with the worse parent; take the better one."""
    return _choose(weights, right, parent=min)


def choose_weight__backwards(weights, right):
    """The lead has the wrong sign: the chosen network less the parent."""
    return _choose(weights, right, back=-1)


def choose_weight__number(weights, right):
    """The first result is the number of the network; return its λ."""
    weight, lead, half = choose_weight(weights, right)
    return int((weights == weight).nonzero()), lead, half


def choose_weight__number_among_the_middle(weights, right):
    """The first of those between is number 1 of all: you look up the λ one place too early."""
    weight, lead, half = choose_weight(weights, right)
    return weights[int((weights == weight).nonzero()) - 1], lead, half


def choose_weight__deviation(weights, right):
    """The half width is of the mean: divide s by the root of n."""
    return _choose(weights, right, half=lambda d: 1.96 * d.std())


def choose_weight__by_n(weights, right):
    """Divide s by the root of n, not by n."""
    return _choose(weights, right, half=lambda d: 1.96 * d.std() / len(d))


def choose_weight__standard_error(weights, right):
    """That is the standard error; the half width of a 95 % interval is 1.96 of it."""
    return _choose(weights, right, half=lambda d: d.std() / len(d) ** 0.5)


def choose_weight__whole_width(weights, right):
    """That is the whole width of the interval; return half of it."""
    return _choose(weights, right, half=lambda d: 2 * 1.96 * d.std() / len(d) ** 0.5)


def choose_weight__divided_by_n(weights, right):
    """s divides by n - 1, not by n."""
    return _choose(weights, right, half=lambda d: 1.96 * d.std(correction=0) / len(d) ** 0.5)


def choose_weight__not_paired(weights, right):
    """You take the two networks as independent; they saw the same images, so take s of the differences."""
    weight, lead, _ = choose_weight(weights, right)
    even, odd = right[:, ::2].double().mean(1), right[:, 1::2].double()
    pair = odd[int((weights == weight).nonzero())], odd[0 if even[0] > even[-1] else -1]
    return weight, lead, 1.96 * ((pair[0].var() + pair[1].var()) / odd.shape[1]) ** 0.5


def choose_weight__with_parents(weights, right):
    """Unseen: lets the parents compete for the best λ."""
    return _choose(weights, right, middle=slice(None))


def _mim(predicted, target, mask):
    return (predicted - target)[mask].abs().mean()


def _cl(queries, keys, temperature, columns=False, unit=True):
    if unit:
        queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    logits = queries @ keys.T / temperature
    return 2 * temperature * F.cross_entropy(logits.T if columns else logits, torch.arange(len(logits)))


def _both(predicted, target, mask, queries, keys, weight, temperature, mim=_mim, cl=_cl):
    loss = 0.0
    if weight < 1:
        loss = loss + (1 - weight) * mim(predicted, target, mask)
    if weight > 0:
        loss = loss + weight * cl(queries, keys, temperature)
    return loss


def hybrid_loss__swapped(predicted, target, mask, queries, keys, weight, temperature):
    """λ is the weight of the contrastive half; you gave it to the masked one."""
    masked = weight * _mim(predicted, target, mask) if weight < 1 else 0.0
    return masked + ((1 - weight) * _cl(queries, keys, temperature) if weight > 0 else 0.0)


def hybrid_loss__masked_counts_whole(predicted, target, mask, queries, keys, weight, temperature):
    """The masked half counts 1 - λ."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, mim=lambda *x: _mim(*x) / (1 - weight))


def hybrid_loss__contrastive_counts_whole(predicted, target, mask, queries, keys, weight, temperature):
    """The contrastive half counts λ."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, cl=lambda *x: _cl(*x) / weight)


def hybrid_loss__no_contrastive_half(predicted, target, mask, queries, keys, weight, temperature):
    """At λ = 0 queries and keys are None: leave the contrastive half out, as 0 times it still has to be computed."""
    masked = (1 - weight) * _mim(predicted, target, mask) if weight < 1 else 0.0
    return masked + weight * _cl(queries, keys, temperature)


def hybrid_loss__no_masked_half(predicted, target, mask, queries, keys, weight, temperature):
    """At λ = 1 predicted, target and mask are None: leave the masked half out, as 0 times it still has to be computed."""
    contrastive = _cl(queries, keys, temperature) if weight > 0 else 0
    return (1 - weight) * _mim(predicted, target, mask) + weight * contrastive


def hybrid_loss__all_patches(predicted, target, mask, queries, keys, weight, temperature):
    """Only masked patches count; you take all of them."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, mim=lambda p, t, m: (p - t).abs().mean())


def hybrid_loss__divided_by_all(predicted, target, mask, queries, keys, weight, temperature):
    """You divide by the number of all pixels; divide by that of the masked ones."""
    return _both(predicted, target, mask, queries, keys, weight, temperature,
                 mim=lambda p, t, m: ((p - t).abs() * m[..., None]).mean())


def hybrid_loss__sum_of_a_patch(predicted, target, mask, queries, keys, weight, temperature):
    """You divide by the number of masked patches; take the mean over their pixels too."""
    return _both(predicted, target, mask, queries, keys, weight, temperature,
                 mim=lambda p, t, m: (p - t)[m].abs().sum(-1).mean())


def hybrid_loss__visible_patches(predicted, target, mask, queries, keys, weight, temperature):
    """These are the visible patches: True is masked."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, mim=lambda p, t, m: _mim(p, t, ~m))


def hybrid_loss__each_image(predicted, target, mask, queries, keys, weight, temperature):
    """You take the mean of each image first; all masked patches of the minibatch count alike."""
    return _both(predicted, target, mask, queries, keys, weight, temperature,
                 mim=lambda p, t, m: torch.stack([(a - b)[c].abs().mean() for a, b, c in zip(p, t, m)]).mean())


def hybrid_loss__squares(predicted, target, mask, queries, keys, weight, temperature):
    """SimMIM takes the absolute error, not its square."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, mim=lambda p, t, m: (p - t)[m].square().mean())


def hybrid_loss__not_normalised(predicted, target, mask, queries, keys, weight, temperature):
    """Queries and keys need length 1."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, cl=lambda *x: _cl(*x, unit=False))


def hybrid_loss__columns(predicted, target, mask, queries, keys, weight, temperature):
    """Your softmax runs over queries; each query chooses among all keys, in a row of queries @ keys.T."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, cl=lambda *x: _cl(*x, columns=True))


def hybrid_loss__no_factor(predicted, target, mask, queries, keys, weight, temperature):
    """The factor 2τ is missing."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, cl=lambda *x: _cl(*x) / (2 * temperature))


def hybrid_loss__only_temperature(predicted, target, mask, queries, keys, weight, temperature):
    """The factor is 2τ, not τ."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, cl=lambda *x: _cl(*x) / 2)


def hybrid_loss__no_temperature(predicted, target, mask, queries, keys, weight, temperature):
    """The products are divided by the temperature before the softmax."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, cl=lambda q, k, t: t * _cl(q, k, 1.0))


def hybrid_loss__multiplied(predicted, target, mask, queries, keys, weight, temperature):
    """The products are divided by the temperature; you multiply."""
    return _both(predicted, target, mask, queries, keys, weight, temperature, cl=lambda q, k, t: t * t * _cl(q, k, 1 / t))


def _vectors(first, second, block, dot="."):
    """Both gradients of a block, each as one vector, with zeros for None."""
    found = ([], [])
    for name in first:
        if name.startswith(f"blocks.{block}{dot}"):
            a, b = first[name], second[name]
            found[0].append((torch.zeros_like(b) if a is None else a).flatten())
            found[1].append((torch.zeros_like(a) if b is None else b).flatten())
    return [torch.cat(side) for side in found]


def _cosines(first, second, blocks, dot=".", of=lambda a, b: F.cosine_similarity(a, b, dim=0)):
    return torch.stack([of(*_vectors(first, second, block, dot)) for block in range(blocks)])


def block_cosines__number_begins_alike(first, second, blocks):
    """`blocks.1` also begins the names of blocks 10 and 11: look for `blocks.1.`, with the dot."""
    return _cosines(first, second, blocks, dot="")


def block_cosines__mean_of_parameters(first, second, blocks):
    """You take the cosine of each parameter, then the mean; all gradients of a block are one vector."""
    found = []
    for block in range(blocks):
        pairs = [(first[n], second[n]) for n in first if n.startswith(f"blocks.{block}.")]
        found.append(torch.stack([torch.zeros(()) if a is None or b is None else
                                  F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pairs]).mean())
    return torch.stack(found)


def block_cosines__left_out(first, second, blocks):
    """You leave a parameter out where one gradient is None; the other one still counts for the length."""
    kept = [name for name in first if first[name] is not None and second[name] is not None]
    return block_cosines(*({name: side[name] for name in kept} for side in (first, second)), blocks)


def block_cosines__none(first, second, blocks):
    """A gradient may be None: it counts as zeros."""
    return torch.stack([F.cosine_similarity(*(torch.cat([side[n].flatten() for n in first if n.startswith(f"blocks.{b}.")])
                                              for side in (first, second)), dim=0) for b in range(blocks)])


def block_cosines__products(first, second, blocks):
    """These are products; divide by the lengths of both."""
    return _cosines(first, second, blocks, of=lambda a, b: a @ b)


def block_cosines__by_first(first, second, blocks):
    """You divide by the length of the first gradient alone."""
    return _cosines(first, second, blocks, of=lambda a, b: a @ b / a.norm())


def block_cosines__squares(first, second, blocks):
    """Below stand the lengths, not their squares."""
    return _cosines(first, second, blocks, of=lambda a, b: a @ b / (a.square().sum() * b.square().sum()))


def block_cosines__absolute(first, second, blocks):
    """A cosine has a sign, and it is the point here: opposite gradients have -1."""
    return block_cosines(first, second, blocks).abs()


def block_cosines__from_one(first, second, blocks):
    """Blocks are numbered from 0 here: the first number is that of `blocks.0.`."""
    return torch.cat([block_cosines(first, second, blocks)[1:], torch.zeros(1)])


def block_cosines__whole_network(first, second, blocks):
    """All blocks together have gone into one cosine; take one for each."""
    vectors = zip(*(_vectors(first, second, block) for block in range(blocks)))
    return F.cosine_similarity(*(torch.cat(side) for side in vectors), dim=0)


def block_cosines__weights_only(first, second, blocks):
    """Biases are parameters of a block as well; you left them out."""
    return block_cosines({name: x for name, x in first.items() if "bias" not in name}, second, blocks)


def block_cosines__first_parameter(first, second, blocks):
    """You take one parameter of each block; take all of them."""
    kept = {name: x for name, x in first.items() if "qkv.weight" in name or "norm1.weight" in name}
    return block_cosines(kept, second, blocks)


def block_cosines__by_order(first, second, blocks):
    """Unseen: goes through both dictionaries in their order, whatever the names."""
    return block_cosines(first, dict(zip(first, second.values())), blocks)


def block_cosines__nothing_by_nothing(first, second, blocks):
    """Unseen: 0 / 0 where a loss does not reach a block."""
    return _cosines(first, second, blocks, of=lambda a, b: a @ b / (a.norm() * b.norm()))
