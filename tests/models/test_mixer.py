"""The Mixer: places mixed one channel at a time, then channels one place at a time; its layers; an untrained control."""
import pytest
import torch
import torch.nn.functional as F

from lib.errors import CourseError
from lib.models import mixer, others, resnet, vit


@pytest.mark.parametrize("name", mixer.SIZES)
def test_as_deep_and_wide_as_the_vit_of_its_name_and_layers_come_in_order(name):
    network, passed = mixer.create(name).eval(), {}
    for key, module in mixer.layers(network).items():
        module.register_forward_hook(lambda module, given, out, key=key: passed.update({key: out.shape}))
    width, depth, _ = vit.SIZES[name.replace("mixer", "vit")]
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    assert list(passed) == ["embedding", *(f"block{k}" for k in range(1, depth + 1))] == list(mixer.layers(network))
    assert set(passed.values()) == {(2, 64, width)}


def test_a_block_mixes_places_and_then_channels():
    network = mixer.untrained("mixer_nano").double()
    x, block = torch.randn(2, 64, 48, dtype=torch.float64), network.blocks[1]

    def mlp(y, m):
        hidden = F.gelu(y @ m.fc1.weight.T + m.fc1.bias)
        return hidden @ m.fc2.weight.T + m.fc2.bias

    def normed(y, norm):
        y = y - y.mean(2, keepdim=True)
        return y / (y.square().mean(2, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias

    places = torch.stack([mlp(normed(x, block.norm1)[:, :, channel], block.mlp_tokens) for channel in range(48)], 2)
    y = x + places
    channels = torch.stack([mlp(normed(y, block.norm2)[:, place], block.mlp_channels) for place in range(64)], 1)
    torch.testing.assert_close(block(x), y + channels, rtol=1e-10, atol=1e-10)
    assert block.mlp_tokens.fc1.weight.shape == (24, 64) and block.mlp_channels.fc1.weight.shape == (192, 48)


def test_untrained_repeats():
    state = torch.random.get_rng_state()
    one, again, other = (mixer.untrained("mixer_nano", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state) and not one.training
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(one.blocks[0].mlp_tokens.fc1.weight, other.blocks[0].mlp_tokens.fc1.weight)


def test_one_way_to_all_that_are_no_vits():
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    for name in ("resnet_nano", "mixer_nano"):
        network = others.untrained(name, images)
        assert network(images / 255).shape == (8, 10) and not network.training
        assert list(others.layers(network))[-1] == {"resnet_nano": "stage4.1", "mixer_nano": "block3"}[name]
    assert set(others.NAMES) == set(resnet.SIZES) | set(mixer.SIZES)


def test_what_cannot_be_is_named():
    with pytest.raises(CourseError, match="no model 'mixer_big'; choose one of mixer_nano, mixer_slim"):
        mixer.create("mixer_big")
    with pytest.raises(CourseError, match="patches of 10 px do not fill images of 64 px"):
        mixer.create("mixer_nano", patch_size=10)
