"""The reconstruction widget: what the network fills in under any mask, how wrong it is, what Python sees and refuses."""
import base64
import io

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from lib.data.shapes import Shapes
from lib.data.views import denormalize, normalize
from lib.errors import CourseError
from lib.models import zoo
from lib.models.vit import create, init_xavier
from lib.objectives.masked import MAE, SimMIM, cell_mask
from lib.viz.reconstruction import Reconstruction, fill_in, load_masked


def simmim():
    torch.manual_seed(0)
    return SimMIM(init_xavier(create("vit_nano", image_size=32, patch_size=8, mask_token=True)), mask_cell=2)


def mae(normalize_target=True):
    torch.manual_seed(0)
    return MAE(init_xavier(create("vit_nano", image_size=32, patch_size=8)), decoder_dim=16, decoder_depth=1, decoder_heads=2,
               normalize_target=normalize_target)


def pictures(count=2):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def drawn(*places):
    mask = torch.zeros(4, 4, dtype=torch.bool)
    for row, column in places:
        mask[row, column] = True
    return mask


@pytest.fixture
def shown():
    return Reconstruction(pictures(), simmim(), drawn((0, 1), (2, 3)))


@pytest.mark.parametrize("make", [simmim, mae, lambda: mae(False)])
def test_with_a_mask_as_in_training_it_is_the_objectives_own(make):
    objective, view = make().eval(), normalize(pictures(1))
    mask = cell_mask(torch.tensor([3]), 4, *((2, 0.6) if isinstance(objective, SimMIM) else (1, 0.75)))
    torch.testing.assert_close(fill_in(objective, view, mask), objective.reconstruct({"view": view, "mask": mask}))


@pytest.mark.parametrize("make", [simmim, mae])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_any_number_of_patches_may_be_masked_and_the_others_stay(make, count):
    objective, view, mask = make().eval(), normalize(pictures(1)), torch.zeros(1, 16, dtype=torch.bool)
    mask[0, torch.arange(count) * 5 % 16] = True
    found = fill_in(objective, view, mask)
    whole = mask.view(1, 1, 4, 1, 4, 1).expand(1, 3, 4, 8, 4, 8).reshape(1, 3, 32, 32)
    assert torch.equal(found[~whole], view[~whole]) and (found != view)[whole].float().mean() > 0.9
    hidden = torch.where(whole, torch.zeros(()), view)                           # what is masked does not leak
    if isinstance(objective, SimMIM):
        torch.testing.assert_close(fill_in(objective, hidden, mask)[whole], found[whole])


def test_checkpoints_that_ship_draw_better_than_a_guess():
    images = Shapes("val", 64, difficulty="mild").images(torch.arange(3))
    before = torch.get_rng_state()
    for name, objective in {"simmim": SimMIM, "mae": MAE}.items():
        network = load_masked(name)
        assert isinstance(network, objective) and not network.training
        for image in images:
            shown = Reconstruction(image, network)
            assert shown.error < 0.95 * shown.guess
    assert torch.equal(torch.get_rng_state(), before)


def test_python_sees_and_sets_the_mask(shown):
    assert torch.equal(shown.mask, drawn((0, 1), (2, 3))) and shown.masked == [1, 11]
    seen = []
    shown.observe(lambda change: seen.append(change["new"]), "masked")
    shown.mask = drawn((3, 3)).numpy()
    assert shown.masked == [15] and seen == [[15]] and shown.report["masked"] == [15]
    shown.masked = [4, 2, 4]
    assert shown.masked == [2, 4] and torch.equal(shown.mask, drawn((0, 2), (1, 0)))
    shown.mask = torch.zeros(16, dtype=torch.bool)
    assert shown.report["text"].startswith("Nothing is masked") and np.isnan(shown.error)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.filled))), pictures()[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("make", [simmim, mae, lambda: mae(False)])
def test_the_numbers_are_those_of_a_loop(make):
    shown = Reconstruction(pictures(), make(), drawn((0, 1), (2, 3)), image=1)
    true, said = pictures()[1].double().numpy(), np.asarray(Image.open(io.BytesIO(shown.filled))).transpose(2, 0, 1) * 1.0
    exact = fill_in(shown.objective.eval(), normalize(pictures()[1:]), shown.mask.view(1, 16))
    np.testing.assert_allclose(said, 255 * denormalize(exact)[0].clamp(0, 1).numpy(), atol=0.51)
    squares = [(slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
               for row, column in [(0, 1), (2, 3)]]
    assert shown.error == pytest.approx(np.mean([abs(said[square] - true[square]) for square in squares]), abs=1e-3)
    visible = np.ones((32, 32), bool)
    for _, rows, columns in squares:
        visible[rows, columns] = False
    colour = true[:, visible].mean(1)[:, None, None]
    peeks = getattr(shown.objective, "normalize_target", False)
    guesses = [abs((true[square].mean() if peeks else colour) - true[square]).mean() for square in squares]
    assert shown.guess == pytest.approx(np.mean(guesses), abs=1e-3)
    assert f"2 of 16 patches masked. Masked pixels are wrong by {shown.error:.0f} of 255" in shown.report["text"]
    assert ("is given the true mean" in shown.report["text"]) == peeks


def test_all_of_an_image_may_be_masked(shown):
    shown.mask = torch.ones(4, 4, dtype=torch.bool)
    assert shown.guess == pytest.approx(float((pictures()[0].float() - 128).abs().mean()), abs=1e-3)


def test_another_image_and_another_random_mask(shown):
    before = shown.filled
    shown.image = 1
    assert shown.filled != before and shown.report["image"] == 1
    masks = set()
    for _ in range(4):
        shown._received(shown, {"random": True}, [])
        assert shown.mask.view(2, 2, 2, 2).permute(0, 2, 1, 3).flatten(2).float().mean(-1).unique().tolist() == [0, 1]
        assert int(shown.mask.sum()) == 12                                       # three of the four cells of training
        masks.add(tuple(shown.masked))
    assert len(masks) > 1


def test_a_network_in_training_stays_in_training():
    objective = simmim().train()
    Reconstruction(pictures(), objective)
    assert objective.training and objective.backbone.training


def test_images_may_be_paths_and_pil_images(tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    shown = Reconstruction([tmp_path / "red.png", Image.new("RGB", (40, 40)), pictures()[0]], simmim())
    assert shown.meta["names"] == ["red", "image 1", "image 2"]
    assert len(Reconstruction(pictures()[0], simmim()).images) == 1


def test_a_saved_notebook_has_a_picture_and_a_text_that_stays(shown):
    data, metadata = shown._repr_mimebundle_()
    assert data["text/plain"] == repr(shown) == "Reconstruction(images: 2, patches: 4 x 4, by SimMIM)"
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in data
    assert metadata["image/png"]["alt"].startswith("image 0, masked, and filled in by SimMIM. 2 of 16 patches masked.")
    shown.mask = drawn((0, 0))
    assert shown._repr_mimebundle_()[0]["image/png"] != data["image/png"]
    assert repr(shown) == data["text/plain"]


@pytest.mark.parametrize("given, message", [
    (dict(model="mocov3"), "the checkpoint 'mocov3' has no pixel decoder, so it cannot fill in pixels; take simmim or mae"),
    (dict(model="beit"), "no checkpoint 'beit' ships for world 'shapes'; take simmim or mae"),
    (dict(model=None), "a NoneType has no pixel decoder"),
    (dict(images=pictures()[:0]), "no images were given"),
    (dict(images="missing.png"), "missing.png is not there"),
    (dict(images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8)), "images are 64 x 64 pixels, the model takes 32 x 32"),
    (dict(mask=torch.zeros(4, 4)), r"the mask is torch.float32 \(4, 4\); expected bool \(4, 4\), True is masked"),
    (dict(mask=torch.zeros(3, 3, dtype=torch.bool)), r"the mask is torch.bool \(3, 3\)"),
    (dict(image=2), "image = 2 does not exist; give an image, from 0 to 1"),
])
def test_bad_input_gets_a_line(given, message):
    with pytest.raises(CourseError, match=message):
        Reconstruction(**{"images": pictures(), "model": simmim()} | given)


def test_a_backbone_alone_cannot_fill_in():
    with pytest.raises(CourseError, match="a ViT has no pixel decoder, so it cannot fill in pixels; take simmim or mae, or an"):
        Reconstruction(pictures(), zoo.load("simmim"))


def test_a_patch_that_does_not_exist_is_refused(shown):
    with pytest.raises(CourseError, match="there is no patch 16 to mask; give numbers from 0 to 15"):
        shown.masked = [3, 16]
    with pytest.raises(traitlets.TraitError):
        shown.masked = ["all"]
    assert shown.masked == [1, 11]
