"""What people and browsers do to widgets: a value that does not exist is kept nowhere, and what fails is said, not hidden."""
import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.models.vit import create, init_xavier
from lib.objectives.masked import SimMIM
from lib.training.recipes import recipe
from lib.training.trainer import Trainer
from lib.viz.explorer import AttentionExplorer, explore
from lib.viz.frames import Frames
from lib.viz.gallery import read_pictures
from lib.viz.heatmap import HeatMaps
from lib.viz.monitor import Monitor
from lib.viz.reconstruction import Reconstruction
from lib.viz.slider import slide


def vit(seed: int = 0, **options):
    torch.manual_seed(seed)
    return init_xavier(create("vit_nano", **{"image_size": 32, "patch_size": 8} | options)).eval()


def simmim():
    return SimMIM(vit(mask_token=True), mask_cell=2)


def pictures(count=2, height=32, width=32):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def flat(left, right):
    return torch.full((2, 3, 4, 5), left + right, dtype=torch.uint8), "grey"


ALT = "Two flat pictures, as bright as the controls say."


def frames(draw=flat, **changes):
    return Frames(draw, **{"controls": {"left": [0, 5], "right": [1, 2]}, "titles": ["a", "b"], "alt": ALT} | changes)


def heat(maps=None, **changes):
    return HeatMaps({"one": torch.arange(6.0).view(2, 3)} if maps is None else maps, [1, 2], ["a", "b", "c"], **changes)


# -------------------------------------------------------------------------------------------- a value that does not exist

WRONG = [(lambda: explore(pictures(), {"a": vit()}), name, bad) for name, bad in
         [("query", 99), ("layer", 0), ("head", 4), ("head", True), ("image", 2), ("image", True), ("overlay", 5.0)]]
WRONG += [(lambda: AttentionExplorer(pictures(), {"a": torch.full((1, 2, 1, 17, 17), 1 / 17)}, (4, 4)), "view", "similarity"),
          (lambda: Reconstruction(pictures(), simmim()), "masked", [16]),
          (lambda: Reconstruction(pictures(), simmim()), "masked", [True]),
          (lambda: Reconstruction(pictures(), simmim()), "image", 2), (frames, "position", [0, 9]), (heat, "row", 2),
          (heat, "column", True)]


@pytest.mark.parametrize("make, name, bad", WRONG, ids=[f"{name}={bad}" for _, name, bad in WRONG])
def test_a_value_that_does_not_exist_is_kept_nowhere(make, name, bad):
    shown, sent = make(), []
    before = getattr(shown, name)
    with pytest.raises(CourseError):
        setattr(shown, name, bad)
    with pytest.raises(CourseError), shown.hold_trait_notifications():
        setattr(shown, name, bad)
    assert getattr(shown, name) == before
    shown.send_state = lambda key=None: sent.append(key)
    with pytest.raises(CourseError):
        shown.set_state({name: bad})                               # as the browser does, and a link in the browser
    assert getattr(shown, name) == before and sent == [[name]]    # and the browser is told
    assert shown._repr_mimebundle_()[0]["image/png"]


def test_another_head_of_the_map_is_one_that_exists():
    shown = explore(pictures(), {"a": vit()})
    shown.layer = 1
    maps = [shown.map("a", head) for head in (1, 2, 3)]
    np.testing.assert_allclose(shown.map("a", "mean"), np.mean(maps, 0), atol=1e-6)
    for head in (0, -1, 4, "foo", 1.5, True):
        with pytest.raises(CourseError, match="does not exist"):
            shown.map("a", head)


# ------------------------------------------------------------------------------------------------------- the explorer

def test_an_image_of_another_size_leaves_the_explorer_as_it_was():
    network = vit()
    network.patch_embed.strict_img_size, network.any_size = False, True
    shown = explore(pictures(), {"a": network})
    with pytest.raises(CourseError, match="the images here are 32 x 32 pixels, this one is 64 x 64"):
        shown.add(pictures(1, 64, 64)[0])
    blocks, network.blocks = network.blocks, network.blocks[:1]    # another network than the one that was looked at
    with pytest.raises(CourseError, match="another depth or other heads"):
        shown.add(pictures(1)[0])
    network.blocks = blocks
    other = pictures(3)[2]
    shown.add(other)
    assert len(shown.images) == 3
    np.testing.assert_array_equal(shown.map("a"), explore(other[None], {"a": network}).map("a"))


def test_the_explorer_keeps_its_models_and_images():
    models, images = {"a": vit()}, pictures()
    shown = explore(images, models)
    models["a"] = vit(1)
    kept = images.clone()
    images.zero_()
    shown.add(kept[0])
    shown.image = 0
    first = shown.map("a")
    shown.image = 2
    np.testing.assert_array_equal(first, shown.map("a"))
    assert torch.equal(shown.images, torch.cat([kept, kept[:1]]))


def test_whatever_goes_wrong_with_an_upload_is_said_there(monkeypatch):
    shown, said = explore(pictures(), {"a": vit()}), []
    shown.send = said.append
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "PNG")
    monkeypatch.setattr(shown, "add", lambda *_: {}["gone"])
    shown._received(shown, {"add": "x"}, [file.getvalue()])
    shown._received(shown, {}, [])                                 # the browser asks whether somebody is there
    assert said == [{"problem": "KeyError: 'gone'"}]


@pytest.mark.parametrize("images, models, said", [
    (None, {3: "vit"}, 'give models={"label": network}'),
    (None, {"a": vit(), "b": vit(image_size=64)}, "'b' takes images of 64"),
    (pictures().numpy().astype(object), {"a": vit()}, "images are a ndarray"),
    ([Image.new("RGB", (0, 5))], {"a": vit()}, "no pixels")])
def test_what_does_not_fit_is_named(images, models, said):
    with pytest.raises(CourseError, match=said):
        explore(images, models)


def test_images_in_any_order_in_memory_are_taken():
    images = pictures().numpy()
    assert torch.equal(explore(images[:, ::-1], {"a": vit()}).images, pictures().flip(1))


@pytest.mark.parametrize("changes, said", [
    (dict(attention=[1]), "no models were given"),
    (dict(attention={"a": np.zeros((1, 2, 1, 17, 17))}), "attention of 'a' is ndarray"),
    (dict(attention={"a": torch.ones(1, 2, 1, 17, 17).bool()}), "attention of 'a' is torch.bool"),
    (dict(grid=(4, 0)), "the grid is"), (dict(grid=4), "the grid is 4"), (dict(names=3), "names = 3 were given")])
def test_attention_that_is_none(changes, said):
    given = dict(images=pictures(), attention={"a": torch.full((1, 2, 1, 17, 17), 1 / 17)}, grid=(4, 4)) | changes
    with pytest.raises(CourseError, match=said):
        AttentionExplorer(**given)


@pytest.mark.parametrize("path, images, said", [
    ("", None, "is a folder"), (None, None, "needs the path of a file"), ("x" * 300, None, "could not be written"),
    ("page.html", "0", "cannot show images"), ("page.html", 0, "cannot show images"),
    ("page.html", [True], "cannot show images")])
def test_a_page_that_cannot_be_written(path, images, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match=said):
        explore(pictures(), {"a \ud83d": vit()}).to_html(path, images)
    assert not list(tmp_path.iterdir())


def test_a_path_a_pil_image_and_the_button_see_the_same(tmp_path):
    turned = Image.fromarray(pictures(1, 32, 32)[0].permute(1, 2, 0).numpy())
    exif = turned.getexif()
    exif[0x0112] = 6                                               # the camera was held upright
    turned.save(tmp_path / "turned.png", exif=exif)
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))            # red that nobody sees
    clear.save(tmp_path / "clear.png")
    for name in ("turned", "clear"):
        paths, _ = read_pictures([tmp_path / f"{name}.png"], 32)
        opened, _ = read_pictures([Image.open(tmp_path / f"{name}.png")], 32)
        assert torch.equal(paths, opened)
    assert bool((opened == 255).all())


# -------------------------------------------------------------------------------------------------- the reconstruction

@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_any_precision_fill_in(dtype):
    expected, found = (Reconstruction(pictures(), objective, [True, False] * 8).error
                       for objective in (simmim(), simmim().to(dtype)))
    assert found == pytest.approx(expected, rel=0.05)


def test_a_network_that_fails_says_so_and_goes_on_when_it_is_mended():
    objective = simmim().train()
    shown = Reconstruction(pictures(), objective)
    good = objective.decoder.linear.weight.data.clone()
    objective.decoder.linear.weight.data.fill_(float("nan"))
    with pytest.raises(CourseError, match="NaN or infinity"):
        shown.masked = [1, 2]
    assert shown.report["masked"] == [1, 2] and "did not fill this in" in shown.report["text"] and np.isnan(shown.error)
    assert objective.training
    objective.decoder.linear.weight.data = good
    shown.masked = [1, 3]
    assert "of 255" in shown.report["text"]
    objective.decoder.forward = lambda tokens: 1 / 0
    with pytest.raises(ZeroDivisionError):
        shown.masked = [4]
    assert "division by zero" in shown.report["text"] and objective.training


# ----------------------------------------------------------------------------------------------------------- the others

def test_one_trainer_trains_once_at_a_time():
    source = Loaded(open_source("shapes", "train", 16, limit=32, difficulty="easy"))
    r = recipe("simmim", "smoke", images=32, epochs=2, batch_size=8, image_size=16, patch_size=8, model="vit_nano", mask_cell=1,
               warmup_epochs=0.5, knn_every=1, device="cpu")
    reached, go = threading.Event(), threading.Event()
    trainer = Trainer(r, source, monitor=lambda backbone: (reached.set(), go.wait(60), {"knn": torch.tensor(0.5)})[2])
    first = Monitor(trainer)
    first.start()
    assert reached.wait(60)
    for start in (Monitor(trainer).start, trainer.run):
        with pytest.raises(CourseError, match="this trainer is training already"):
            start()
    go.set()
    first.wait()
    assert first.state == "done" and trainer.step == 8 and first.curves["knn"] == [[4, 0.5], [8, 0.5]]
    assert Monitor(trainer).text.startswith("done")
    with pytest.raises(CourseError, match="a monitor watches a Trainer, got a str"):
        Monitor("runs/x")


@pytest.mark.parametrize("changes, said", [
    (dict(draw=lambda a, b: torch.zeros(2, 3, 4, 5)), "gave a Tensor; expected images"),
    (dict(draw=lambda a, b: (torch.full((2, 3, 4, 5), float("nan") if a else 0.0), "")), "from nan to nan; expected uint8"),
    (dict(draw=lambda a, b: (torch.full((2, 3, 4, 5), 200.0), "")), "from 200 to 200; expected uint8"),
    (dict(draw=lambda a, b: (torch.zeros(2, 3, 4 + b, 5), "")), "draw all settings at one size"),
    (dict(controls={"left": [1, "1", 2], "right": [1, 2]}), "one label for several settings: 1, 1, 2"),
    (dict(controls=[1, 2]), "controls are"), (dict(start=["left"]), "start is"), (dict(alt=None), "too short")])
def test_frames_that_do_not_fit(changes, said):
    with pytest.raises(CourseError, match=said):
        frames(**changes)


def test_a_start_may_be_a_value():
    assert frames(start={"left": 5}).setting == {"left": "5", "right": "1"}


@pytest.mark.parametrize("maps, changes, said", [
    ([1, 2], {}, "no maps"), ({"one": [[1, 2, 3], [4]]}, {}, "no array of numbers"),
    ({"one": torch.ones(2, 3)}, {}, "give low and high"),
    (None, dict(high=float("inf")), "from 0 to inf"), (None, dict(axes=("row",)), "give two names")])
def test_heat_maps_that_do_not_fit(maps, changes, said):
    with pytest.raises(CourseError, match=said):
        heat(maps, **changes)


def test_heat_maps_are_copies_and_take_what_trains():
    given = torch.arange(6, dtype=torch.bfloat16).view(2, 3).requires_grad_()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    shown = heat({1: given, "two": array}, low=torch.tensor(0.0), high=np.float32(5))
    array[0, 0] = 9
    assert shown.under_pointer() == {"1": 0.0, "two": 0.0} and shown.to_html is not None and shown._repr_mimebundle_()


def test_a_slider_takes_figures():
    with pytest.raises(CourseError, match=r"takes .position: matplotlib figure"):
        slide(["a", "b"], "x", ALT)
