"""What the explorer sends, what Python sees and sets of it, what it refuses, and the page that it writes."""
import base64
import importlib.util
import io
import re

import ipywidgets
import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import traitlets
from PIL import Image

from lib.analysis.attention import AttentionStatistics, attention_maps
from lib.analysis.recording import record
from lib.analysis.rollout import attention_rollout, token_cosines
from lib.analysis.tokens import patch_tokens
from lib.data import Loaded
from lib.data.shapes import Shapes
from lib.errors import CourseError
from lib.models import zoo
from lib.models.vit import create, init_xavier
from lib.viz import checks, explorer, gallery, page
from lib.viz.explorer import AttentionExplorer, explore
from lib.viz.heads import rank
from lib.viz.quantized import coarse, join, parts, quantize, quantize_cosines


def vit(seed: int = 0, name: str = "vit_nano", **options):
    torch.manual_seed(seed)
    return init_xavier(create(name, **{"image_size": 32, "patch_size": 8} | options)).eval()


def attention(layers=2, images=2, heads=3, tokens=17, seed=0, sharp=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(layers, images, heads, tokens, tokens, generator=generator)).softmax(-1)


def pictures(count=2, height=32, width=32):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def no_window():
    matplotlib.use("Agg")


@pytest.fixture
def shown():
    return AttentionExplorer(pictures(), {"SimMIM": attention(), "mine": attention(layers=1, heads=2, seed=1)}, (4, 4))


# -------------------------------------------------------------------------------------------------------------- one byte

@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("sharp", [0.0, 1.0, 30.0])
def test_a_code_is_wrong_by_half_a_step_at_most(prefix, sharp):
    maps = attention(tokens=16 + prefix, sharp=sharp)
    found = quantize(maps, prefix)
    kept = ([0] if prefix else []) + list(range(prefix, 16 + prefix))
    exact = maps.transpose(0, 1)[:, :, :, kept].numpy()
    assert found.codes.shape == (2, 2, 3, len(kept), 16) and found.codes.dtype == np.uint8
    again = found.codes / 255 * found.brightest[..., None]
    assert np.all(np.abs(again - exact[..., prefix:]) <= found.brightest[..., None] / 510 * 1.001)
    assert np.array_equal(found.brightest, exact[..., prefix:].max(-1))
    np.testing.assert_allclose(found.outside, exact[..., :prefix].sum(-1), atol=1e-6)
    np.testing.assert_allclose(found.row(1, 0, 2, 5), again[1, 0, 2, 5], rtol=1e-6)
    assert found.codes.max(-1).min() == 255                                      # every row uses the whole byte


def test_a_greedy_cls_costs_the_patches_nothing():
    logits = torch.randn(1, 1, 1, 17, 17)
    logits[..., 0] = 14                                                          # CLS takes all but a millionth
    maps = logits.softmax(-1)
    found = quantize(maps, 1)
    error = np.abs(found.codes / 255 * found.brightest[..., None] - maps.transpose(0, 1)[..., 1:].numpy())
    assert found.outside.min() > 0.999 and np.all(error <= found.brightest[..., None] / 510 * 1.001)


def test_patches_that_get_nothing_at_all_are_zero():
    maps = torch.zeros(1, 1, 1, 17, 17)
    maps[..., 0] = 1
    found = quantize(maps, 1)
    assert not found.codes.any() and not found.brightest.any() and found.outside.min() == 1


def cosines(layers=2, images=2, tokens=17, prefix=1):
    vectors = torch.randn(layers, images, tokens, 5, generator=torch.Generator().manual_seed(3))
    return quantize_cosines(token_cosines(vectors), prefix), token_cosines(vectors)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_a_cosine_is_wrong_by_half_a_step_of_its_row_at_most(prefix):
    found, exact = cosines(tokens=16 + prefix, prefix=prefix)
    kept = ([0] if prefix else []) + list(range(prefix, 16 + prefix))
    exact = exact.transpose(0, 1)[:, :, None, kept, prefix:].numpy()
    again = found.low[..., None] + found.codes / 255 * (found.high - found.low)[..., None]
    assert found.codes.shape == exact.shape and exact.min() < -0.5
    assert np.all(np.abs(again - exact) <= (found.high - found.low)[..., None] / 510 * 1.001)
    np.testing.assert_allclose(found.row(1, 0, 0, 5), again[1, 0, 0, 5], atol=1e-6)
    assert np.all(found.codes.max(-1) == 255) and np.all(found.codes.min(-1) == 0)


def test_tokens_that_are_all_alike_are_one():
    found = quantize_cosines(torch.ones(1, 1, 17, 17), 1)
    assert np.all(found.row(0, 0, 0, 3) == 1)


def test_a_page_has_fewer_codes_each_wrong_by_little():
    for maps in (quantize(attention(tokens=17), 1), cosines()[0]):
        less = coarse(maps)
        (codes, *floats), (fewer, *shorter) = parts(maps), parts(less)
        assert set(np.unique(fewer)) <= {*range(0, 249, 8), 255} and np.abs(fewer.astype(int) - codes).max() <= 4
        for exact, short in zip(floats, shorter):
            assert np.all(np.abs(short - exact) <= np.abs(exact) / 2**9) and not np.array_equal(short, exact)
            assert not (short.view(np.uint32) & 0x7FFF).any()


def test_images_are_joined_in_order():
    first, second = quantize(attention(seed=0), 1), quantize(attention(seed=5), 1)
    both = join(first, second)
    for image, (part, place) in {0: (first, 0), 3: (second, 1)}.items():
        np.testing.assert_array_equal(both.row(image, 1, 2, 4), part.row(place, 1, 2, 4))


# --------------------------------------------------------------------------------------------- models to what is sent

def test_explore_shows_the_attention_of_the_models():
    models = {"MoCo v3": vit(0), "other": vit(1)}
    images = pictures(3)
    shown = explore(images, models)
    for label, model in models.items():
        maps = attention_maps(model, images)
        for image, layer, head, query in [(0, 1, 1, -1), (2, 3, 2, 0), (1, 2, 3, 15)]:
            shown.set_trait("image", image), shown.set_trait("layer", layer)
            shown.head, shown.query = head, query
            exact = maps[layer - 1, image, head - 1, query + 1, 1:].reshape(4, 4).numpy()
            np.testing.assert_allclose(shown.map(label), exact, atol=exact.max() / 509)
        shown.head = "mean"
        np.testing.assert_allclose(shown.map(label), maps[1, 1, :, 16, 1:].mean(0).reshape(4, 4).numpy(), atol=1e-3)
    assert shown.meta["models"][0]["color"] == "#0072B2" and shown.meta["models"][1]["color"] is None


def test_the_views_are_those_of_the_analysis():
    models, images = {"a": vit(0), "b": vit(1)}, pictures(2)
    shown = explore(images, models)
    shown.image, shown.layer, shown.query, shown.head = 1, 2, 5, 3
    for label, model in models.items():
        shown.view = "rollout"
        exact = attention_rollout(attention_maps(model, images))[1, 1, 6, 1:].reshape(4, 4).numpy()
        np.testing.assert_allclose(shown.map(label), exact, atol=exact.max() / 509)
        shown.view = "similarity"
        exact = F.cosine_similarity(patch_tokens(model, images)[2][1, 5], patch_tokens(model, images)[2][1], dim=-1)
        np.testing.assert_allclose(shown.map(label).ravel(), exact, atol=4e-3)
        assert shown.map(label)[1, 1] == pytest.approx(1)                        # the query is like itself
        shown.view = "attention"
    assert shown.meta["views"] == ["attention", "rollout", "similarity"]


def test_attention_alone_has_no_view_of_tokens(shown):
    assert shown.similarity == [] and shown.meta["views"] == ["attention", "rollout"]
    shown.view = "rollout"
    with pytest.raises(CourseError, match="no view 'similarity' here: it needs the cosines of tokens"):
        shown.view = "similarity"
    assert shown.view == "rollout"
    with pytest.raises(traitlets.TraitError):
        shown.view = "saliency"


@pytest.mark.parametrize("given, message", [
    ({}, "cosines of 'a' have shape NoneType; expected"),
    ({"a": torch.ones(2, 2, 16, 16)}, r"cosines of 'a' have shape \(2, 2, 16, 16\); expected \(2, 2, 17, 17\)"),
    ({"a": torch.full((2, 2, 17, 17), 1.1)}, "not from -1 to 1"),
    ({"a": torch.full((2, 2, 17, 17), float("nan"))}, "not from -1 to 1"),
])
def test_cosines_that_do_not_fit(given, message):
    with pytest.raises(CourseError, match=message):
        AttentionExplorer(pictures(), {"a": attention()}, (4, 4), cosines=given)


# ------------------------------------------------------------------------------------------------------ one's own images

@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    Image.fromarray(pictures(1, 40, 50)[0].permute(1, 2, 0).numpy()).save(folder / "dog.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_images_may_be_paths_and_pil_images(files):
    shown = explore([files / "dog.png", Image.open(files / "dog.png"), pictures(1)[0]], {"a": vit()})
    assert shown.meta["images"] == ["dog", "image 1", "image 2"] and torch.equal(shown.images[0], shown.images[1])
    assert torch.equal(shown.images[2], pictures(1)[0])
    assert explore(str(files / "dog.png"), {"a": vit()}, names=["mine"]).meta["images"] == ["mine"]
    with pytest.raises(CourseError, match=r"notes\.txt is no image that can be read"):
        explore([files / "notes.txt"], {"a": vit()})


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path):
    picture, exif = Image.new("RGB", (40, 40), "red"), Image.Exif()
    picture.paste("blue", (0, 0, 40, 20))                                        # its upper half
    exif[0x0112] = 3                                                             # held upside down
    picture.save(tmp_path / "held.jpg", exif=exif, quality=95)
    assert gallery.read_picture(tmp_path / "held.jpg", 32)[:, 2, 5].tolist()[0] > 240


def test_an_image_is_added_as_if_it_had_been_there(files):
    models, images = {"a": vit(0), "b": vit(1)}, pictures(2)
    shown = explore(images, models)
    shown.add(files / "dog.png")
    whole = explore([*images, files / "dog.png"], models)
    assert shown.image == 2 and shown.meta["images"] == ["image 0", "image 1", "dog"]
    for name in ("codes", "brightest", "outside", "rollout", "similarity", "pictures"):
        one, other = getattr(shown, name), getattr(whole, name)
        for part, again in zip(one, other) if isinstance(one, list) else [(one, other)]:
            assert len(part) == len(again)
            apart = np.frombuffer(part, np.uint8).astype(int) - np.frombuffer(again, np.uint8)
            assert np.mean(apart != 0) < 0.03                                    # a batch of another size rounds otherwise
    for label in models:
        assert shown.statistics(label)["entropy"][0] == pytest.approx(whole.statistics(label)["entropy"][0], abs=3e-5)
    shown.add(images[0])
    assert shown.meta["images"][3] == "image 3" and torch.equal(shown.images[3], images[0])


def test_an_image_that_cannot_be_added_changes_nothing(shown, files, monkeypatch):
    with pytest.raises(CourseError, match="attention alone and has no models to look"):
        shown.add(files / "dog.png")
    live = explore(pictures(), {"a": vit()})
    before = live.get_state()
    for image, message in [(files / "notes.txt", "is no image that can be read"), (7, "is a int"),
                           (pictures(1, 48, 48)[0], "48 x 48")]:
        with pytest.raises(CourseError, match=message):
            live.add(image)
    monkeypatch.setattr(checks, "LIMIT", 9_000)
    with pytest.raises(CourseError, match="at most 2 of these 3 images"):
        live.add(files / "dog.png")
    assert live.get_state() == before


def test_the_browser_sends_an_image_and_gets_an_answer(files, monkeypatch):
    live, said = explore(pictures(), {"a": vit()}), []
    monkeypatch.setattr(live, "send", lambda content, buffers=None: said.append(content))
    live._received(live, {"add": "my dog"}, [memoryview((files / "dog.png").read_bytes())])
    live._received(live, {"add": "notes"}, [memoryview(b"no image")])
    assert live.meta["images"] == ["image 0", "image 1", "my dog"]
    assert said[0] == {"added": True} and "is no image that can be read" in said[1]["problem"]


def test_bytes_lie_where_the_browser_looks_for_them(shown):
    codes, start = np.frombuffer(shown.codes, np.uint8), 0
    for label, (layers, heads) in {"SimMIM": (2, 3), "mine": (1, 2)}.items():
        each = codes[start:start + 2 * layers * heads * 17 * 16].reshape(2, layers, heads, 17, 16)
        start += each.size
        assert np.array_equal(each, shown._seen.views["attention"][label].codes)
    assert start == len(codes) and len(shown.brightest) == len(shown.outside) == 4 * start // 16
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.pictures[1]))), shown.images[1].permute(1, 2, 0).numpy())


def test_models_without_cls_and_with_registers():
    images = pictures(1)
    shown = AttentionExplorer(images, {"none": attention(images=1, tokens=16), "four": attention(images=1, tokens=20)}, (4, 4))
    assert [model["cls"] for model in shown.meta["models"]] == [False, True]
    shown.query = -1
    assert not shown.map("none").any() and shown.map("four").any()
    shown.query = 0
    shown.head, shown.layer = 1, 1
    exact = attention(images=1, tokens=20)[0, 0, 0, 4, 4:].reshape(4, 4).numpy()
    np.testing.assert_allclose(shown.map("four"), exact, atol=exact.max() / 509)


def test_a_grid_may_be_oblong():
    shown = AttentionExplorer(pictures(1, 16, 64), {"a": attention(images=1, tokens=17)}, (2, 8))
    assert shown.map("a").shape == (2, 8) and shown.meta["aspect"] == 4 and shown.query == 12


def test_numbers_of_a_head_are_those_of_the_analysis():
    model, source = vit(), Loaded(Shapes("val", 32), limit=4)
    found = record(model, source, [AttentionStatistics()])
    shown = explore(source.all_images, {"a": model})
    shown.layer, shown.head = 2, 3
    for name, (value, place) in shown.statistics("a").items():
        means = found[name].mean(0)
        assert value == pytest.approx(float(means[1, 2]), abs=2e-3)
        assert place == 1 + int((means.float() > means[1, 2]).sum())
    shown.head = "mean"
    assert shown.statistics("a")["distance"] == (pytest.approx(float(found["distance"].mean(0)[1].mean()), abs=2e-3), None)


def test_rank_counts_from_the_largest():
    assert [rank([[1.0, 3.0], [2.0, 3.0]], *place) for place in [(0, 0), (0, 1), (1, 0), (1, 1)]] == [4, 1, 3, 1]


# -------------------------------------------------------------------------------------------------- what Python sees

def test_traits_start_where_something_is_to_be_seen(shown):
    assert (shown.query, shown.layer, shown.head, shown.image, shown.scale) == (10, 2, "mean", 0, "own")
    assert AttentionExplorer(pictures(), {"a": attention()}, (4, 4), query=-1, head="all", layer=1).head == "all"


@pytest.mark.parametrize("name, value", [
    ("query", -2), ("query", 16), ("layer", 0), ("layer", 3), ("head", 0), ("head", 4), ("image", 2), ("image", -1),
    ("overlay", 1.5), ("overlay", float("nan"))])
def test_a_value_that_does_not_exist_is_refused(shown, name, value):
    before = getattr(shown, name)
    with pytest.raises(CourseError, match=f"{name} = {value} does not exist; give"):
        setattr(shown, name, value)
    assert getattr(shown, name) == before
    with pytest.raises(CourseError):
        AttentionExplorer(pictures(), {"a": attention()}, (4, 4), **{name: value})


@pytest.mark.parametrize("name, value", [("head", "best"), ("scale", "log"), ("query", "CLS"), ("layer", 1.5)])
def test_a_value_of_another_kind_is_refused(shown, name, value):
    with pytest.raises(traitlets.TraitError):
        setattr(shown, name, value)


def test_sliders_can_be_linked(shown):
    slider = ipywidgets.IntSlider(min=1, max=2, value=1)
    ipywidgets.link((slider, "value"), (shown, "layer"))
    assert shown.layer == 1
    slider.value = 2
    assert shown.layer == 2


def test_a_model_with_fewer_layers_and_heads_shows_its_last(shown):
    shown.layer, shown.head = 2, 3
    exact = attention(layers=1, heads=2, seed=1)[0, 0, 1, 11, 1:].reshape(4, 4).numpy()
    np.testing.assert_allclose(shown.map("mine"), exact, atol=exact.max() / 509)
    with pytest.raises(CourseError, match="no model 'yours' here; there are SimMIM, mine"):
        shown.map("yours")


def test_a_saved_notebook_has_a_picture_and_a_text_that_stays(shown):
    data, metadata = shown._repr_mimebundle_()
    text = "AttentionExplorer(images: 2, patches: 4 x 4; SimMIM: 2 layers x 3 heads; mine: 1 layers x 2 heads)"
    assert repr(shown) == data["text/plain"] == text
    assert "application/vnd.jupyter.widget-view+json" in data
    png = base64.b64decode(data["image/png"])
    assert png.startswith(b"\x89PNG") and len(png) < 100_000
    assert metadata["image/png"]["alt"] == ("Where patch row 3, column 3 of 'image 0' looks in layer 2, mean of heads: "
                                            "SimMIM, mine")
    assert shown._repr_mimebundle_()[0]["image/png"] == data["image/png"]
    for changes in ({"query": -1}, {"head": 2}, {"head": "all"}, {"image": 1}, {"scale": "shared"}, {"view": "rollout"}):
        for name, value in changes.items():
            setattr(shown, name, value)
        other = shown._repr_mimebundle_()[0]
        assert other["text/plain"] == text
        assert (other["image/png"] != data["image/png"]) or changes == {"head": "all"}


@pytest.mark.parametrize("view, said", [
    ("rollout", "Where patch row 1, column 1 of 'image 0' draws from in layers 1 to 2, rollout: a"),
    ("similarity", "Which tokens are like patch row 1, column 1 of 'image 0' in layer 2, cosine: a"),
])
def test_the_picture_says_which_view_it_is(view, said):
    shown = explore(pictures(1), {"a": vit()})
    shown.view, shown.query, shown.layer = view, 0, 2
    assert shown._repr_mimebundle_()[1]["image/png"]["alt"] == said


# ------------------------------------------------------------------------------------------------------------ bad input

@pytest.mark.parametrize("images, message", [
    (torch.rand(2, 3, 32, 32), "images are torch.float32; expected torch.uint8"),
    (pictures()[0], r"shape \(3, 32, 32\); expected \(B, 3, H, W\)"),
    (pictures().permute(0, 2, 3, 1), r"shape \(2, 32, 32, 3\)"),
    (pictures()[:0], "no images were given"),
    ([pictures()[0], 3], "image 1 is a int; give a path, a PIL image or a uint8 tensor"),
    ([pictures()[0].float()], r"image 0 is torch.float32 \(3, 32, 32\); expected uint8"),
    ([pictures()[0], pictures(1, 48, 48)[0]], "different sizes: 32 x 32, 48 x 48; paths and PIL images become 32 x 32"),
    ([], "no images were given"),
    ("missing.png", "missing.png is not there; give the path of an image file"),
    (["tests"], "tests is a folder; give the path of an image file"),
    ([Image.new("I;16", (40, 40))], "image 0 has mode I;16, more than 8 bits a channel"),
    (pictures(2, 48, 48), "'a' takes images of 32 x 32 pixels, and these have 48 x 48"),
])
def test_images_that_do_not_fit(images, message):
    with pytest.raises(CourseError, match=message):
        explore(images, {"a": vit()})


def test_images_may_be_an_array():
    assert "images: 2," in repr(explore(pictures().numpy(), {"a": vit()}))


@pytest.mark.parametrize("models, message", [
    ({}, "at least one model"), (None, "at least one model"), ("vit", "at least one model"),
    ({"a": torch.nn.Linear(2, 2)}, "Linear has no attention blocks"),
    ({"a": None}, "NoneType has no attention blocks"),
])
def test_models_that_do_not_fit(models, message):
    with pytest.raises(CourseError, match=message):
        explore(pictures(), models)


def test_grids_that_differ():
    with pytest.raises(CourseError, match="'a' sees 4 x 4 patches and 'b' 2 x 2; models side by side need the same grid"):
        explore(pictures(), {"a": vit(), "b": vit(patch_size=16)})


def test_damaged_weights():
    model = vit()
    model.blocks[1].attn.qkv.weight.data[0] = float("nan")
    with pytest.raises(CourseError, match="not finite"):
        explore(pictures(), {"a": model})


def test_too_much_is_refused_before_a_model_runs(monkeypatch):
    monkeypatch.setattr(checks, "LIMIT", 10_000)
    monkeypatch.setattr(explorer, "look", lambda *_: pytest.fail("a model ran"))
    with pytest.raises(CourseError, match=r"that is 0 MB of attention.*at most 2 of these 8 images"):
        explore(pictures(8), {"a": vit()})
    monkeypatch.setattr(checks, "LIMIT", 1_000)
    with pytest.raises(CourseError, match="give fewer or smaller models"):
        explore(pictures(1), {"a": vit()})


@pytest.mark.parametrize("change, message", [
    (lambda maps: maps[0], r"has shape \(2, 3, 17, 17\); expected \(layers, images, heads, tokens, tokens\)"),
    (lambda maps: maps[..., :16], "expected"),
    (lambda maps: maps[:0], "expected"),
    (lambda maps: maps[:, :1], "is of 1 images, and 2 were given"),
    (lambda maps: maps[..., :9, :9], "has 9 tokens, fewer than the 16 patches"),
    (lambda maps: maps * float("nan"), "NaN or infinity"),
    (lambda maps: maps.log(), "not shares of 1"),
    (lambda maps: maps * 2, "not shares of 1"),
])
def test_attention_that_does_not_fit(change, message):
    with pytest.raises(CourseError, match="attention of 'a'.*" + message):
        AttentionExplorer(pictures(), {"a": change(attention())}, (4, 4))


def test_the_rest_that_does_not_fit():
    with pytest.raises(CourseError, match="no models were given"):
        AttentionExplorer(pictures(), {}, (4, 4))
    with pytest.raises(CourseError, match="3 names were given for 2 images"):
        AttentionExplorer(pictures(), {"a": attention()}, (4, 4), names=list("abc"))


# ---------------------------------------------------------------------------------------------------------------- page

def test_the_page_needs_nothing_else(shown, tmp_path):
    text = shown.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]+\.|src=|<link|import[ (]|@import|url\(|fetch\(", text)
    assert "default-src 'none'" in text and text.startswith("<!doctype html>") and "export default" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert shown.to_html(tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_a_page_of_the_course_is_small(tmp_path):
    """Five networks that ship, of 12 blocks, 6 heads and 65 tokens, and two images, with all views."""
    models = {name: zoo.load(name) for name in ("mocov3", "simmim", "mae", "supervised", "untrained")}
    path = explore(Shapes("val", 64).images(torch.arange(2)), models).to_html(tmp_path / "page.html")
    assert path.stat().st_size < 3_000_000


def test_a_label_cannot_break_out_of_the_page(tmp_path):
    shown = AttentionExplorer(pictures(), {"</script><b>&": attention()}, (4, 4), names=["<i>", "{x}"])
    text = shown.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("</script>") == 2 and "<b>" not in text and "<i>" not in text


def test_a_page_with_some_of_the_images(shown, tmp_path):
    shown.image = 1
    whole, part = shown.to_html(tmp_path / "a.html"), shown.to_html(tmp_path / "b.html", images=[1])
    text = part.read_text(encoding="utf-8")
    assert part.stat().st_size < whole.stat().st_size and '"image": 0' in text and "image 1" in text
    for images in ([], [2], [-1]):
        with pytest.raises(CourseError, match="give some of 0 to 1"):
            shown.to_html(tmp_path / "c.html", images=images)


def test_a_page_is_written_whole_or_not_at_all(shown, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("before")
    monkeypatch.setattr(page.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(CourseError, match=r"page\.html could not be written: disk full"):
        shown.to_html(path)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(CourseError, match="is not a folder"):
        shown.to_html(tmp_path / "nowhere" / "page.html")


# ------------------------------------------------------------------------------------------------------------- gallery

def test_the_gallery_mixes_shapes_and_photographs():
    pictures = gallery.gallery(32)
    assert len(pictures) == 6 and all(p.shape == (3, 32, 32) and p.dtype == torch.uint8 for p in pictures.values())
    assert len({p.numpy().tobytes() for p in pictures.values()}) == 6
    assert [name for name in pictures if "CC" in name or "public domain" in name] == list(pictures)[3:]


def test_the_gallery_without_photographs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(gallery.gallery(32)) == 3


def test_explore_without_images_opens_the_gallery():
    assert repr(explore(models={"a": vit()})).startswith("AttentionExplorer(images: 6, ")


def test_a_picture_from_a_file(tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    assert gallery.read_picture(tmp_path / "red.png", 32)[:, 5, 5].tolist() == [255, 0, 0]
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(CourseError, match=r"text\.png is no image that can be read"):
        gallery.read_picture(tmp_path / "text.png", 32)
