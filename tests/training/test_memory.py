"""Less memory, the same gradients: a batch in parts, blocks computed twice."""
from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block

from lib.data import Loaded, open_source
from lib.training import checkpoint
from lib.training.memory import checkpoint_blocks, parts
from lib.training.recipes import recipe
from lib.training.sharding import compile_blocks
from lib.training.trainer import Trainer

TINY = dict(images=32, epochs=2, batch_size=16, image_size=16, patch_size=4, model="vit_nano", warmup_epochs=0.5, knn_every=0,
            log_every=1, device="cpu", difficulty="easy", precision="fp64")
SMALL = {"mocov3": dict(hidden=32, dim=16), "dino": dict(hidden=32, bottleneck=16, prototypes=24, local_size=8, local_crops=2),
         "mae": dict(decoder_dim=16, decoder_depth=1, decoder_heads=2), "simmim": dict(mask_cell=1),
         "hybrid": dict(hidden=32, dim=16, mask_cell=1, cl_weight=0.4), "supervised": {}}
IN_PARTS = ("simmim", "mae", "supervised")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def source():
    return Loaded(open_source("shapes", "train", 16, limit=32, difficulty="easy"))


def gradients(source, objective: str, **changes) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """-> gradients of the first batch, by name, and what is logged of it."""
    trainer = Trainer(recipe(objective, **TINY | SMALL[objective] | changes), source)
    trainer.objective.train()
    trainer.objective.begin_step(0.0)
    torch.manual_seed(7)                                           # of stochastic depth
    logs = trainer.backward(trainer.prepare(0))
    return {name: p.grad for name, p in trainer.objective.named_parameters() if p.grad is not None}, logs


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and one
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("objective", IN_PARTS)
@pytest.mark.parametrize("count", [2, 16])
def test_parts_have_the_gradients_of_the_whole(objective, count, source):
    whole, split = gradients(source, objective), gradients(source, objective, accumulate=count)
    assert_same(whole[0], split[0])
    assert_same(whole[1], split[1])


def test_compiled_blocks_are_compiled_though_they_are_checkpointed(source):
    """FSDP2 and checkpoints wrap a block; asked to compile what wraps it, PyTorch would compile nothing, and say nothing."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    trainer = Trainer(recipe("mae", **TINY | SMALL["mae"]), source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        compile_blocks(trainer.objective)
    checkpoint_blocks(trainer.objective)
    trainer.objective.train()
    loss, _ = trainer.objective(trainer.prepare(0))
    loss.backward()
    found = {name: p.grad for name, p in trainer.objective.named_parameters() if p.grad is not None}
    assert graphs and max(graphs) > 10
    assert_same(found, gradients(source, "mae")[0])
    torch._dynamo.reset()


def test_only_one_part_is_in_the_network_at_a_time(source):
    trainer = Trainer(recipe("simmim", **TINY | SMALL["simmim"] | dict(accumulate=4)), source)
    seen = []
    trainer.objective.backbone.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    trainer.train_step(0)
    assert seen == [4] * 4


def test_a_part_has_all_crops_of_its_images():
    batch = {"view": torch.arange(4), "local": torch.tensor([0, 1, 2, 3, 10, 11, 12, 13])}     # two crops of four images
    first, second = parts(batch, images=4, count=2)
    assert first["view"].tolist() == [0, 1] and first["local"].tolist() == [0, 1, 10, 11]
    assert second["view"].tolist() == [2, 3] and second["local"].tolist() == [2, 3, 12, 13]
    assert parts(batch, images=4, count=1)[0] is batch


@pytest.mark.parametrize("objective", SMALL)
def test_checkpointed_blocks_have_the_same_gradients(objective, source):
    """With stochastic depth, which must drop the same paths when a block is computed again."""
    plain, again = (gradients(source, objective, drop_path=0.3, checkpoint_blocks=on) for on in (False, True))
    assert_same(plain[0], again[0])
    assert_same(plain[1], again[1])


def kept(source, objective: str, **changes) -> tuple[int, list[int]]:
    """-> bytes that a step keeps for its backward pass, and how often each block that learns was computed."""
    trainer = Trainer(recipe(objective, **TINY | SMALL[objective] | changes), source)
    trainer.objective.train()
    blocks = [m for m in trainer.objective.modules() if isinstance(m, Block) and m.norm1.weight.requires_grad]
    calls, stored = [0] * len(blocks), {}
    for k, block in enumerate(blocks):
        block.norm1.register_forward_hook(lambda *_, k=k: calls.__setitem__(k, calls[k] + 1))
    batch = trainer.prepare(0)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.setdefault(x.data_ptr(), x) is None or x, lambda x: x):
        loss, _ = trainer.objective(batch)
    loss.backward()
    return sum(x.nbytes for x in stored.values()), calls


@pytest.mark.parametrize("objective", ["mae", "mocov3"])
def test_checkpointed_blocks_keep_little_and_are_computed_twice(objective, source):
    (many, once), (few, twice) = kept(source, objective), kept(source, objective, checkpoint_blocks=True)
    assert set(once) == {1} and set(twice) == {2} and len(once) == (4 if objective == "mae" else 3)
    assert few < 0.5 * many


def test_runs_go_on_with_and_without(source, tmp_path):
    """The options may change between a run and its continuation: weights keep their names."""
    settings = TINY | SMALL["mae"]
    whole = Trainer(recipe("mae", **settings), source)
    whole.run()
    begun = Trainer(recipe("mae", **settings, checkpoint_blocks=True), source, tmp_path)
    step = begun.train_step
    begun.train_step = lambda s: (setattr(begun, "stop", s == 1), step(s))[1]
    begun.run()
    assert checkpoint.load(tmp_path)["step"] == 2
    resumed = Trainer(recipe("mae", **settings, accumulate=2), source, tmp_path, resume=True)
    resumed.run()
    assert resumed.step == whole.step == 4
    assert [line["loss"] for line in resumed.history] == pytest.approx([line["loss"] for line in whole.history], abs=1e-12)
    assert_same(dict(resumed.objective.state_dict()), dict(whole.objective.state_dict()))
