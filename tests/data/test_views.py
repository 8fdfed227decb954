"""Augmentation: each operation against torchvision, the law of the draws, and one draw for each image."""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as reference
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from lib import random
from lib.data import views
from lib.data.rand_augment import rand_augment
from lib.data.views import MOCO_V3, PLAIN, SIMMIM, ViewRecipe, denormalize, draw, make_view, normalize, without
from lib.errors import CourseError

CLOSE = {"rtol": 0, "atol": 1e-5}                                 # values in [0, 1]; float32 resolves 1e-7
B = 12


def photos(n: int = B, height: int = 40, width: int = 52) -> torch.Tensor:
    """uint8: fine noise, coarse noise, and in every image some greys, black, white and pure colours."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, height, width, generator=g)
    x[::2] = F.interpolate(x[::2, :, ::8, ::8], (height, width), mode="bilinear")
    x[:, :, :6] = torch.rand(n, 1, 6, width, generator=g)
    x[:, :, 6:9] = (torch.rand(n, 3, 3, width, generator=g) > 0.5).float()
    return (x * 255).round().to(torch.uint8)


def numbers(low: float, high: float, n: int = B) -> torch.Tensor:
    return low + (high - low) * random.uniform(random.combine("test"), n)


def keys(n: int = B, epoch: int = 0, view: int = 1) -> torch.Tensor:
    return random.combine(0, epoch, torch.arange(n), view)


IMAGES = photos() / 255
WHICH = torch.arange(B) % 3 == 0
ON_SOME = {
    "flip": (views.flip, reference.horizontal_flip),
    "grayscale": (views.grayscale, lambda x: reference.rgb_to_grayscale(x, 3)),
    "solarize": (views.solarize, lambda x: reference.solarize(x, 0.5)),
}
BY_FACTOR = {
    "brightness": (views.adjust_brightness, reference.adjust_brightness, 0, 2.5),
    "contrast": (views.adjust_contrast, reference.adjust_contrast, 0, 2.5),
    "saturation": (views.adjust_saturation, reference.adjust_saturation, 0, 2.5),
    "hue": (views.adjust_hue, reference.adjust_hue, -0.5, 0.5),
}


@pytest.mark.parametrize("name", ON_SOME)
def test_operation_on_some_images_agrees_with_torchvision(name):
    ours, theirs = ON_SOME[name]
    expected = torch.stack([theirs(x) if w else x for x, w in zip(IMAGES, WHICH, strict=True)])
    torch.testing.assert_close(ours(IMAGES, WHICH), expected, **CLOSE)


@pytest.mark.parametrize("name", BY_FACTOR)
def test_colour_operation_agrees_with_torchvision(name):
    ours, theirs, low, high = BY_FACTOR[name]
    factors = numbers(low, high)
    expected = torch.stack([theirs(x, f) for x, f in zip(IMAGES, factors.tolist(), strict=True)])
    torch.testing.assert_close(ours(IMAGES, factors), expected, **CLOSE)


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("size", [8, 24, 40, 96])                 # shrinks most boxes, ..., enlarges all
def test_resized_crop_agrees_with_torchvision(size, bicubic):
    boxes = torch.cat([draw(MOCO_V3[0], keys(9), 40, 52).boxes,
                       torch.tensor([[0, 0, 40, 52], [39, 51, 1, 1], [0, 12, 40, 40]])])
    way = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    expected = torch.stack([reference.resized_crop(x, *box, [size, size], way, antialias=True)
                            for x, box in zip(IMAGES, boxes.tolist(), strict=True)])
    assert bicubic == bool((expected - 0.5).abs().max() > 0.501)                   # or nothing would be cut off
    torch.testing.assert_close(views.resized_crop(IMAGES, boxes, size, bicubic), expected.clamp(0, 1), **CLOSE)


def test_a_view_may_be_cropped_bicubically():
    images, recipe = photos(8), ViewRecipe(scale=(0.3, 0.9), bicubic=True)
    boxes = draw(recipe, keys(8), *images.shape[2:]).boxes
    expected = views.resized_crop(images / 255, boxes, 24, bicubic=True)
    torch.testing.assert_close(denormalize(make_view(images, recipe, 24, keys(8))), expected, **CLOSE)
    assert (make_view(images, replace(recipe, bicubic=False), 24, keys(8)) - normalize(expected)).abs().max() > 0.1


@pytest.mark.parametrize("kernel_size", [3, 13, 79])              # the last: as wide as reflection allows
def test_gaussian_blur_agrees_with_torchvision(kernel_size):
    sigma = numbers(0.05, kernel_size / 6)
    expected = torch.stack([reference.gaussian_blur(x, [kernel_size] * 2, [s]) for x, s in
                            zip(IMAGES, sigma.tolist(), strict=True)])
    torch.testing.assert_close(views.gaussian_blur(IMAGES, sigma, kernel_size), expected, **CLOSE)


def test_make_view_is_torchvision_with_the_same_draws():
    """The order of the operations, of the four colour changes and the scaling of the blur, on a whole recipe."""
    recipe, images, size = replace(MOCO_V3[1], jitter=0.7, blur=0.5, sigma=(0.1, 14.0), solarize=0.5), photos(32), 32
    draws = draw(recipe, keys(32), 40, 52)
    adjust = [theirs for _, theirs, *_ in BY_FACTOR.values()]
    for i, view in enumerate(make_view(images, recipe, size, keys(32))):
        x = reference.resized_crop(images[i] / 255, *draws.boxes[i].tolist(), [size, size], antialias=True)
        if draws.jitter[i]:
            for kind in draws.order[i].tolist():
                x = adjust[kind](x, draws.factors[i, kind].item())
        x = reference.rgb_to_grayscale(x, 3) if draws.grayscale[i] else x
        x = reference.gaussian_blur(x, [13, 13], [draws.sigma[i].item() * size / 224]) if draws.blur[i] else x
        x = reference.solarize(x, 0.5) if draws.solarize[i] else x
        x = reference.horizontal_flip(x) if draws.flip[i] else x
        torch.testing.assert_close(denormalize(view), x, **CLOSE)


def test_normalize_agrees_with_torchvision_and_denormalize_undoes_it():
    expected = reference.normalize(IMAGES, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalize(photos()), expected, **CLOSE)
    torch.testing.assert_close(normalize(IMAGES), expected, **CLOSE)
    torch.testing.assert_close(denormalize(expected), IMAGES, **CLOSE)
    assert denormalize(torch.full((3, 2, 2), 9.0)).max() == 1


@pytest.mark.parametrize(("height", "width", "recipe"), [
    (96, 96, MOCO_V3[0]), (8, 8, MOCO_V3[0]), (96, 96, SIMMIM),
    (40, 90, replace(SIMMIM, scale=(0.5, 1.0))), (90, 40, replace(SIMMIM, scale=(0.5, 1.0))),    # often fall back
])
def test_crops_follow_the_law_of_torchvision(height, width, recipe):
    """Means over 4,000 crops; each has a standard error of at most 0.5 / sqrt(4000) = 0.008."""
    n, blank = 4000, torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = torch.tensor([RandomResizedCrop.get_params(blank, recipe.scale, recipe.ratio) for _ in range(n)]).double()
    ours = draw(recipe, keys(n), height, width).boxes.double()
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()

    def describe(boxes):
        top, left, h, w = boxes.unbind(1)
        middle_y, middle_x = (top + h / 2) / height, (left + w / 2) / width
        facts = [h * w / (height * width), (w / h).log(), middle_y, middle_x, (top + h == height).double(),
                 (left + w == width).double(), (boxes == boxes.mode(0).values).all(1).double()]
        return torch.stack([*(f.mean() for f in facts), *(f.std() for f in facts)])

    torch.testing.assert_close(describe(ours), describe(theirs), rtol=0, atol=0.035)


def test_the_largest_central_crop_is_taken_when_none_fits():
    boxes = draw(ViewRecipe(scale=(1.0, 1.0), ratio=(1.0, 1.0)), keys(5), 20, 30).boxes
    assert boxes.tolist() == [[0, 5, 20, 20]] * 5


def test_every_order_of_the_colour_changes_is_as_likely():
    """24 orders of 4,800 draws: 200 each, with a standard deviation of 14."""
    _, counts = draw(MOCO_V3[0], keys(4800), 8, 8).order.unique(dim=0, return_counts=True)
    assert len(counts) == 24 and counts.min() > 130 and counts.max() < 270


def test_factors_fill_their_ranges():
    factors = draw(replace(MOCO_V3[0], strengths=(0.4, 1.5, 0.2, 0.1)), keys(4000), 8, 8).factors
    low, high = torch.tensor([0.6, 0.0, 0.8, -0.1]), torch.tensor([1.4, 2.5, 1.2, 0.1])
    assert (factors >= low).all() and (factors <= high).all()
    torch.testing.assert_close(factors.min(0).values, low, rtol=0, atol=0.01)
    torch.testing.assert_close(factors.max(0).values, high, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", ["jitter", "grayscale", "blur", "solarize", "flip"])
def test_probability_is_respected(name):
    n = 4000
    assert not getattr(draw(ViewRecipe(**{name: 0.0}), keys(n), 8, 8), name).any()
    assert getattr(draw(ViewRecipe(**{name: 1.0}), keys(n), 8, 8), name).all()
    share = getattr(draw(ViewRecipe(**{name: 0.2}), keys(n), 8, 8), name).double().mean()
    assert abs(share - 0.2) < 0.025                               # 4 standard deviations


@pytest.mark.parametrize("recipe", [*MOCO_V3, SIMMIM], ids=["moco1", "moco2", "simmim"])
def test_a_view_depends_neither_on_its_batch_nor_on_the_order(recipe):
    images, k = photos(), keys()
    together = make_view(images, recipe, 32, k)
    alone = torch.cat([make_view(images[i:i + 1], recipe, 32, k[i:i + 1]) for i in range(B)])
    order = random.permutation(random.combine("order"), B)
    shuffled = torch.empty_like(together)
    shuffled[order] = make_view(images[order], recipe, 32, k[order])
    torch.testing.assert_close(alone, together, rtol=0, atol=5e-6)          # 1e-6 of [0, 1], over a std of 0.22
    torch.testing.assert_close(shuffled, together, rtol=0, atol=5e-6)


def test_views_epochs_and_images_have_draws_of_their_own():
    images = photos(1).expand(B, -1, -1, -1)                                 # one image, B times
    view = make_view(images, MOCO_V3[0], 32, keys())
    others = [make_view(images, MOCO_V3[0], 32, keys(view=2)), make_view(images, MOCO_V3[0], 32, keys(epoch=1)),
              view.roll(1, dims=0)]
    for other in others:
        assert ((view - other).abs().amax((1, 2, 3)) > 0.01).all()
    same = make_view(images, MOCO_V3[0], 32, keys()[:1].expand(B))           # the control: one key, one view
    torch.testing.assert_close(same, view[:1].expand_as(same), rtol=0, atol=5e-6)


def test_plain_is_the_whole_image():
    images = photos(3, 32, 32)
    torch.testing.assert_close(make_view(images, PLAIN, 32, keys(3)), normalize(images), **CLOSE)


def test_blur_shrinks_with_the_view():
    """An edge in a view of 32 pixels keeps its contrast; 2 pixels of blur, unscaled, would leave a third of it."""
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    images[..., 16:] = 255
    view = denormalize(make_view(images, ViewRecipe(ratio=(1.0, 1.0), blur=1.0), 32, keys(64)))
    step = view[..., 16] - view[..., 15]
    assert step.min() > 0.9 and step.min() < 0.9999
    unscaled = views.gaussian_blur(images / 255, torch.full((64,), 2.0), 13)
    assert (unscaled[..., 16] - unscaled[..., 15]).max() < 0.35


def test_images_are_left_alone():
    images = photos()
    make_view(images, MOCO_V3[1], 32, keys())
    assert torch.equal(images, photos())


@pytest.mark.parametrize(("images", "k", "size"), [
    (IMAGES, keys(), 32), (photos()[0], keys(), 32), (photos()[:, :1], keys(), 32), (photos(), keys(B - 1), 32),
    (photos(), keys()[:, None], 32), (photos(), keys().int(), 32), (photos(), keys(), 1),
], ids=["float", "no batch", "one channel", "keys too few", "keys 2-D", "keys int32", "size"])
def test_bad_input_is_named_in_one_line(images, k, size):
    with pytest.raises(CourseError, match=r"^[^\n]*got[^\n]*$"):
        make_view(images, SIMMIM, size, k)


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"blur": -0.1}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 1.2)},
                                   {"ratio": (2.0, 1.0)}, {"sigma": (0.0, 1.0)}, {"strengths": (0.4, 0.4, 0.2, 0.6)}])
def test_bad_recipe_is_named_in_one_line(wrong):
    with pytest.raises(CourseError, match=rf"^[^\n]*{next(iter(wrong))}[^\n]*got[^\n]*$"):
        ViewRecipe(**wrong)


def test_rand_augment_comes_last_and_can_be_left_out():
    images = torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keys, recipe = random.combine(1, torch.arange(8)), replace(PLAIN, flip=0.5)
    plain, changed = (make_view(images, r, 16, keys) for r in (recipe, replace(recipe, rand_augment=9.0)))
    torch.testing.assert_close(changed, normalize(rand_augment(denormalize(plain), keys, 9.0)))
    assert torch.equal(make_view(images, without(replace(recipe, rand_augment=9.0), ("rand_augment",)), 16, keys), plain)
    with pytest.raises(CourseError, match="rand_augment is a magnitude, from 0 to 10, got 11"):
        replace(recipe, rand_augment=11.0)
