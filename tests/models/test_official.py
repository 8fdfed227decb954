"""Official checkpoints: files that are fetched, put there by hand, recorded, compared, and read into networks."""
import json
import os
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_download import site  # noqa: F401 (a fixture)
from test_layouts import DRAW, Draw, draw_augreg, draw_vit, normalized, pictures, run_vit, tiny  # noqa: F401

from lib.errors import CourseError
from lib.evaluation.load import open_subject
from lib.models import __main__ as program
from lib.models import layouts, official, zoo
from lib.models.decoder import MAEDecoder
from lib.models.heads import PixelDecoder

TABLE = {name: checkpoint.size for name, checkpoint in official.CHECKPOINTS.items()}               # before tests shrink it


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network: every address leads to a port that nobody listens to."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for name, checkpoint in official.CHECKPOINTS.items():
            address = f"http://127.0.0.1:{taken.getsockname()[1]}/{checkpoint.name}"
            nowhere = replace(checkpoint, address=address, file=checkpoint.name, sha256="")
            monkeypatch.setitem(official.CHECKPOINTS, name, nowhere)
        yield tmp_path / "official"


def put(name: str, **more) -> dict:
    """Write the file of a checkpoint by hand, in its official layout -> the tensors drawn."""
    checkpoint, path = official.CHECKPOINTS[name], official.path_of(name)
    w = {key: x.float() if x.is_floating_point() else x for key, x in DRAW[checkpoint.layout](Draw()).items()}
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **{key: x.numpy() for key, x in w.items()})
    else:
        torch.save({checkpoint.entry: w} | more if checkpoint.entry else w, path)
    return w


# ------------------------------------------------------------------------------------------------------------- networks

def test_table_at_the_size_of_the_papers():
    assert TABLE["mocov3-vits16"] == layouts.Size(384, 12, 12) and TABLE["dino-vits16"] == layouts.Size(384, 12, 6)
    assert TABLE["deit-vitt16"] == layouts.Size(192, 12, 3)
    assert all(size == layouts.Size(768, 12, 12) for name, size in TABLE.items() if "vitb16" in name)
    assert {checkpoint.layout for checkpoint in official.CHECKPOINTS.values()} == set(layouts.LAYOUTS)
    assert len({checkpoint.name for checkpoint in official.CHECKPOINTS.values()}) == len(TABLE)


@pytest.mark.parametrize(("name", "keys", "elements"), [
    ("mocov3-vits16", 342, 84.3e6), ("mocov3-vitb16", 342, 215.7e6), ("simmim-vitb16", 190, None),
    ("mae-vitb16-full", 254, 111.9e6), ("mae-vitb16", 150, 85_798_656), ("dino-vits16", 150, 21_665_664)])
def test_layouts_have_as_many_tensors_as_the_official_networks(name, keys, elements, monkeypatch):
    monkeypatch.setattr(layouts, "MAE_DECODER", layouts.Size(512, 8, 16))
    taken = []

    class Everything(layouts.Tensors):
        def take(self, name, shape):
            taken.append((name, shape))
            return torch.empty(shape, device="meta") if "index" not in name else layouts.relative_index((14, 14))

    layouts.LAYOUTS[official.CHECKPOINTS[name].layout](Everything({}, ""), TABLE[name])
    assert len({key for key, _ in taken}) == len(taken) == keys
    if elements:
        assert sum(np.prod(shape, dtype=int) for _, shape in taken) == pytest.approx(elements, rel=1e-3)


@pytest.mark.parametrize("name", TABLE)
def test_a_file_becomes_a_network(name, cache):
    put(name, epoch=300)
    vit = official.load(name)
    assert not vit.training and vit(torch.zeros(1, 3, 12, 12)).isfinite().all()
    positions = official.CHECKPOINTS[name].positions
    assert vit.positions == ("relative" if positions == "relative" else "sincos")
    assert (getattr(vit, "pos_embed", None) is not None and vit.pos_embed.requires_grad) == (positions == "learned")
    record = json.loads((cache / f"{official.CHECKPOINTS[name].name}.json").read_text())
    assert record["bytes"] == official.path_of(name).stat().st_size and len(record["sha256"]) == 64
    assert {p.name for p in cache.iterdir()} == {official.path_of(name).name, f"{official.path_of(name).name}.json"}


def test_zoo_and_commands_reach_them(cache):
    w = put("mocov3-vitb16", epoch=300, arch="vit_base", optimizer={"state": {0: torch.ones(3)}})
    x = normalized(pictures())
    expected = run_vit({key: t.double() for key, t in w.items()}, x, "module.base_encoder.")[:, 0]
    torch.testing.assert_close(zoo.load("mocov3-vitb16")(x.float()), expected.float(), rtol=0, atol=1e-5)
    subject = open_subject("official:mocov3-vitb16")
    torch.testing.assert_close(subject.backbone(x.float()), expected.float(), rtol=0, atol=1e-5)
    assert (subject.size, subject.pooling, subject.data) == (12, "cls", None)
    assert subject.recipe["official"] == "mocov3-vitb16" and len(subject.recipe["sha256"]) == 64
    assert (subject.untrained(x.float()) - subject.backbone(x.float())).abs().max() > 0.1
    assert subject.untrained.state_dict().keys() == subject.backbone.state_dict().keys()
    put("simmim-vitb16")
    assert open_subject("official:simmim-vitb16").pooling == "mean"


def test_decoders():
    put("simmim-vitb16")
    put("mae-vitb16-full")
    assert isinstance(official.load_decoder("simmim-vitb16"), PixelDecoder)
    decoder = official.load_decoder("mae-vitb16-full")
    assert isinstance(decoder, MAEDecoder) and not decoder.training
    visible = torch.tensor([[8, 1, 3]])
    tokens = official.load("mae-vitb16-full").forward_features(torch.zeros(1, 3, 12, 12), visible=visible)
    assert decoder(tokens, visible).shape == (1, 9, 48)
    with pytest.raises(CourseError, match="no decoder was published with mae-vitb16; there are those of simmim-vitb16"):
        official.load_decoder("mae-vitb16")


def test_untrained_networks_repeat():
    state = torch.random.get_rng_state()
    one, again, other = (official.untrained("dino-vits16", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.pos_embed, again.pos_embed) and not torch.equal(one.pos_embed, other.pos_embed)
    assert 0.01 < one.pos_embed.std() < 0.03 and not official.untrained("mae-vitb16").pos_embed[0, 0].any()


# ---------------------------------------------------------------------------------------------------------------- files

def test_without_a_network_one_line_says_what_to_do(cache):
    for name in TABLE:
        with pytest.raises(CourseError, match="could not reach http") as error:
            official.load(name)
        checkpoint, message = official.CHECKPOINTS[name], str(error.value)
        assert f"download {checkpoint.page or 'it'} by hand and put it at {cache / checkpoint.name}" in message
        assert checkpoint.address in message and "\n" not in message


def test_fetched_from_a_server(site, cache, monkeypatch):  # noqa: F811
    put("dino-vits16")
    site.data, site.cuts = official.path_of("dino-vits16").read_bytes(), [1000]
    official.path_of("dino-vits16").unlink()
    checkpoint = replace(official.CHECKPOINTS["dino-vits16"], address=f"{site.root}/file")
    monkeypatch.setitem(official.CHECKPOINTS, "dino-vits16", checkpoint)
    vit = official.load("dino-vits16")
    torch.testing.assert_close(vit.cls_token, draw_vit(Draw())["cls_token"].float())
    assert [asked for _, asked, _ in site.asked] == [None, "bytes=1000-"]
    official.path_of("dino-vits16").unlink()                       # what was recorded is what must come again
    site.data = site.data[:-1] + b"?"
    with pytest.raises(CourseError, match=r"gave has the SHA-256 .* and not kept"):
        official.load("dino-vits16")
    site.data += b"?"
    with pytest.raises(CourseError, match="it was replaced, and is not kept"):
        official.load("dino-vits16")
    assert not official.path_of("dino-vits16").exists()


def test_a_file_that_changed_is_named(cache):
    put("deit-vits16")
    official.load("deit-vits16")
    path = official.path_of("deit-vits16")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CourseError, match=r"recorded at first use were .*: delete it and fetch it again, or"):
        official.load("deit-vits16")
    (cache / f"{path.name}.json").write_text("{")
    with pytest.raises(CourseError, match=r"\.json is damaged: delete it"):
        official.load("deit-vits16")


def test_a_published_hash_counts(cache, monkeypatch):
    put("deit-vits16")
    digest = official.check("deit-vits16")["sha256"]
    for sha256, right in ((digest[:8], True), ("cd65a155", False)):
        monkeypatch.setitem(official.CHECKPOINTS, "deit-vits16", replace(official.CHECKPOINTS["deit-vits16"], sha256=sha256))
        if right:
            official.load("deit-vits16")
        else:
            with pytest.raises(CourseError, match=r"published is cd65a155\.\.\.: delete it"):
                official.load("deit-vits16")


def test_nothing_is_recorded_of_a_file_that_does_not_fit(cache):
    path = official.path_of("mae-vitb16")
    path.parent.mkdir()
    for held, what in [({"model": {"x": torch.ones(1)}}, "has no cls_token"), ({"state_dict": {}}, "has no dict 'model'")]:
        torch.save(held, path)
        with pytest.raises(CourseError, match=rf"mae_pretrain_vit_base\.pth.*{what}"):
            official.load("mae-vitb16")
    assert list(cache.iterdir()) == [path]


def test_a_folder_that_may_only_be_read(cache, monkeypatch):
    put("augreg-vitb16")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    torch.testing.assert_close(official.load("augreg-vitb16").cls_token, draw_augreg(Draw())["cls"].float())


def test_unknown_names_are_named():
    for act in (official.load, official.load_decoder, official.untrained, official.path_of,
                lambda name: open_subject(f"official:{name}")):
        with pytest.raises(CourseError, match="there is no official checkpoint 'moco'; choose one of mocov3-vits16, "):
            act("moco")


def test_the_command_line(cache, capsys):
    put("dino-vits16")
    program.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(TABLE) and "not here: http" in lines[0]
    assert [line for line in lines if line.startswith("dino-vits16 ") and f"MB in {cache}" in line]
    program.main(["fetch", "dino-vits16"])
    assert "bytes, SHA-256 " in capsys.readouterr().out
    for arguments, said in ((["fetch", "dino-vits16", "x"], "there is no official checkpoint 'x'"),
                            (["fetch", "mae-vitb16"], "could not reach")):
        with pytest.raises(SystemExit) as stop:
            program.main(arguments)
        shown = capsys.readouterr()
        assert stop.value.code == 2 and said in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_a_file_that_is_not_finite_is_refused_before_it_is_recorded(cache):
    w = put("mocov3-vitb16")
    w["module.base_encoder.blocks.1.attn.qkv.weight"][0, 0] = float("nan")
    path = official.path_of("mocov3-vitb16")
    torch.save({"state_dict": w}, path)
    with pytest.raises(CourseError, match=r"blocks\.1\.attn\.qkv\.weight .*holds numbers that are not finite"):
        official.load("mocov3-vitb16")
    assert [p.name for p in cache.iterdir() if p.name.endswith(".json")] == []
