"""The CNN: its maps and their names, and an untrained control whose norms work."""
import pytest
import torch
import torch.nn.functional as F

from lib.errors import CourseError
from lib.models import resnet


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (24, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("name", resnet.SIZES)
def test_maps_are_of_32_16_8_and_4_and_all_layers_come_in_order(name):
    network, passed = resnet.create(name).eval(), {}
    modules = resnet.layers(network)
    for key, module in modules.items():
        module.register_forward_hook(lambda module, given, out, key=key: passed.update({key: out.shape}))
    logits = network(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 10) and list(passed) == list(modules)
    channels, blocks = resnet.SIZES[name]
    assert passed["stem"] == (2, channels[0], 32, 32)
    for stage, (width, count, side) in enumerate(zip(channels, blocks, (32, 16, 8, 4)), start=1):
        ends = {key: shape for key, shape in passed.items() if key.startswith(f"stage{stage}.") and key.count(".") == 1}
        assert len(ends) == count and set(ends.values()) == {(2, width, side, side)}
    inside = [key for key in modules if key.count(".") == 2]
    assert list(resnet.stages(network)) == [key for key in modules if key not in inside]
    assert len(inside) == 5 * sum(blocks)


def test_a_block_is_two_convolutions_and_a_skip():
    torch.manual_seed(0)
    network = resnet.untrained(torch.randn(8, 3, 64, 64), "resnet_nano").double()
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64)

    def normed(y, norm):
        y = (y - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps) ** 0.5
        return y * norm.weight[:, None, None] + norm.bias[:, None, None]

    for block in (network.layer1[0], network.layer2[0]):
        y = normed(F.conv2d(x, block.conv1.weight, stride=block.stride, padding=1), block.bn1).clamp(min=0)
        y = normed(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
        skip = x
        if block.downsample is not None:
            skip = normed(F.conv2d(x, block.downsample[0].weight, stride=block.stride), block.downsample[1])
        torch.testing.assert_close(block(x.clone()), (y + skip).clamp(min=0), rtol=1e-10, atol=1e-10)


def test_untrained_repeats_and_its_norms_know_the_images(images):
    state = torch.random.get_rng_state()
    one, again, other = (resnet.untrained(images, "resnet_nano", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state) and not one.training
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(one.layer1[0].conv1.weight, other.layer1[0].conv1.weight)
    seen = {}
    for name in ("layer1", "layer4"):
        getattr(one, name)[0].bn2.register_forward_hook(lambda module, given, out, name=name: seen.update({name: out.clone()}))
    from lib.data.views import normalize
    one(normalize(images))
    for out in seen.values():
        torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(out.shape[1]), atol=0.02, rtol=0)
        torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(out.shape[1]), atol=0.02, rtol=0)
    assert {m.momentum for m in one.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_an_unknown_name_is_named():
    with pytest.raises(CourseError, match="no model 'resnet_big'; choose one of resnet_nano, resnet_slim"):
        resnet.create("resnet_big")
