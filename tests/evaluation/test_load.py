"""Networks of timm by name: what is neither on the disk nor to be had is one line at once, and all else is left to timm."""
import copy
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation import load
from lib.models import zoo

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def hub(monkeypatch):
    """A hub of stand-ins: `hub.cached` and `hub.answer` say what it has, `hub.asked` counts, and timm has no pretraining."""
    state = SimpleNamespace(cached=(), answer=None, asked=[])
    create = load.timm.create_model

    def ask(address, timeout):
        state.asked.append((address, timeout))
        if state.answer:
            raise state.answer

    monkeypatch.setattr(load, "try_to_load_from_cache", lambda _, file: f"/cache/{file}" if file in state.cached else object())
    monkeypatch.setattr(load, "get_hf_file_metadata", ask)
    monkeypatch.setattr(load.timm, "create_model", lambda name, pretrained, num_classes: create(name, num_classes=num_classes))
    return state


def test_without_a_network_it_says_what_to_do(hub):
    hub.answer = OSError("[Errno -2] Name or service not known")
    said = rf"timm:{NAME} are not in .*Name or service not known.*where there is a network"
    with pytest.raises(CourseError, match=said) as error:
        load.open_subject(f"timm:{NAME}")
    assert "\n" not in str(error.value) and len(hub.asked) == 1 and hub.asked[0][1] <= 5


def test_what_is_on_the_disk_needs_no_network(hub):
    hub.answer = OSError("no network")
    for file in ("model.safetensors", "pytorch_model.bin"):
        hub.cached = (file,)
        assert load.open_subject(f"timm:{NAME}").size == 224
    assert hub.asked == []


@pytest.mark.parametrize("bias", [True, False])
def test_weights_that_want_another_normalisation_see_their_own(hub, monkeypatch, bias):
    """An image normalised as everywhere in the course is to them what they were trained on."""
    create = load.timm.create_model
    made = []

    def create_small(name, pretrained, num_classes):
        made.append(create("vit_tiny_patch16_224", pretrained, num_classes))
        if not bias:
            made[-1].patch_embed.proj.bias = None
        made[-1].pretrained_cfg = made[-1].pretrained_cfg | {"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)}
        before.append(copy.deepcopy(made[-1]))
        return made[-1]

    before = []
    monkeypatch.setattr(load.timm, "create_model", create_small)
    subject = load.open_subject("timm:any")
    images = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7)))
    for network, original in zip((subject.backbone, subject.untrained), before, strict=True):
        with torch.no_grad():
            found, expected = network.patch_embed(normalize(images)), original.patch_embed((images - mean) / std)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_imagenets_normalisation_changes_nothing_and_pooling_is_that_of_the_model(hub, monkeypatch):
    hub.cached = ("model.safetensors",)
    subject = load.open_subject("timm:deit_tiny_patch16_224")
    assert subject.pooling == "cls" and subject.backbone.pretrained_cfg["mean"] == load.IMAGENET_DEFAULT_MEAN
    torch.rand(3)
    again = load.open_subject("timm:deit_tiny_patch16_224").untrained              # as in another process, or at the next start
    assert torch.equal(again.blocks[3].mlp.fc1.weight, subject.untrained.blocks[3].mlp.fc1.weight)
    assert load.open_subject("timm:vit_base_patch16_rpn_224").pooling == "mean"         # it has no CLS token
    monkeypatch.setattr(load, "IMAGENET_DEFAULT_MEAN", (0.1, 0.1, 0.1))
    with pytest.raises(CourseError, match="not a convolution"):
        load.open_subject("timm:vit_tiny_r_s16_p8_224")


def test_a_server_that_answers_is_left_to_timm(hub):
    for hub.answer in (None, HfHubHTTPError.__new__(HfHubHTTPError)):
        assert load.open_subject(f"timm:{NAME}").pooling == "cls"
    assert len(hub.asked) == 2 and all(f"timm/{NAME}" in address for address, _ in hub.asked)


@pytest.mark.parametrize("name", ["vit_best", f"{NAME}.no_such_tag"])
def test_a_name_that_timm_does_not_know(hub, monkeypatch, name):
    with pytest.raises(CourseError, match=f"timm cannot make '{name}'"):
        load.open_subject(f"timm:{name}")
    assert hub.asked == []


def test_a_name_that_does_not_ship_gets_the_names_that_do():
    with pytest.raises(CourseError, match=r"no checkpoint 'nothere' ships for world 'shapes'; there are supervised, mocov3, "):
        load.open_subject("shapes/nothere")


def test_the_control_of_a_further_training_is_drawn_with_its_seed():
    controls = [load.open_subject(f"shapes/{name}").untrained for name in ("mocov3", "mocov3-seed1")]
    first, again = (control.blocks[0].mlp.fc1.weight for control in controls)
    drawn = [zoo.untrained("shapes", seed).blocks[0].mlp.fc1.weight for seed in (0, 1)]
    assert torch.equal(first, drawn[0]) and torch.equal(again, drawn[1]) and not torch.equal(*drawn)


@pytest.mark.parametrize("name", ["shapes/mocov3", f"timm:{NAME}"])
def test_a_network_takes_images_of_another_size(hub, name):
    hub.cached = ("model.safetensors",)
    subject = load.open_subject(name)
    patch, dim, usual = subject.backbone.patch_embed.patch_size[0], subject.backbone.embed_dim, subject.backbone.pos_embed
    usual_side = subject.size // patch
    larger = load.resized(subject, 2 * subject.size)
    assert larger.size == 2 * subject.size and larger.recipe == subject.recipe
    places = larger.backbone.pos_embed[0]
    side = 2 * usual_side
    assert places.shape == (1 + side**2, dim) and torch.equal(places[0], usual[0, 0])
    table, coarse = places[1:].view(side, side, dim), usual[0, 1:].view(usual_side, usual_side, dim)
    middle = table.view(usual_side, 2, usual_side, 2, dim).mean((1, 3))[2:-2, 2:-2]   # four new places in each of the old ones
    assert (middle - coarse[2:-2, 2:-2]).norm() < 0.4 * coarse[2:-2, 2:-2].norm()
    images = torch.randn(2, 3, larger.size, larger.size)
    with torch.no_grad():
        for network in (larger.backbone, larger.untrained):
            assert network.forward_features(images).shape == (2, 1 + side**2, dim)


def test_sizes_that_do_not_fit_are_named(hub):
    for size in (0, 4, 60, -64):
        with pytest.raises(CourseError, match=f"multiple of the patch size 8, got {size}"):
            load.resized(load.open_subject("shapes/mocov3"), size)
    hub.cached = ("model.safetensors",)
    relative = zoo.untrained("shapes")
    relative.positions = "relative"
    with pytest.raises(CourseError, match="relative position bias, which is for images of 64 pixels"):
        load.resized(replace(load.open_subject("shapes/mocov3"), backbone=relative), 96)
    fixed = zoo.untrained("shapes")
    fixed.set_input_size = None
    with pytest.raises(CourseError, match="timm cannot change ViT to images of 96 pixels"):
        load.resized(replace(load.open_subject("shapes/mocov3"), backbone=fixed), 96)


def test_the_real_client_gives_up_soon(monkeypatch, tmp_path):
    """A port that nobody listens to, and an empty cache: the client's own retries would take a minute."""
    monkeypatch.setattr(load, "hf_hub_url", lambda *_: "http://127.0.0.1:9/model.safetensors")
    monkeypatch.setattr(load, "try_to_load_from_cache", lambda *_: None)
    begun = time.monotonic()
    with pytest.raises(CourseError, match="cannot be reached"):
        load.open_subject(f"timm:{NAME}")
    assert time.monotonic() - begun < 20
