"""Files of weights: what is in them comes back, what is hidden in them does not run."""
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from lib.errors import CourseError
from lib.models.safe_load import Inert, read_checkpoint


class Evil:
    """Unpickling it writes a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def tensors() -> dict:
    torch.manual_seed(0)
    flat = torch.randn(24)
    return {"view": flat[2:14].view(3, 4).T, "same": flat, "half": torch.randn(3).bfloat16(), "count": torch.tensor(7),
            "empty": torch.empty(0, 2), "mask": torch.tensor([True, False]), "parameter": nn.Parameter(torch.randn(2)),
            "double": torch.randn(2, dtype=torch.float64)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape and torch.equal(found[name], x)


@pytest.fixture
def foreign(monkeypatch):
    """A config object like yacs' CfgNode, of a module that is gone when the file is read."""
    module = types.ModuleType("foreign_config")
    exec("class CfgNode(dict):\n    def __init__(self, d):\n        super().__init__(d)\n        self.frozen = True\n"
         "    def __getattr__(self, name):\n        return self[name]", module.__dict__)
    monkeypatch.setitem(sys.modules, "foreign_config", module)
    config = module.CfgNode({"MODEL": module.CfgNode({"TYPE": "vit", "SIZES": [1, 2]})})
    yield config
    sys.modules.pop("foreign_config", None)


def test_one_wrong_bit_in_a_weight_is_noticed(tmp_path):
    path, weight = tmp_path / "x.pth", torch.full((64,), 1.5)
    torch.save({"weight": weight}, path)
    data = bytearray(path.read_bytes())
    data[data.index(weight.numpy().tobytes()) + 101] ^= 1
    path.write_bytes(data)
    with pytest.raises(CourseError, match=r"the checksum of .*data/0 in it is wrong"):
        read_checkpoint(path)


def test_tensors_come_back(tmp_path):
    for zipped in (True, False):
        torch.save({"model": tensors(), "epoch": 3}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        found = read_checkpoint(tmp_path / "x.pth")
        assert_same(found["model"], tensors())
        assert found["epoch"] == 3


def test_tensors_come_back_from_beside_a_foreign_object(tmp_path, foreign):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    torch.save({"model": tensors(), "net": module.state_dict(), "config": foreign, "lr": 0.1}, tmp_path / "x.pth")
    del sys.modules["foreign_config"]
    found = read_checkpoint(tmp_path / "x.pth")
    assert_same(found["model"], tensors())
    assert_same(found["net"], module.state_dict())
    assert isinstance(found["net"], OrderedDict) and type(found["config"]) is Inert and found["lr"] == 0.1
    assert "foreign_config" not in sys.modules


@pytest.mark.parametrize("where", ["config", "in a list", "as a key", "alone"])
def test_nothing_in_a_checkpoint_runs(tmp_path, where):
    mark, path, weight = tmp_path / "it ran", tmp_path / "x.pth", torch.ones(2)
    evil = Evil(mark)
    torch.save({"config": {"weight": weight, "config": evil}, "in a list": {"weight": weight, "list": [1, (evil,)]},
                "as a key": {"weight": weight, evil: 1}, "alone": evil}[where], path)
    if where == "as a key":                                        # an inert object is no key
        with pytest.raises(CourseError, match="unhashable"):
            read_checkpoint(path)
    elif where == "alone":
        assert read_checkpoint(path) == {}
    else:
        assert torch.equal(read_checkpoint(path)["weight"], weight)
    assert not mark.exists()
    torch.load(path, weights_only=False)                           # negative control: it would have run
    assert mark.exists()


def test_nothing_runs_in_old_and_in_bare_pickles(tmp_path):
    mark, path = tmp_path / "it ran", tmp_path / "x.pth"
    torch.save({"weight": torch.ones(2), "config": Evil(mark)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CourseError, match="cannot be read as a file of weights"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil(mark), protocol=2))
    with pytest.raises(CourseError, match="cannot be read as a file of weights"):
        read_checkpoint(path)
    np.savez(tmp_path / "x.npz", weight=np.array([Evil(mark)], dtype=object))
    with pytest.raises(CourseError, match=r"x\.npz cannot be read"):
        read_checkpoint(tmp_path / "x.npz")
    assert not mark.exists()


def test_functions_of_torch_do_not_run_either(tmp_path):
    """A global that exists and is not needed for tensors: the inert object takes its place, whatever its arguments."""
    class Hub:
        def __reduce__(self):
            return torch.hub.set_dir, (str(tmp_path / "elsewhere"),)

    before = torch.hub.get_dir()
    torch.save({"weight": torch.ones(1), "x": Hub()}, tmp_path / "x.pth")
    assert type(read_checkpoint(tmp_path / "x.pth")["x"]) is Inert and torch.hub.get_dir() == before


def test_damage_is_named(tmp_path, foreign):
    path = tmp_path / "x.pth"
    torch.save({"model": {"weight": torch.arange(4000.0)}, "config": foreign}, path)
    del sys.modules["foreign_config"]
    data = path.read_bytes()
    place = data.index(torch.arange(4000.0).numpy().tobytes())
    for damaged, what in [(data[:-100], "it is cut short"), (b"", ".+"), (b"<html>not here</html>", ".+"),
                          (data[:place] + b"\xff" + data[place + 1:], ".*checksum.*")]:
        path.write_bytes(damaged)
        with pytest.raises(CourseError, match=rf"x\.pth cannot be read as a file of weights \({what}\): delete it") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)
    torch.save([torch.ones(1)], path)
    with pytest.raises(CourseError, match="holds a list, expected a dict"):
        read_checkpoint(path)


def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, foreign):
    path, other = tmp_path / "x.pth", tmp_path / "y.pth"
    torch.save({"weight": torch.ones(1000), "config": foreign}, path)
    del sys.modules["foreign_config"]
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            # BININT2 1000, the size of the tensor after BININT1 0, its offset
            new.writestr(name, data.replace(b"K\x00M\xe8\x03", b"K\x00M\xe9\x03") if name.endswith("data.pkl") else data)
        assert b"K\x00M\xe8\x03" in old.read(next(name for name in old.namelist() if name.endswith("data.pkl")))
    with pytest.raises(CourseError, match=r"out of bounds|not resizable"):
        read_checkpoint(other)


def test_arrays_come_back(tmp_path):
    np.savez(tmp_path / "x.npz", **{"a/kernel": np.arange(6.0).reshape(2, 3), "bias": np.ones(2, np.float32)})
    assert_same(read_checkpoint(tmp_path / "x.npz"), {"a/kernel": torch.arange(6.0).double().view(2, 3), "bias": torch.ones(2)})


@pytest.mark.parametrize(("name", "data", "what"), [
    ("x.pth", b"\n<!DOCTYPE html>\n<title>Sign in</title>", "it is a web page"),
    ("x.npz", b"\xef\xbb\xbf<html>", "it is a web page"),
    ("x.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0123", "it is text"),
    ("x.pth", "Zugriff verweigert: später\n".encode(), "it is text"),
    ("x.pth", b"\x80\x02garbage", "it is no file of PyTorch, or holds more than tensors"),
    ("x.npz", b"\x80\x02garbage", "it is cut short, or no npz file")])
def test_what_was_saved_in_the_place_of_weights_is_named_in_our_words(tmp_path, name, data, what):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CourseError) as error:
        read_checkpoint(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name} cannot be read as a file of weights ({what}): delete it and fetch it again"


def test_a_zip_file_of_something_else_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CourseError, match=r"\(it is a zip file without weights\)"):
        read_checkpoint(tmp_path / "x.pth")
