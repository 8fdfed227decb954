"""Checks of chapter 12, at paper scale."""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import CourseError
from lib.exercises import check, compare, number


@check
def check_misfits(misfits) -> str:
    """misfits(wanted, given), dicts of name -> shape -> sorted list of the names that do not fit."""
    wanted = {"cls_token": (1, 1, 8), "pos_embed": (1, 5, 8), "qkv.weight": (24, 8), "norm.weight": (8,), "norm.bias": (8,)}
    given = {"pos_embed": (1, 10, 8), "norm.weight": (8,), "qkv.weight": (8, 24), "norm.bias": (8,), "head.weight": (10, 8),
             "a.scale": (8,)}
    missing, left, other = {"cls_token"}, {"head.weight", "a.scale"}, {"pos_embed", "qkv.weight"}
    expected, got = sorted(missing | left | other), misfits(dict(wanted), dict(given))
    hints = {
        "A name that is in both may have another shape: compare shapes too.": missing | left,
        "Weights that the network lacks count too: look at the names of both.": missing | other,
        "Weights that the file lacks count too: look at the names of both.": left | other,
        "These are the missing ones only.": missing, "These are the ones left over only.": left,
        "Names that one of the two lacks count too.": other,
        "These are the names that fit.": {"norm.weight", "norm.bias"},
        "These are all names.": set(wanted | given),
        "Compare shapes entry by entry: (24, 8) and (8, 24) are as large, and not alike.": set(expected) - {"qkv.weight"},
    }
    if not isinstance(got, list):
        raise CourseError(f"a list of names was expected, and a {type(got).__name__} came. "
                          + ("Is the return missing?" if got is None else "sorted() makes one"))
    if got != expected:
        names = {str(name) for name in got}
        hint = "Sort them." if names == set(expected) and len(got) == len(expected) else \
            next((text for text, wrong in hints.items() if names == wrong), "")
        raise CourseError(f"{', '.join(expected)} were expected, and {', '.join(map(str, got)) or 'none'} came. {hint}")
    if misfits(dict(wanted), dict(wanted)) != []:
        raise CourseError("where all weights fit, [] was expected, and something else came")
    return "With an empty list you may load the weights. The number of heads it cannot see."


@check
def check_vit_parameters(vit_parameters) -> str:
    """vit_parameters(dim, depth, patch, patches) -> a number of weights."""
    def count(d: int, depth: int, patch: int, n: int, norms=4, biases=9, width=4, colours=3, cls=1, last=2, matrices=4) -> int:
        block = matrices * d * d + 2 * width * d * d + biases * d + norms * d
        return colours * patch**2 * d + d + cls * d + (1 + n) * d + depth * block + last * d

    sizes = (8, 3, 4, 25)
    right = count(*sizes)
    wrong = {
        "That is dim too few: is it the CLS token, its position, or the bias of the patch projection?": count(*sizes, cls=0),
        "That is 2 dim too few: is it the last norm, or CLS and its position?": count(*sizes, last=0),
        "A pixel has three colours.": count(*sizes, colours=1),
        "The norms of the blocks are missing: scale and shift of two norms are 4 dim.": count(*sizes, norms=0),
        "A norm has a scale and a shift; you counted one of them in the blocks.": count(*sizes, norms=2),
        "The biases of the blocks' linear layers are missing: 3 + 1 + 4 + 1 times dim.": count(*sizes, biases=0),
        "Queries, keys and values have biases too: 3 dim.": count(*sizes, biases=6),
        "The first layer of the MLP has 4 dim biases, the second dim.": count(*sizes, biases=8),
        "Queries, keys and values are three matrices, and the projection is a fourth.": count(*sizes, matrices=3),
        "The MLP is 4 dim wide inside, and has two layers: 8 dim² in all.": count(*sizes, width=2),
        "Count all blocks, `depth` of them.": count(*sizes) - 2 * (12 * 64 + 13 * 8),
        "This is 1,000 classes more: leave the classifier out.": right + 1000 * 8 + 1000,
    }
    given = "For a width of 8, 3 blocks, patches of 4 pixels and 25 of them"
    got = number(vit_parameters(*sizes), given)
    compare(got, torch.tensor(right), {text: torch.tensor(number) for text, number in wrong.items()}, given)
    given = "For ViT-B/16"
    compare(number(vit_parameters(768, 12, 16, 196), given), torch.tensor(85_798_656), {}, given)
    return "ViT-B/16 has 85,798,656."


@check
def check_gathered_info_nce(gathered_info_nce) -> str:
    """gathered_info_nce(queries (B, D), keys (P B, D), rank, temperature) -> a number."""
    generator = torch.Generator().manual_seed(5)
    queries, keys = (torch.randn(n, 6, generator=generator, dtype=torch.float64) * 2 for n in (4, 12))
    keys[8:] += queries                                            # rank 2 has the keys 8 to 11
    temperature, own = 0.4, torch.arange(4)

    def loss(q: Tensor = queries, k: Tensor = keys, own: Tensor = own + 8, t: float = temperature, norm: bool = True,
             **options) -> Tensor:
        q, k = (F.normalize(x, dim=1) if norm else x for x in (q, k))
        return F.cross_entropy(q @ k.T / t, own, **options)

    wrong = {
        "The keys of your queries are not the first ones: they begin at rank * B.": loss(own=own),
        "You compare with your own keys only; the negatives of the other processes are missing.": loss(k=keys[8:], own=own),
        "Your keys begin at rank * B, with B the number of your queries, not at rank.": loss(own=own + 2),
        "The ranks begin at 0.": loss(own=own + 4),
        "Divide the cosines by the temperature.": loss(t=1.0),
        "Divide by the temperature; you multiply.": loss(t=1 / temperature),
        "Compare by cosine: divide queries and keys by their length.": loss(norm=False),
        "Divide the keys by their length as well.": loss(q=F.normalize(queries, dim=1), norm=False),
        "Divide the queries by their length as well.": loss(k=F.normalize(keys, dim=1), norm=False),
        "The mean over queries, not the sum.": loss(reduction="sum"),
        "No factor in front: leave out 2 * temperature.": 2 * temperature * loss(),
        "A loss is minus the logarithm.": -loss(),
    }
    given = "For 4 queries of process 2 and the keys of 3 processes"
    got = number(gathered_info_nce(queries.clone(), keys.clone(), 2, temperature), given)
    compare(got, loss(), wrong, given)
    given = "For process 0"
    first = number(gathered_info_nce(queries.clone(), keys.clone(), 0, temperature), given)
    compare(first, loss(own=own), {}, given)
    return "Four keys are yours, and all twelve are compared."


@check
def check_whole_variance(whole_variance) -> str:
    """whole_variance(counts (P,), means (P, D), variances (P, D)) -> (D,)."""
    generator = torch.Generator().manual_seed(6)
    parts = [torch.randn(n, 2, generator=generator, dtype=torch.float64) * (1 + n / 4) + n for n in (2, 3, 7)]
    counts = torch.tensor([2.0, 3, 7], dtype=torch.float64)
    means, variances = torch.stack([x.mean(0) for x in parts]), torch.stack([x.var(0, correction=0) for x in parts])
    whole, share = torch.cat(parts), (counts / counts.sum())[:, None]
    mean = (share * means).sum(0)
    within, between = (share * variances).sum(0), (share * (means - mean).square()).sum(0)
    right = whole.var(0, correction=0)
    wrong = {
        "This is the variance within processes; that between their means is missing.": within,
        "This is the variance between the means; that within processes is missing.": between,
        "Processes count by their images: weigh the variances.": variances.mean(0) + between,
        "Processes count by their images: weigh the squared distances of the means.":
            within + (means - mean).square().mean(0),
        "Processes count by their images: weigh their means as well.":
            within + (share * (means - means.mean(0)).square()).sum(0),
        "Processes count by their images: weigh everything.":
            variances.mean(0) + (means - means.mean(0)).square().mean(0),
        "Weigh the variances too; and the mean of a process counts as its images.": variances.mean(0),
        "Variances add up, standard deviations do not.": ((share * variances.sqrt()).sum(0)).square() + between,
        "Divide by the count, not by one less.": whole.var(0),
        "The square is missing: these are distances of the means.": within + (share * (means - mean).abs()).sum(0),
        "Subtract the square of the whole mean: E[x²] - E[x]².": (share * (variances + means.square())).sum(0),
        "The variance was asked for, not the standard deviation.": right.sqrt(),
    }
    given = "For 2, 3 and 7 images of 2 channels"
    compare(whole_variance(counts.clone(), means.clone(), variances.clone()), right, wrong, given)
    return "Three numbers a channel travel, whatever the size of the batch."
