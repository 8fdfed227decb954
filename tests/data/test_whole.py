"""Whole photographs, squeezed into squares: crops and centres are those of the photographs before."""
import math

import numpy as np
import pytest
import torch
from PIL import Image

import lib.data
from lib import random
from lib.data import Loaded, gpu_holds, in_memory, open_source
from lib.data.__main__ import main
from lib.data.ahead import Ahead, batch_of
from lib.data.centre import Centre
from lib.data.store import PackedImages
from lib.data.subset import Subset
from lib.data.views import PLAIN, ViewRecipe, Whole, draw, make_view, repeat
from lib.errors import CourseError
from lib.evaluation.kept import fingerprint_of_images

CROP = ViewRecipe(scale=(0.08, 1.0))
KEYS = random.combine(0, torch.arange(4000))


def ramp(width, height):
    """Red grows to the right, green downwards, from 0 to 255 over the image."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray((255 * np.stack([x, y, 0 * x], 2)).round().astype(np.uint8))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    for split in ("train", "val"):
        (tmp_path / "set" / split / "a").mkdir(parents=True)
        for n, size in enumerate([(120, 80), (80, 120), (90, 90)]):
            ramp(*size).save(tmp_path / "set" / split / "a" / f"{n}.png")
    return str(tmp_path / "set")


def test_all_of_a_photograph_is_kept_with_its_aspect(photos):
    whole, centre = open_source(photos, "train", 32, stored=48), open_source(photos, "train", 32)
    assert whole.size == 48 and whole.aspects.tolist() == pytest.approx([1.5, 2 / 3, 1], abs=1e-4)
    assert centre.size == 32 and centre.aspects is None
    first = whole.images(torch.tensor([0]))[0]
    assert first[0, :, 0].max() < 6 and first[0, :, -1].min() > 249                             # from edge to edge
    assert centre.images(torch.tensor([0]))[0, 0, :, 0].min() > 30                              # a sixth is cut off
    assert torch.equal(Loaded(whole, limit=2).aspects, whole.aspects[[0, 1]])
    assert torch.equal(in_memory(whole).aspects, whole.aspects)


def test_some_images_are_read_as_they_are_needed(photos):
    whole, some = open_source(photos, "train", 32, stored=48), open_source(photos, "train", 32, limit=2, stored=48)
    assert isinstance(some, Subset) and some.path == whole.path and some.size == 48 and len(some) == 2
    assert some.kept.tolist() == [0, 1] and torch.equal(some.aspects, whole.aspects[:2])
    loaded = Loaded(whole, limit=2)
    for indices in (torch.tensor([1, 0, 1]), torch.tensor([], dtype=torch.int64)):
        assert torch.equal(some.images(indices), whole.images(indices))
        assert torch.equal(some.images(indices), loaded.images(indices))
        assert torch.equal(some.labels(indices), whole.labels(indices))
    assert Ahead(some, lambda step: torch.tensor([step]), 2, torch.device("cpu")).pool is not None
    assert len(Subset(whole, 99)) == 3 and Subset(whole, 2).kept.tolist() == [0, 1]


def test_some_images_have_a_fingerprint_of_their_own(photos):
    whole = open_source(photos, "train", 32)
    found = [fingerprint_of_images(source) for source in (whole, Subset(whole, 2), Subset(whole, 1), Subset(whole, 2))]
    assert len(set(found)) == 3 and found[1] == found[3]


@pytest.mark.parametrize(("images", "size", "free", "expected"), [
    (9469, 96, 20e9, True), (1_281_167, 96, 24e9, False), (1_281_167, 96, 140e9, False), (1_281_167, 96, 180e9, True),
    (1_281_167, 224, 1e12, False)])
def test_a_gpu_holds_images_that_take_a_quarter_of_it(images, size, free, expected):
    assert gpu_holds(images, size, free) == expected


def test_processes_of_one_machine_share_its_memory(photos, monkeypatch):
    whole = open_source(photos, "train", 32, stored=48)
    monkeypatch.setattr(lib.data, "FITS", 2.5 * len(whole) * 3 * 48**2)
    for beside, expected in (("", True), ("2", True), ("3", False)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
        assert isinstance(in_memory(whole), Loaded) == expected


def test_the_command_packs_what_training_opens(photos, tmp_path, capsys):
    main(["pack", photos, "--size", "48", "--whole"])
    packed = list((tmp_path / "packed").glob("*.images"))
    assert len(packed) == 1 and packed[0].name.endswith("-train-48-whole.images")
    assert "3 images of 48 px" in capsys.readouterr().out
    before = packed[0].stat().st_mtime_ns
    assert open_source(photos, "train", 32, stored=48).path == packed[0] and packed[0].stat().st_mtime_ns == before


def test_an_interrupted_pack_keeps_the_aspects(photos, monkeypatch):
    """Of a chunk that was read before and of one that is read now."""
    from lib.data import store

    monkeypatch.setattr(store, "CHUNK", 2)
    squeezed, left = store.squeezed, [2]

    def killed(image, size):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return squeezed(image, size)

    monkeypatch.setattr(store, "squeezed", killed)
    with pytest.raises(KeyboardInterrupt):
        open_source(photos, "train", 32, stored=48)
    left[0] = 1                                                    # the third image is all that is left
    again = open_source(photos, "train", 32, stored=48)
    assert isinstance(again, PackedImages) and again.aspects.tolist() == pytest.approx([1.5, 2 / 3, 1], abs=1e-4)


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.5, 4.0])
def test_crops_have_the_areas_and_shapes_of_crops_of_the_photograph(aspect):
    """Against RandomResizedCrop's own rule on the photograph, large enough for rounding to be small."""
    rows = 4096
    photo = draw(CROP, KEYS, round(rows / math.sqrt(aspect)), round(rows * math.sqrt(aspect))).boxes.double()
    squeezed = draw(CROP, KEYS, rows, rows, torch.full((len(KEYS),), aspect)).boxes.double()
    before = torch.tensor([rows / math.sqrt(aspect), rows * math.sqrt(aspect)] * 2)
    assert (photo / before - squeezed / rows).abs().max() < 2 / rows * max(aspect, 1 / aspect)
    height, width = squeezed[:, 2] / math.sqrt(aspect), squeezed[:, 3] * math.sqrt(aspect)
    assert 0.74 < (width / height).min() and (width / height).max() < 1.35


def test_without_an_aspect_nothing_has_changed():
    boxes = draw(CROP, KEYS, 96, 96).boxes
    assert torch.equal(draw(CROP, KEYS, 96, 96, torch.ones(len(KEYS))).boxes, boxes)


@pytest.mark.parametrize("aspect", [0.02, 0.1, 1.0, 60.0])
def test_boxes_lie_within_the_image_and_are_not_empty(aspect):
    top, left, height, width = draw(CROP, KEYS, 16, 16, torch.full((len(KEYS),), aspect)).boxes.unbind(1)
    assert min(top.min(), left.min()) >= 0 and min(height.min(), width.min()) >= 1
    assert (top + height).max() <= 16 and (left + width).max() <= 16


def test_a_view_of_whole_images(photos):
    """The largest square of a wide photograph shows its middle two thirds, in the right shape."""
    source = open_source(photos, "train", 32, stored=96)
    images = batch_of(source, torch.tensor([0, 1, 2]), torch.device("cpu"))
    views = make_view(images, ViewRecipe(scale=(2 / 3, 2 / 3), ratio=(1, 1)), 32, KEYS[:3])
    assert views.shape == (3, 3, 32, 32)
    steps = [(views[n, c].diff(dim=1 - c).mean() * (0.229, 0.224)[c]).item() * 32 for n, c in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert steps == pytest.approx([2 / 3, 1, 1, 2 / 3], abs=0.03)                               # of the range, over the view
    twice = make_view(repeat(images, 2), PLAIN, 32, KEYS[:6])
    assert torch.equal(twice[:3], make_view(images, PLAIN, 32, KEYS[:3])) and isinstance(repeat(images, 2), Whole)


@pytest.mark.parametrize("crop", [1.0, 0.875])
def test_the_centre_of_a_squeezed_photograph_is_that_of_the_photograph(photos, crop):
    whole = Centre(open_source(photos, "val", 28, stored=224), 28, crop)
    stored = Centre(open_source(photos, "val", round(28 / crop)), 28, crop)
    for n in range(3):
        a, b = (source.images(torch.tensor([n])).int() for source in (whole, stored))
        assert a.shape == (1, 3, 28, 28) and (a - b).abs().max() <= 3
    assert stored.labels(torch.tensor([0])).tolist() == [0] and len(stored) == 3


def test_a_centre_that_cuts_whole_pixels_changes_none(photos):
    source = open_source(photos, "val", 40)
    assert torch.equal(Centre(source, 32, 0.8).images(torch.arange(3)), source.images(torch.arange(3))[:, :, 4:36, 4:36])
    with pytest.raises(CourseError, match=r"above 0 and at most 1, got 1\.2"):
        Centre(source, 32, 1.2)
