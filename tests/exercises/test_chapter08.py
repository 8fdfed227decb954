"""The checks of chapter 08: right answers pass, and each usual mistake fails with its name."""
import pytest
import torch

from lib.exercises import chapter08


def without(blocks, tokens, left_out):
    for depth, block in enumerate(blocks, start=1):
        if depth != left_out:
            tokens = block(tokens)
    return tokens


def chosen(blocks, tokens, numbers):
    for k in numbers:
        tokens = blocks[k - 1](tokens)
    return tokens


def fold(weights, bias, mean, std):
    new = weights / std[:, None]
    return new, bias - mean @ new


def peak_split(right):
    depth = int(right[:, ::2].double().mean(1).argmax())
    return depth, right[depth, 1::2].double().mean()


def early_exit(probabilities, threshold):
    surest, classes = probabilities.max(2)
    sure = surest >= threshold
    sure[-1] = True
    depth = sure.byte().argmax(0)
    return classes.gather(0, depth[None])[0], depth


ANSWERS = [without, fold, peak_split, early_exit]


def exits(read=lambda p: p.max(2), sure=lambda s, t: s >= t, last=True, first=lambda s: s.byte().argmax(0)):
    def answer(probabilities, threshold):
        surest, classes = read(probabilities)
        enough = sure(surest, threshold)
        if last:
            enough[-1] = True
        depth = first(enough)
        return classes.gather(0, depth[None])[0], depth
    return answer


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_right_answer_passes(answer, verdict):
    result, line = verdict(getattr(chapter08, f"check_{answer.__name__}"), answer)
    assert result is True and line.startswith("Right. "), line


def test_numbers_and_tensors_are_both_welcome(verdict):
    assert verdict(chapter08.check_peak_split, lambda right: tuple(map(torch.as_tensor, peak_split(right))))[0] is True
    assert verdict(chapter08.check_peak_split, lambda right: tuple(map(float, peak_split(right))))[0] is True


@pytest.mark.parametrize("name, answer, message", [
    ("without", lambda b, x, k: without(b, x, k - 1), "you left out the one before"),
    ("without", lambda b, x, k: without(b, x, k + 1), "you left out the one after"),
    ("without", lambda b, x, k: chosen(b, x, (1, 2, 3, 4)), "None is left out"),
    ("without", lambda b, x, k: chosen(b, x, (1, 2)), "You cut the network short"),
    ("without", lambda b, x, k: chosen(b, x, (3,)), "Only the block that was to be left out"),
    ("without", lambda b, x, k: chosen(b, x, (4,)), "Every block gets the first tokens"),
    ("without", lambda b, x, k: chosen(b, x, (4, 2, 1)), "wrong order"),
    ("without", lambda b, x, k: x, "No block runs"),
    ("without", lambda b, x, k: (b[2](x), without(b, x, k))[1], "and [3, 1, 2, 4] ran"),
    ("fold", lambda w, b, m, s: (w * s[:, None], b), "you multiply by it"),
    ("fold", lambda w, b, m, s: (w, b - m @ w), "standard deviation is missing"),
    ("fold", lambda w, b, m, s: (w / s[:, None] * m[:, None], b), "does not change the weights"),
    ("fold", lambda w, b, m, s: (w / s[:, None] ** 2, b), "not by its square"),
    ("fold", lambda w, b, m, s: ((w / s[:, None]).T, b), "Features are the first axis"),
    ("fold", lambda w, b, m, s: (w / s[:, None], b), "The mean is missing"),
    ("fold", lambda w, b, m, s: (w / s[:, None], b + m @ (w / s[:, None])), "taken off, not added"),
    ("fold", lambda w, b, m, s: (w / s[:, None], b - m @ w), "goes through the new weights"),
    ("fold", lambda w, b, m, s: (w / s[:, None], -m @ (w / s[:, None])), "old bias is missing"),
    ("fold", lambda w, b, m, s: (w / s[:, None], (b - m @ (w / s[:, None])) / s.mean()), "not divided by anything"),
    ("fold", lambda w, b, m, s: w / s[:, None], "two things were expected, and a Tensor came"),
    ("fold", lambda w, b, m, s: (w, b, m), "two things were expected, and 3 came"),
    ("peak_split", lambda r: (2, 0.4), "best depth over all images"),
    ("peak_split", lambda r: (5 - int(r[:, ::2].double().mean(1).flip(0).argmax()), 0.4), "take the first of them"),
    ("peak_split", lambda r: (int(r[:, 1::2].double().mean(1).argmax()), 0.4), "best depth of images 1, 3, 5"),
    ("peak_split", lambda r: (int(r[:, ::2].double().mean(1).argmin()), 0.4), "the worst depth"),
    ("peak_split", lambda r: (int(r[:, :5].double().mean(1).argmax()), 0.4), "choose on every second one"),
    ("peak_split", lambda r: (1, r[1, ::2].double().mean()), "had a say in the choice; take the others"),
    ("peak_split", lambda r: (1, r[1].double().mean()), "share of all images"),
    ("peak_split", lambda r: (1, int(r[1, 1::2].sum())), "not which share"),
    ("peak_split", lambda r: (1, r[:, 1::2].double().mean(1).max()), "the depth was chosen before"),
    ("early_exit", exits(sure=lambda s, t: s > t), "not above it"),
    ("early_exit", exits(last=False), "it goes to the last depth"),
    ("early_exit", lambda p, t: (p.max(2).values.argmax(0), p.max(2).values.argmax(0)), "the surest depths"),
    ("early_exit", lambda p, t: (torch.zeros(4), torch.tensor([2, 2, 2, 1])), "the last depths that are sure enough"),
    ("early_exit", lambda p, t: (torch.zeros(4), torch.where((p.max(2).values >= t).any(0), early_exit(p, t)[1],
                                                             p.max(2).values.argmax(0))), "not to its surest"),
    ("early_exit", lambda p, t: early_exit(p, 0.8), "the one that you are given"),
    ("early_exit", lambda p, t: (early_exit(p, t)[0], early_exit(p, t)[1] + 1), "count from 0"),
    ("early_exit", lambda p, t: early_exit(p, t)[::-1], "Classes come first"),
    ("early_exit", lambda p, t: (p[-1].argmax(1), early_exit(p, t)[1]), "classes of the last depth"),
    ("early_exit", lambda p, t: (p[0].argmax(1), early_exit(p, t)[1]), "classes of the first depth"),
    ("early_exit", lambda p, t: (torch.tensor([0.9, 0.8, 0.5, 0.85]), early_exit(p, t)[1]), "how sure it is"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter08, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_an_unknown_mistake_still_says_what_came(verdict):
    result, line = verdict(chapter08.check_peak_split, lambda right: (1, 0.123))
    assert result is False and line.endswith("was expected, and 0.1230 came."), line


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter08, f"check_{answer.__name__}"), answer)
