"""Official layouts: weights drawn in each, run through a plain forward pass of the official network written here, against
ours. Both in float64. The forward passes follow the published code's order of operations and use none of the library's.
"""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from lib.errors import CourseError
from lib.models import layouts, official
from lib.models.decoder import MAEDecoder
from lib.models.heads import PixelDecoder
from lib.models.layouts import LAYOUTS, Size, convert
from lib.objectives.masked import unpatchify

DIM, DEPTH, HEADS, P, IMAGE = 24, 2, 3, 4, 12                      # 3 x 3 patches of 4 x 4 pixels
SIDE = IMAGE // P
TOKENS = 1 + SIDE**2
EXACT = dict(rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------ weights in official layouts

class Draw:
    """draw(2, 3) -> a float64 tensor of this shape, another at every call."""

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape):
        return 0.3 * torch.randn(shape, generator=self.generator, dtype=torch.float64)


def draw_block(draw, prefix: str, dim: int, bias: bool = True) -> dict:
    w = {f"{prefix}norm1.weight": 1 + draw(dim), f"{prefix}norm1.bias": draw(dim), f"{prefix}norm2.weight": 1 + draw(dim),
         f"{prefix}norm2.bias": draw(dim), f"{prefix}attn.qkv.weight": draw(3 * dim, dim),
         f"{prefix}attn.proj.weight": draw(dim, dim), f"{prefix}attn.proj.bias": draw(dim),
         f"{prefix}mlp.fc1.weight": draw(4 * dim, dim), f"{prefix}mlp.fc1.bias": draw(4 * dim),
         f"{prefix}mlp.fc2.weight": draw(dim, 4 * dim), f"{prefix}mlp.fc2.bias": draw(dim)}
    return w | ({f"{prefix}attn.qkv.bias": draw(3 * dim)} if bias else {})


def draw_vit(draw, prefix: str = "", dim=DIM, depth=DEPTH) -> dict:
    """What timm, MoCo v3, MAE, DINO and DeiT share."""
    w = {f"{prefix}cls_token": draw(1, 1, dim), f"{prefix}pos_embed": draw(1, TOKENS, dim),
         f"{prefix}patch_embed.proj.weight": draw(dim, 3, P, P), f"{prefix}patch_embed.proj.bias": draw(dim),
         f"{prefix}norm.weight": 1 + draw(dim), f"{prefix}norm.bias": draw(dim)}
    for k in range(depth):
        w |= draw_block(draw, f"{prefix}blocks.{k}.", dim)
    return w


def moco_positions(dim: int) -> torch.Tensor:
    """MoCo v3's table: sines and cosines of one coordinate, then of the other; the first runs down the rows of the image."""
    table = torch.zeros(1, TOKENS, dim, dtype=torch.float64)
    for n in range(SIDE**2):
        row, column = divmod(n, SIDE)
        for k in range(dim // 4):
            rate = 10_000 ** (-k / (dim // 4))
            for part, value in enumerate((math.sin(row * rate), math.cos(row * rate), math.sin(column * rate),
                                          math.cos(column * rate))):
                table[0, 1 + n, part * (dim // 4) + k] = value
    return table


def nothing(*shape):
    """A tensor of any size without memory, for what is not used."""
    return torch.zeros(()).expand(shape)


def draw_mocov3(draw) -> dict:
    w = {}
    for encoder in ("base_encoder", "momentum_encoder"):
        w |= draw_vit(draw, f"module.{encoder}.") | {f"module.{encoder}.pos_embed": moco_positions(DIM)}
        w |= {f"module.{encoder}.head.0.weight": nothing(4096, DIM), f"module.{encoder}.head.3.weight": nothing(4096, 4096),
              f"module.{encoder}.head.6.weight": nothing(256, 4096)}
        for norm, width, names in ((1, 4096, "affine"), (4, 4096, "affine"), (7, 256, "")):
            w |= norm_entries(f"module.{encoder}.head.{norm}.", width, names)
    w |= {"module.predictor.0.weight": nothing(4096, 256), "module.predictor.3.weight": nothing(256, 4096)}
    return w | norm_entries("module.predictor.1.", 4096, "affine") | norm_entries("module.predictor.4.", 256, "")


def norm_entries(prefix: str, width: int, affine: str) -> dict:
    counts = {f"{prefix}running_mean": nothing(width), f"{prefix}running_var": nothing(width),
              f"{prefix}num_batches_tracked": torch.tensor(3)}
    return counts | ({f"{prefix}weight": nothing(width), f"{prefix}bias": nothing(width)} if affine else {})


def beit_index() -> torch.Tensor:
    """Rows of the bias table, from places: displacement of query and key, then CLS to patch, patch to CLS, CLS to CLS."""
    index, count = torch.empty(TOKENS, TOKENS, dtype=torch.int64), (2 * SIDE - 1)**2
    for q in range(TOKENS):
        for k in range(TOKENS):
            (qr, qc), (kr, kc) = divmod(q - 1, SIDE), divmod(k - 1, SIDE)
            index[q, k] = (count + 2 if q == k == 0 else count if q == 0 else count + 1 if k == 0 else
                           (qr - kr + SIDE - 1) * (2 * SIDE - 1) + qc - kc + SIDE - 1)
    return index


def draw_beit(draw, prefix: str = "") -> dict:
    w = {f"{prefix}cls_token": draw(1, 1, DIM), f"{prefix}mask_token": draw(1, 1, DIM),
         f"{prefix}patch_embed.proj.weight": draw(DIM, 3, P, P), f"{prefix}patch_embed.proj.bias": draw(DIM),
         f"{prefix}rel_pos_bias.relative_position_bias_table": 5 * draw((2 * SIDE - 1)**2 + 3, HEADS),
         f"{prefix}rel_pos_bias.relative_position_index": beit_index(),
         f"{prefix}norm.weight": 1 + draw(DIM), f"{prefix}norm.bias": draw(DIM)}
    for k in range(DEPTH):
        block = f"{prefix}blocks.{k}."
        w |= draw_block(draw, block, DIM, bias=False)
        w |= {f"{block}{name}": draw(DIM) for name in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")}
    return w


def draw_augreg(draw, classes: int = 21_843) -> dict:
    w = {"cls": draw(1, 1, DIM), "Transformer/posembed_input/pos_embedding": draw(1, TOKENS, DIM),
         "embedding/kernel": draw(P, P, 3, DIM), "embedding/bias": draw(DIM), "Transformer/encoder_norm/scale": 1 + draw(DIM),
         "Transformer/encoder_norm/bias": draw(DIM), "head/kernel": nothing(DIM, classes), "head/bias": nothing(classes)}
    for k in range(DEPTH):
        block = f"Transformer/encoderblock_{k}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            w |= {f"{block}{norm}/scale": 1 + draw(DIM), f"{block}{norm}/bias": draw(DIM)}
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            w[f"{attention}{part}/kernel"] = draw(DIM, HEADS, DIM // HEADS)
            w[f"{attention}{part}/bias"] = draw(HEADS, DIM // HEADS)
        w |= {f"{attention}out/kernel": draw(HEADS, DIM // HEADS, DIM), f"{attention}out/bias": draw(DIM)}
        w |= {f"{block}MlpBlock_3/Dense_0/kernel": draw(DIM, 4 * DIM), f"{block}MlpBlock_3/Dense_0/bias": draw(4 * DIM),
              f"{block}MlpBlock_3/Dense_1/kernel": draw(4 * DIM, DIM), f"{block}MlpBlock_3/Dense_1/bias": draw(DIM)}
    return w


def draw_mae(draw) -> dict:
    """Both position tables are fixed in the official code; drawn here, so that a table that is not read shows."""
    w = draw_vit(draw) | {"mask_token": draw(1, 1, 16), "decoder_pos_embed": draw(1, TOKENS, 16)}
    w |= {"decoder_embed.weight": draw(16, DIM), "decoder_embed.bias": draw(16), "decoder_norm.weight": 1 + draw(16),
          "decoder_norm.bias": draw(16), "decoder_pred.weight": draw(3 * P * P, 16), "decoder_pred.bias": draw(3 * P * P)}
    for k in range(2):
        w |= draw_block(draw, f"decoder_blocks.{k}.", 16)
    return w


DRAW = {
    "mocov3": draw_mocov3, "mae": draw_vit, "dino": draw_vit, "mae-full": draw_mae, "beit":
    lambda draw: draw_beit(draw) | {"lm_head.weight": nothing(8192, DIM), "lm_head.bias": nothing(8192)},
    "simmim": lambda draw: draw_beit(draw, "encoder.") | {"decoder.0.weight": draw(3 * P * P, DIM, 1, 1),
                                                          "decoder.0.bias": draw(3 * P * P)},
    "deit": lambda draw: draw_vit(draw) | {"head.weight": nothing(1000, DIM), "head.bias": nothing(1000)},
    "augreg": draw_augreg, "augreg-in1k": lambda draw: draw_augreg(draw, 1000)}


# -------------------------------------------------------------------------------------------- official networks, plainly

def norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(q, k, v, bias=0.0):
    """Attention of one head: (B, N, d) each."""
    logits = torch.exp(q @ k.mT / math.sqrt(q.shape[-1]) + bias)
    return logits / logits.sum(-1, keepdim=True) @ v


def attention(x, weight, qkv_bias, heads, bias=None):
    """All heads, one after the other; q, k and v lie below each other in the weight, and heads below each other in these."""
    q, k, v = (x @ weight.mT + qkv_bias).split(x.shape[-1], dim=-1)
    d = x.shape[-1] // heads
    return torch.cat([attend(*(y[..., h * d:(h + 1) * d] for y in (q, k, v)), 0.0 if bias is None else bias[h])
                      for h in range(heads)], dim=-1)


def block(x, w, prefix, heads, bias=None):
    """A pre-norm block; layer scale, and biases of queries and values alone, where the file has them."""
    if f"{prefix}attn.q_bias" in w:
        q, v = w[f"{prefix}attn.q_bias"], w[f"{prefix}attn.v_bias"]
        qkv_bias = torch.cat([q, torch.zeros_like(q), v])
    else:
        qkv_bias = w[f"{prefix}attn.qkv.bias"]
    y = attention(norm(x, w[f"{prefix}norm1.weight"], w[f"{prefix}norm1.bias"]), w[f"{prefix}attn.qkv.weight"], qkv_bias,
                  heads, bias)
    y = y @ w[f"{prefix}attn.proj.weight"].mT + w[f"{prefix}attn.proj.bias"]
    x = x + w.get(f"{prefix}gamma_1", 1) * y
    y = norm(x, w[f"{prefix}norm2.weight"], w[f"{prefix}norm2.bias"])
    y = gelu(y @ w[f"{prefix}mlp.fc1.weight"].mT + w[f"{prefix}mlp.fc1.bias"])
    return x + w.get(f"{prefix}gamma_2", 1) * (y @ w[f"{prefix}mlp.fc2.weight"].mT + w[f"{prefix}mlp.fc2.bias"])


def patches(images):
    """(B, 3, H, W) -> (B, N, 3, p, p) by loops."""
    return torch.stack([images[:, :, r * P:(r + 1) * P, c * P:(c + 1) * P] for r in range(SIDE) for c in range(SIDE)], 1)


def project(images, weight, bias):
    return torch.einsum("bncpq,dcpq->bnd", patches(images), weight) + bias


def run_vit(w, images, prefix="", heads=HEADS):
    """timm's ViT and that of MoCo v3, DINO and DeiT -> all tokens after the last norm."""
    x = project(images, w[f"{prefix}patch_embed.proj.weight"], w[f"{prefix}patch_embed.proj.bias"])
    x = torch.cat([w[f"{prefix}cls_token"].expand(len(x), -1, -1), x], 1) + w[f"{prefix}pos_embed"]
    for k in range(DEPTH):
        x = block(x, w, f"{prefix}blocks.{k}.", heads)
    return norm(x, w[f"{prefix}norm.weight"], w[f"{prefix}norm.bias"])


def run_beit(w, images, mask, prefix=""):
    """BEiT and the encoder of SimMIM; mask (B, N) bool -> all tokens after the last norm."""
    x = project(images, w[f"{prefix}patch_embed.proj.weight"], w[f"{prefix}patch_embed.proj.bias"])
    hidden = mask[..., None].double()
    x = x * (1 - hidden) + w[f"{prefix}mask_token"] * hidden
    x = torch.cat([w[f"{prefix}cls_token"].expand(len(x), -1, -1), x], 1)
    table, index = w[f"{prefix}rel_pos_bias.relative_position_bias_table"], w[f"{prefix}rel_pos_bias.relative_position_index"]
    bias = torch.stack([torch.stack([table[index[q], h] for q in range(TOKENS)]) for h in range(HEADS)])
    for k in range(DEPTH):
        x = block(x, w, f"{prefix}blocks.{k}.", HEADS, bias)
    return norm(x, w[f"{prefix}norm.weight"], w[f"{prefix}norm.bias"])


def run_simmim(w, images, mask):
    """-> the image that SimMIM paints: a 1 x 1 convolution, then channel c p^2 + row p + column of a patch to its pixel."""
    tokens = run_beit(w, images, mask, "encoder.")[:, 1:]
    channels = tokens @ w["decoder.0.weight"][:, :, 0, 0].mT + w["decoder.0.bias"]
    painted = torch.empty(len(images), 3, IMAGE, IMAGE, dtype=torch.float64)
    for y in range(IMAGE):
        for x in range(IMAGE):
            for c in range(3):
                painted[:, c, y, x] = channels[:, y // P * SIDE + x // P, c * P * P + y % P * P + x % P]
    return painted


def run_mae(w, images, visible):
    """MAE with its decoder -> pixels of all patches (B, N, p p 3), each as row, column, channel. visible (B, V)."""
    x = project(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]) + w["pos_embed"][:, 1:]
    x = torch.stack([tokens[kept] for tokens, kept in zip(x, visible)])
    x = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1), x], 1)
    for k in range(DEPTH):
        x = block(x, w, f"blocks.{k}.", HEADS)
    x = norm(x, w["norm.weight"], w["norm.bias"]) @ w["decoder_embed.weight"].mT + w["decoder_embed.bias"]
    full = w["mask_token"].expand(len(x), TOKENS, -1).clone()
    full[:, 0] = x[:, 0]
    for b, kept in enumerate(visible):
        for place, n in enumerate(kept):
            full[b, 1 + n] = x[b, 1 + place]
    x = full + w["decoder_pos_embed"]
    for k in range(2):
        x = block(x, w, f"decoder_blocks.{k}.", 4)
    x = norm(x, w["decoder_norm.weight"], w["decoder_norm.bias"])[:, 1:]
    return x @ w["decoder_pred.weight"].mT + w["decoder_pred.bias"]


def run_augreg(w, images):
    """Flax's ViT, on images of 0.5 and 0.5; its GELU is the tanh approximation, flax.linen.gelu's default."""
    x = torch.einsum("bncpq,pqcd->bnd", patches(images), w["embedding/kernel"]) + w["embedding/bias"]
    x = torch.cat([w["cls"].expand(len(x), -1, -1), x], 1) + w["Transformer/posembed_input/pos_embedding"]
    for k in range(DEPTH):
        b = f"Transformer/encoderblock_{k}/"
        a = f"{b}MultiHeadDotProductAttention_1/"
        y = norm(x, w[f"{b}LayerNorm_0/scale"], w[f"{b}LayerNorm_0/bias"])
        q, key, v = (torch.einsum("bnd,dhe->bhne", y, w[f"{a}{part}/kernel"]) + w[f"{a}{part}/bias"][:, None]
                     for part in ("query", "key", "value"))
        x = x + torch.einsum("bhne,hed->bnd", attend(q, key, v), w[f"{a}out/kernel"]) + w[f"{a}out/bias"]
        y = norm(x, w[f"{b}LayerNorm_2/scale"], w[f"{b}LayerNorm_2/bias"])
        y = y @ w[f"{b}MlpBlock_3/Dense_0/kernel"] + w[f"{b}MlpBlock_3/Dense_0/bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ w[f"{b}MlpBlock_3/Dense_1/kernel"] + w[f"{b}MlpBlock_3/Dense_1/bias"]
    return norm(x, w["Transformer/encoder_norm/scale"], w["Transformer/encoder_norm/bias"])


# ----------------------------------------------------------------------------------------------------- ours against them

@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The official checkpoints, with their names and layouts, at the size of a test."""
    for name, checkpoint in official.CHECKPOINTS.items():
        monkeypatch.setitem(official.CHECKPOINTS, name, replace(checkpoint, size=Size(DIM, DEPTH, HEADS, P, IMAGE)))
    monkeypatch.setattr(layouts, "MAE_DECODER", Size(16, 2, 4))


def pictures(n: int = 2) -> torch.Tensor:
    """In [0, 1]."""
    return torch.rand(n, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def normalized(images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    return (images - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]


def hidden(n: int = 2) -> torch.Tensor:
    mask = torch.zeros(n, SIDE**2, dtype=torch.bool)
    mask[0, [0, 4, 5]], mask[1, [2, 7]] = True, True
    return mask


def ours(name: str, w: dict):
    layout = official.CHECKPOINTS[name].layout
    tensors = convert(layout, w, official.CHECKPOINTS[name].size, "x.pth")
    if layout.startswith(("augreg", "beit")):
        tensors = official.renormalize(tensors)
    return official.fill(official.backbone(name).double(), name, tensors), tensors


@pytest.mark.parametrize(("name", "prefix"), [("mocov3-vits16", "module.base_encoder."), ("mae-vitb16", ""),
                                              ("dino-vits16", ""), ("deit-vits16", "")])
def test_plain_layouts(name, prefix):
    w = DRAW[official.CHECKPOINTS[name].layout](Draw())
    vit, _ = ours(name, w)
    expected = run_vit(w, normalized(pictures()), prefix)
    torch.testing.assert_close(vit.forward_features(normalized(pictures())), expected, **EXACT)
    torch.testing.assert_close(vit(normalized(pictures())), expected[:, 0], **EXACT)


def test_mocov3_takes_the_base_encoder_its_positions_and_its_heads():
    w = draw_mocov3(Draw())
    vit, tensors = ours("mocov3-vits16", w)
    x = normalized(pictures())
    assert (vit.forward_features(x) - run_vit(w, x, "module.momentum_encoder.")).abs().max() > 0.1
    assert torch.equal(vit.pos_embed, moco_positions(DIM))
    assert (vit.pos_embed - official.backbone("mae-vitb16").pos_embed).abs().max() > 0.5    # which has the transpose
    wrong, right = (VisionTransformer(img_size=IMAGE, patch_size=P, embed_dim=DIM, depth=DEPTH, num_heads=heads,
                                      num_classes=0).double().eval() for heads in (6, 3))
    with pytest.raises(CourseError, match="mocov3-vits16 has 3 heads, block 1 of this network 6: make it with 3 heads"):
        official.fill(wrong, "mocov3-vits16", tensors)
    wrong.load_state_dict(tensors)                                 # negative control: no weight tells
    assert (wrong(x) - vit(x)).abs().max() > 1e-3
    torch.testing.assert_close(official.fill(right, "mocov3-vits16", tensors)(x), vit(x), **EXACT)


def test_simmim_and_its_decoder():
    w = DRAW["simmim"](Draw())
    (vit, tensors), x = ours("simmim-vitb16", w), normalized(pictures())
    torch.testing.assert_close(vit.forward_features(x, hidden()), run_beit(w, x, hidden(), "encoder."), **EXACT)
    torch.testing.assert_close(vit.forward_features(x), run_beit(w, x, torch.zeros_like(hidden()), "encoder."), **EXACT)
    decoder = PixelDecoder(DIM, P).double()
    decoder.load_state_dict({key.removeprefix("decoder."): t for key, t in tensors.items() if key.startswith("decoder.")})
    painted = unpatchify(decoder(vit.forward_features(x, hidden())[:, 1:]), P)
    torch.testing.assert_close(painted, run_simmim(w, x, hidden()), **EXACT)


def test_beit_on_images_of_the_course():
    w = DRAW["beit"](Draw())
    vit, _ = ours("beit-vitb16", w)
    expected = run_beit(w, normalized(pictures(), [0.5] * 3, [0.5] * 3), hidden())
    torch.testing.assert_close(vit.forward_features(normalized(pictures()), hidden()), expected, rtol=0, atol=1e-6)
    assert (run_beit(w, normalized(pictures()), hidden()) - expected).abs().max() > 0.01           # the images do differ


def test_mae_and_its_decoder():
    w, x = draw_mae(Draw()), normalized(pictures())
    vit, tensors = ours("mae-vitb16-full", w)
    visible = torch.tensor([[8, 1, 3], [0, 4, 7]])
    decoder = MAEDecoder((SIDE, SIDE), P, DIM, 16, 2, 4).double()
    decoder.load_state_dict({key.removeprefix("decoder."): t for key, t in tensors.items() if key.startswith("decoder.")})
    pixels = decoder(vit.forward_features(x, visible=visible), visible)
    torch.testing.assert_close(pixels, run_mae(w, x, visible), **EXACT)


@pytest.mark.parametrize("name", ["augreg-vitb16", "augreg-vitb16-in1k"])
def test_augreg_on_images_of_the_course(name):
    w = DRAW[official.CHECKPOINTS[name].layout](Draw())
    vit, _ = ours(name, w)
    expected = run_augreg(w, normalized(pictures(), [0.5] * 3, [0.5] * 3))
    torch.testing.assert_close(vit.forward_features(normalized(pictures())), expected, rtol=0, atol=1e-6)


def test_augreg_as_timm_reads_it(tmp_path):
    w = draw_augreg(Draw())
    np.savez(tmp_path / "x.npz", **{name: x.float().numpy() for name, x in w.items()})
    theirs = VisionTransformer(img_size=IMAGE, patch_size=P, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0)
    theirs.load_pretrained(str(tmp_path / "x.npz"))
    found = convert("augreg", w, Size(DIM, DEPTH, HEADS, P, IMAGE), "x.npz")
    assert found.keys() == theirs.state_dict().keys()
    assert all(torch.equal(x, found[name].float()) for name, x in theirs.state_dict().items())


# --------------------------------------------------------------------------------------- nothing missing, nothing left over

@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_accounted_for(layout):
    size = Size(DIM, DEPTH, HEADS, P, IMAGE)
    w = DRAW[layout](Draw())
    convert(layout, w, size, "x.pth")
    for name in w:
        lacking = {key: x for key, x in w.items() if key != name}
        with pytest.raises(CourseError, match=rf"^x\.pth has no {name} \(") as error:
            convert(layout, lacking, size, "x.pth")
        assert "\n" not in str(error.value)
        wrong = torch.zeros(7, 2) if "index" not in name else w[name][1:]
        with pytest.raises(CourseError, match=rf"^x\.pth: {name} is \(.*\), expected \("):
            convert(layout, w | {name: wrong}, size, "x.pth")
    for name in ("blocks.2.norm1.weight", "head.weight2", "module.head.weight", "fc_norm.bias"):
        with pytest.raises(CourseError, match=rf"^x\.pth has unexpected weights, {name}: they belong to another network"):
            convert(layout, w | {name: torch.zeros(2)}, size, "x.pth")


def test_the_wrong_file_is_named():
    size = Size(DIM, DEPTH, HEADS, P, IMAGE)
    probe = {f"module.{name}": x for name, x in draw_vit(Draw()).items()}          # a linear probe's file in MoCo v3's place
    with pytest.raises(CourseError, match=r"has no module\.base_encoder\..*it has module\.cls_token, .* and 26 more"):
        convert("mocov3", probe, size, "x.pth")
    with pytest.raises(CourseError, match=r"has unexpected weights, mask_token, decoder_pos_embed, .* and "):
        convert("mae", draw_mae(Draw()), size, "x.pth")
    with pytest.raises(CourseError, match=r"cls_token is a str, expected \(1, 1, 24\)"):
        convert("dino", draw_vit(Draw()) | {"cls_token": "x"}, size, "x.pth")
    with pytest.raises(CourseError, match=r"has no .* it has nothing"):
        convert("dino", {}, size, "x.pth")
    with pytest.raises(CourseError, match=r"bias_table is \(28, 3\), expected \(28, 6\)"):         # heads show in the table
        convert("beit", DRAW["beit"](Draw()), replace(size, heads=6), "x.pth")
    with pytest.raises(CourseError, match=r"query/kernel is \(24, 3, 8\), expected \(24, 6, 4\)"):
        convert("augreg", draw_augreg(Draw()), replace(size, heads=6), "x.pth")
    turned = DRAW["beit"](Draw())
    turned["rel_pos_bias.relative_position_index"] = turned["rel_pos_bias.relative_position_index"].mT.contiguous()
    with pytest.raises(CourseError, match="numbers displacements in another order"):
        convert("beit", turned, size, "x.pth")


def test_fill_names_what_does_not_fit():
    _, tensors = ours("dino-vits16", draw_vit(Draw()))
    vit = official.backbone("dino-vits16")
    with pytest.raises(CourseError, match=r"dino-vits16 does not fit this network: norm\.bias is missing, expected \(24,\)"):
        official.fill(vit, "dino-vits16", {key: x for key, x in tensors.items() if key != "norm.bias"})
    with pytest.raises(CourseError, match=r"more is \(1,\), expected no such weight"):
        official.fill(vit, "dino-vits16", tensors | {"more": torch.zeros(1)})
    with pytest.raises(CourseError, match=r"norm\.bias is \(2,\), expected \(24,\)"):
        official.fill(vit, "dino-vits16", tensors | {"norm.bias": torch.zeros(2)})


# -------------------------------------------------------------------------------------------- what is given in other forms

def test_moco_v3_without_the_prefix_of_data_parallel_training():
    w = draw_mocov3(Draw())
    expected = convert("mocov3", w, Size(DIM, DEPTH, HEADS, P, IMAGE), "x")
    bare = {key.removeprefix("module."): x for key, x in w.items()}
    found = convert("mocov3", bare, Size(DIM, DEPTH, HEADS, P, IMAGE), "x")
    assert found.keys() == expected.keys() and all(torch.equal(found[key], x) for key, x in expected.items())
    key = "module.base_encoder.norm.bias"
    for mixed in (bare | {key: w[key]}, {k: x for k, x in w.items() if k != key} | {key.removeprefix("module."): w[key]},
                  bare | {"epoch": 3}):
        with pytest.raises(CourseError, match=r"^x has (no module\.|unexpected weights)"):
            convert("mocov3", mixed, Size(DIM, DEPTH, HEADS, P, IMAGE), "x")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(value):
    for key in ("blocks.1.mlp.fc1.bias", "norm.weight"):
        w = draw_vit(Draw())
        w[key][-1] = value
        with pytest.raises(CourseError, match=rf"^x: {key} .*holds numbers that are not finite"):
            convert("mae", w, Size(DIM, DEPTH, HEADS, P, IMAGE), "x")
