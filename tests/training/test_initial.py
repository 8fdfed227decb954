"""Trainings that begin with the weights of another: every ViT gets them, and what does not fit is said."""
import pytest
import torch

from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.evaluation.load import load_backbone, untrained_backbone
from lib.models import zoo
from lib.training.build import build
from lib.training.initial import begin
from lib.training.recipes import OBJECTIVES, recipe
from lib.training.trainer import Trainer

TINY = dict(image_size=16, patch_size=4, model="vit_nano", images=32, epochs=1, batch_size=8, warmup_epochs=0.5, knn_every=0,
            difficulty="easy", device="cpu")
SMALL = {"mocov3": dict(hidden=32, dim=16), "dino": dict(hidden=32, bottleneck=16, prototypes=24, local_size=8, local_crops=2),
         "mae": dict(decoder_dim=16, decoder_depth=1, decoder_heads=2), "simmim": dict(mask_cell=1),
         "hybrid": dict(hidden=32, dim=16, mask_cell=1), "supervised": dict(classes=10)}


def tiny(objective: str, **changes):
    return recipe(objective, **TINY | SMALL[objective] | changes)


@pytest.fixture(scope="module")
def source():
    return Loaded(open_source("shapes", "train", 16, limit=32, difficulty="easy"))


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    Trainer(tiny("simmim", seed=7), source, folder).run()
    return folder


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_vit_of_an_objective_begins_with_them(objective, source, run):
    before, _ = load_backbone(run)
    made = Trainer(tiny(objective, start_from=str(run)), source).objective
    networks = [module for module in made.modules() if hasattr(module, "patch_embed")]
    assert len(networks) == {"mocov3": 2, "dino": 2, "hybrid": 2}.get(objective, 1)
    for network in networks:
        for name, x in before.state_dict().items():
            if name in network.state_dict():
                assert torch.equal(network.state_dict()[name], x), name
    head, fresh = ([x for name, x in network.state_dict().items() if "backbone" not in name]
                   for network in (made, build(tiny(objective))))
    assert all(torch.equal(a, b) for a, b in zip(head, fresh, strict=True))        # all else as it would have been


def test_a_run_that_began_so_goes_on_and_is_evaluated_without_them(source, run, tmp_path):
    r = tiny("mae", start_from=str(run), epochs=2)
    whole, halted = Trainer(r, source), Trainer(r, source, tmp_path)
    whole.run()
    step = halted.train_step
    halted.train_step = lambda s: (setattr(halted, "stop", s == 2), step(s))[1]
    halted.run()
    with pytest.raises(CourseError, match=r"was begun with start_from=.*, not start_from=;"):
        Trainer(tiny("mae", epochs=2), source, tmp_path, resume=True)
    moved = run.rename(run.with_name("elsewhere"))                 # a run that goes on needs them no more
    try:
        resumed = Trainer(r, source, tmp_path, resume=True)
        resumed.run()
        backbone, recipe_of_it = load_backbone(tmp_path)
        control = untrained_backbone(recipe_of_it)
    finally:
        moved.rename(run)
    states = [trainer.objective.state_dict() for trainer in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    assert recipe_of_it.start_from == str(run)
    assert torch.equal(control.blocks[0].mlp.fc1.weight, build(tiny("mae")).backbone.blocks[0].mlp.fc1.weight)
    assert not torch.equal(control.blocks[0].mlp.fc1.weight, backbone.blocks[0].mlp.fc1.weight)


def test_images_may_have_another_size(source, run):
    larger = build(tiny("simmim", image_size=32))
    positions = larger.backbone.pos_embed.clone()
    begin(larger, str(run / "backbone.safetensors"))
    assert torch.equal(larger.backbone.pos_embed, positions)
    assert torch.equal(larger.backbone.norm.weight, load_backbone(run)[0].norm.weight)


def test_a_shipped_network_can_be_the_start():
    made = build(recipe("mae", "course", data="shapes", image_size=64, model="vit_slim", decoder_dim=16, decoder_depth=1,
                        decoder_heads=2))
    begin(made, "shapes/simmim")
    assert torch.equal(made.backbone.blocks[3].attn.qkv.weight, zoo.load("simmim").blocks[3].attn.qkv.weight)


@pytest.mark.parametrize(("changes", "said"), [
    (dict(patch_size=8), r"patch_embed\.proj\.weight is \(48, 3, 4, 4\), expected \(48, 3, 8, 8\); give --model, --patch-size"),
    (dict(positions="relative"), "bias_table is missing"), (dict(layer_scale=0.1), "gamma is missing"),
    (dict(model="vit_slim"), r"cls_token is \(1, 1, 48\), expected")])
def test_weights_that_do_not_fit_are_said(changes, said, run):
    made = build(tiny("simmim", **changes))
    before = {name: x.clone() for name, x in made.state_dict().items()}
    with pytest.raises(CourseError, match=said):
        begin(made, str(run))
    assert all(torch.equal(x, before[name]) for name, x in made.state_dict().items())


def test_fewer_or_more_blocks_are_said(run):
    deeper = build(tiny("simmim"))
    del deeper.backbone.blocks[-1]
    with pytest.raises(CourseError, match=r"blocks\.2\..* expected none"):
        begin(deeper, str(run))


@pytest.mark.parametrize(("before", "after", "said"), [
    (dict(positions="relative"), {}, "pos_embed is missing"), (dict(layer_scale=0.1), {}, r"gamma is \(48,\), expected none"),
    (dict(heads=6), {}, "it has 6 heads, expected 3"), ({}, dict(heads=6), "it has 3 heads, expected 6"),
    (dict(positions="learned", image_size=32), {}, r"pos_embed is \(1, 65, 48\), expected \(1, 17, 48\)")])
def test_nothing_of_the_weights_is_left_behind(before, after, said, tmp_path):
    source = Loaded(open_source("shapes", "train", before.get("image_size", 16), limit=32, difficulty="easy"))
    Trainer(tiny("simmim", **before), source, tmp_path).run()
    with pytest.raises(CourseError, match=said):
        begin(build(tiny("mae", **after)), str(tmp_path))


def test_it_computes_what_the_other_did(source, tmp_path):
    """Learned positions too, where the new network would have had sines: of the same size, they come along."""
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    Trainer(tiny("simmim", positions="learned"), source, tmp_path).run()
    made = build(tiny("mae"))
    begin(made, str(tmp_path))
    with torch.no_grad():
        assert torch.equal(made.backbone.eval()(images), load_backbone(tmp_path)[0](images))


def test_an_objective_without_a_vit_has_no_start(run):
    with pytest.raises(CourseError, match=r"Linear has no lib.models.vit.ViT that could begin"):
        begin(torch.nn.Linear(2, 2), str(run))


@pytest.mark.parametrize(("name", "said"), [("nowhere", "takes a run's folder, .* got 'nowhere'"),
                                            ("official:nothing", "nothing"), ("shapes/resnet", "got 'shapes/resnet'"),
                                            (__file__, "a .safetensors file of one")])
def test_weights_that_are_nowhere_are_said(name, said):
    with pytest.raises(CourseError, match=said):
        begin(build(tiny("simmim")), name)
