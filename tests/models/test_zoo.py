"""Checkpoints: what was packed comes back, what is damaged is named, what ships is whole."""
import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from lib.errors import CourseError
from lib.models import zoo
from lib.models.vit import create

MODEL = {"name": "vit_nano", "image_size": 16, "patch_size": 8, "positions": "sincos", "layer_scale": None, "mask_token": True}


@pytest.fixture
def folder(tmp_path):
    """One checkpoint with a decoder beside the backbone."""
    torch.manual_seed(0)
    tensors = create(**MODEL).state_dict() | {"decoder.weight": torch.randn(3, 4), "head.bias": torch.randn(2)}
    save_file({name: x.half().contiguous() for name, x in tensors.items()}, tmp_path / "w-simmim.safetensors")
    data = (tmp_path / "w-simmim.safetensors").read_bytes()
    entry = {"file": "w-simmim.safetensors", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "model": MODEL}
    (tmp_path / "manifest.json").write_text(json.dumps({"w/simmim": entry}))
    return tmp_path


def test_what_was_packed_comes_back(folder):
    torch.manual_seed(0)
    packed, loaded = create(**MODEL).eval(), zoo.load("simmim", "w", folder)
    assert not loaded.training and loaded.state_dict().keys() == packed.state_dict().keys()
    for name, x in loaded.state_dict().items():
        assert x.dtype == torch.float32 and torch.equal(x, packed.state_dict()[name].half().float())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), packed(images), rtol=0, atol=0.02)
    assert {"decoder.weight", "head.bias"} <= set(zoo.weights("simmim", "w", folder))


def test_untrained_is_of_the_same_kind_and_repeats(folder):
    state = torch.random.get_rng_state()
    one, again, other = (zoo.untrained("w", seed, folder) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.blocks[0].mlp.fc1.weight, again.blocks[0].mlp.fc1.weight)
    assert not torch.equal(one.blocks[0].mlp.fc1.weight, other.blocks[0].mlp.fc1.weight)
    assert one.embed_dim == zoo.load("simmim", "w", folder).embed_dim and one.mask_token is None
    assert torch.equal(zoo.load("untrained", "w", folder).cls_token, one.cls_token)


def test_damage_is_named(folder):
    path = folder / "w-simmim.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1                                                  # one bit
    path.write_bytes(data)
    with pytest.raises(CourseError, match=r"w-simmim.safetensors is damaged.*SHA-256"):
        zoo.load("simmim", "w", folder)
    path.write_bytes(data[:100])
    with pytest.raises(CourseError, match="has 100 bytes"):
        zoo.load("simmim", "w", folder)
    path.unlink()
    with pytest.raises(CourseError, match=rf"w-simmim.safetensors is missing; restore it with git checkout {path}"):
        zoo.load("simmim", "w", folder)


@pytest.mark.parametrize("text", ["null", "{", '{"w/simmim": {}}', "[]", '{"w/simmim": 3}',
                                  '{"w/simmim": {"file": "x", "sha256": "", "bytes": 0, "model": {}}}'])
def test_a_damaged_manifest_is_named(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CourseError, match=r"manifest.json is damaged; restore it"):
        zoo.load("simmim", "w", str(folder))


def test_unknown_names_are_named(folder):
    with pytest.raises(CourseError, match=r"manifest-others\.json does not exist: this copy of the course is incomplete"):
        zoo.load("moco", "w", folder)
    (folder / zoo.OTHERS).write_text("{}")
    with pytest.raises(CourseError, match=r"no checkpoint 'moco' ships for world 'w'; there are simmim"):
        zoo.load("moco", "w", folder)
    for name in ("simmim", "untrained"):
        with pytest.raises(CourseError, match=r"no checkpoints ship for world 'mars'; there are w"):
            zoo.load(name, "mars", folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CourseError, match=r"manifest\.json is damaged"):
        zoo.load("simmim", "w", folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CourseError, match=r"manifest\.json does not exist"):
        zoo.load("simmim", "w", folder)


def test_trainings_are_by_seed_and_of_one_network_only(folder):
    entry = json.loads((folder / "manifest.json").read_text())["w/simmim"]
    keys = ("w/simmim-seed10", "w/simmim-seed2", "w/simmim-mean", "w/simmim-mean-seed1", "v/simmim-seed1")
    (folder / zoo.OTHERS).write_text(json.dumps(dict.fromkeys(keys, entry)))
    assert zoo.trainings("simmim", "w", folder) == ["simmim", "simmim-seed2", "simmim-seed10"]
    with pytest.raises(CourseError, match=r"no checkpoint 'mae' ships for world 'w'"):
        zoo.trainings("mae", "w", folder)


@pytest.mark.skipif(not (zoo.FOLDER / "manifest.json").exists(), reason="no checkpoints ship yet: see lib.training.zoo")
def test_what_ships_is_whole_and_small():
    known = zoo.manifest() | zoo.others()
    total = 0
    for key, entry in known.items():
        world, name = key.split("/")
        assert zoo.load(name, world)(torch.zeros(1, 3, *[entry["model"]["image_size"]] * 2)).isfinite().all()
        assert entry["bytes"] <= 12_000_000
        total += entry["bytes"]
    assert known and total <= 120_000_000
    assert {path.name for path in zoo.FOLDER.glob("*.safetensors")} == {entry["file"] for entry in known.values()}
