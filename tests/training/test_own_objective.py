"""An objective of a user's own: the trainer, its checkpoints and the evaluation take it as they take the course's."""
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lib.data import Loaded, open_source
from lib.errors import CourseError
from lib.evaluation.load import load_backbone, open_subject
from lib.objectives import Objective
from lib.training.build import build, from_description
from lib.training.recipes import OWN, describe
from lib.training.settings import Own, Recipe
from lib.training.trainer import Trainer

README = Path(__file__).parents[2] / "README.md"
TINY = dict(image_size=16, patch_size=4, model="vit_nano", images=32, epochs=2, batch_size=8, warmup_epochs=0.5, knn_every=0,
            difficulty="easy", device="cpu")


class Brightness(Objective):
    """How bright is the image? A decoder ships with it."""
    ships = ("reader",)

    def __init__(self, r: Recipe):
        super().__init__()
        self.backbone, self.reader = r.backbone(mask_token=True), torch.nn.Linear(48, 1)

    def prepare(self, images, keys):
        return {"images": images / 255}

    def loss(self, batch):
        read = self.reader(self.backbone(batch["images"]))[:, 0] + 0 * self.backbone.mask_token.sum()
        return (read - batch["images"].mean((1, 2, 3))).square().mean(), {}


@pytest.fixture(scope="module")
def source():
    return Loaded(open_source("shapes", "train", 16, limit=32, difficulty="easy"))


def test_it_trains_resumes_and_is_evaluated(source, tmp_path):
    whole = Trainer(Recipe(**TINY), source, make=Brightness)
    whole.run()
    halted = Trainer(Recipe(**TINY), source, tmp_path, make=Brightness)
    step = halted.train_step
    halted.train_step = lambda s: (setattr(halted, "stop", s == 4), step(s))[1]
    halted.run()
    assert halted.step == 5
    resumed = Trainer(Recipe(**TINY), source, tmp_path, resume=True, make=Brightness)
    resumed.run()
    for (name, a), b in zip(whole.objective.state_dict().items(), resumed.objective.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    backbone, r = load_backbone(tmp_path)
    assert r == Own(**TINY) and backbone.mask_token is not None
    assert all(torch.equal(a, b) for a, b in zip(backbone.state_dict().values(),
                                                 whole.objective.backbone.state_dict().values(), strict=True))
    subject = open_subject(str(tmp_path))
    assert (subject.data, subject.difficulty, subject.size, subject.pooling) == ("shapes", "easy", 16, "cls")
    assert not torch.equal(subject.untrained.blocks[0].attn.qkv.weight, backbone.blocks[0].attn.qkv.weight)


def test_its_seed_decides_its_weights(source):
    one, again, other = (Trainer(Recipe(**TINY | {"seed": seed}), source, make=Brightness).objective.reader.weight
                         for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


@dataclass(frozen=True, kw_only=True)
class Mine(Recipe):
    power: float = 2.0
    pooling: str = "mean"


def test_settings_of_ones_own_are_part_of_a_run(source, tmp_path):
    Trainer(Mine(**TINY | {"epochs": 1}), source, tmp_path, make=Brightness).run()
    with pytest.raises(CourseError, match=r"was begun with power=2\.0, not power=3\.0"):
        Trainer(Mine(**TINY | {"epochs": 1}, power=3.0), source, tmp_path, resume=True, make=Brightness)
    described = describe(Mine(**TINY))
    assert described["objective"] == OWN and from_description(described) == Own(**TINY, pooling="mean")
    del described["batch_size"]
    with pytest.raises(CourseError, match="the recipe lacks batch_size"):
        from_description(described)


@dataclass(frozen=True, kw_only=True)
class Various(Recipe):
    weight: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    power: "float" = 2


def test_settings_may_be_of_any_kind():
    r = Various(**TINY)
    assert (r.weight, r.sizes, r.power) == (None, (1, 2), 2.0) and type(r.power) is float
    with pytest.raises(CourseError, match="power must be float, got 'two'"):
        Various(**TINY, power="two")
    with pytest.raises(CourseError, match="pooling must be cls or mean, got 'max'"):
        Mine(**TINY, pooling="max")


def test_a_log_may_hold_plain_numbers(source):
    plain = type("Plain", (Brightness,), {"loss": lambda self, batch: (self.reader.weight.sum(), {"x": 1.5})})
    trainer = Trainer(Recipe(**TINY | {"epochs": 1}), source, make=plain)
    trainer.run()
    assert [line["x"] for line in trainer.history if "x" in line] and all(line.get("x", 1.5) == 1.5 for line in trainer.history)
    several = type("Several", (Brightness,), {"loss": lambda self, batch: (self.reader.weight.sum(), {"x": torch.ones(4)})})
    with pytest.raises(CourseError, match=r"the log takes scalars, and x has the shape \(4,\)"):
        Trainer(Recipe(**TINY), source, make=several).run()


class Bare(Objective):
    """Without a backbone."""


@pytest.mark.parametrize(("make", "said"), [(lambda r: r.backbone(), "with a backbone, got a ViT$"),
                                            (lambda r: Bare(), "got a Bare without one$")])
def test_what_is_no_objective_is_said(make, said, source):
    with pytest.raises(CourseError, match=said):
        Trainer(Recipe(**TINY), source, make=make)
    with pytest.raises(CourseError, match="give the trainer a function that makes it"):
        build(Recipe(**TINY))


@pytest.mark.parametrize(("changes", "said"), [
    (dict(ships=("readerr",)), "ships must name modules of the objective, in a tuple; 'readerr' is none"),
    (dict(ships=("reader")), "in a tuple; 'r' is none"),
    (dict(prepare=lambda self, images, keys: [images]), "prepare must return a dict of tensors, got a list"),
    (dict(loss=lambda self, batch: self.reader.weight.sum()), "loss must return the loss and a dict .* got a Tensor"),
    (dict(loss=lambda self, batch: (self.reader.weight.sum(), None)), "loss must return the loss and a dict .* got a tuple")])
def test_a_mistake_in_an_objective_is_said(changes, said, source):
    with pytest.raises(CourseError, match=said):
        Trainer(Recipe(**TINY), source, make=type("Mistaken", (Brightness,), changes)).run()


def test_a_name_that_the_log_has_is_refused(source):
    class Loud(Brightness):
        def loss(self, batch):
            return super().loss(batch)[0], {"step": torch.ones(())}
    with pytest.raises(CourseError, match="the log has a 'step' of its own"):
        Trainer(Recipe(**TINY), source, make=Loud).run()


def test_processes_that_do_not_know_of_each_other_are_stopped(source, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CourseError, match=r'lib\.distributed\.start\("cuda"\)'):
        Trainer(Recipe(**TINY), source, make=Brightness)


def test_the_one_in_the_readme_learns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
               if "class BarlowTwins" in block]
    shorter = code.replace("limit=4096", "limit=512").replace("warmup_epochs=0.3", "warmup_epochs=0.3, log_every=2")
    assert shorter != code
    names = {}
    exec(shorter, names)
    history = names["trainer"].history
    assert history[-1]["loss"] < history[0]["loss"] and history[-1]["alike"] > history[0]["alike"]
    assert load_backbone("runs/twins")[0].embed_dim == 48
