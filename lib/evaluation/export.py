"""A network of the course for everybody's tools: `python -m lib.evaluation.export runs/mocov3 mocov3-timm`.

The folder holds what timm and the Hugging Face hub expect, weights and a config.json, so that nobody needs this course to use
them: `timm.create_model("local-dir:mocov3-timm", pretrained=True)` gives the vector that the course evaluates.
"""
import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from lib import cli
from lib.errors import CourseError
from lib.evaluation.features import pooled
from lib.evaluation.load import Subject, open_subject
from lib.training.checkpoint import write_atomically

ARCHITECTURE = "vit_base_patch16_224"                              # of timm; the arguments below change all that is its own
FILES = ("model.safetensors", "config.json")


def arguments(subject: Subject) -> dict:
    """What timm makes the same network with."""
    vit = subject.backbone
    block, mean = vit.blocks[0], subject.pooling == "mean"
    return {"img_size": subject.size, "patch_size": vit.patch_embed.patch_size[0], "embed_dim": vit.embed_dim,
            "depth": len(vit.blocks), "num_heads": block.attn.num_heads, "global_pool": "avg" if mean else "token",
            "fc_norm": False, **({} if isinstance(block.ls1, nn.Identity) else {"init_values": 1.0})}


def twin(subject: Subject) -> nn.Module:
    """The same network as timm knows it, in eval mode. Raises CourseError if timm has none that gives the same vectors."""
    if getattr(subject.backbone, "positions", "") == "relative":
        raise CourseError("this network has a relative position bias for all blocks, which no Vision Transformer of timm has")
    network = timm.create_model(ARCHITECTURE, num_classes=0, **arguments(subject)).eval()
    theirs = subject.backbone.state_dict()
    network.load_state_dict({key: theirs[key] for key in network.state_dict()})
    images = torch.randn(2, 3, subject.size, subject.size)
    with torch.no_grad():
        expected, found = pooled(subject.backbone, images, pooling=subject.pooling)[None], network(images)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4):
        raise CourseError(f"timm {timm.__version__} computes other vectors with these weights; please report it")
    return network


def config(subject: Subject) -> dict:
    """The content of config.json, as timm reads it: images are normalised with ImageNet's mean and standard deviation."""
    own = arguments(subject)
    return {"architecture": ARCHITECTURE, "num_classes": 0, "num_features": own["embed_dim"], "global_pool": own["global_pool"],
            "model_args": own,
            "pretrained_cfg": {"input_size": [3, subject.size, subject.size], "fixed_input_size": True, "num_classes": 0,
                               "mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD), "crop_pct": 1.0,
                               "interpolation": "bicubic", "first_conv": "patch_embed.proj", "classifier": "head"},
            "trained": subject.recipe}


def export(name: str, folder: str | Path) -> Path:
    """Write a network, named as for evaluation, into a folder; -> the folder. Raises CourseError for a network of timm, for one
    that timm cannot make, and for a folder that holds other things."""
    folder = Path(folder).expanduser()
    if name.startswith("timm:"):
        raise CourseError(f"{name} is timm's already")
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - set(FILES)):
        raise CourseError(f"{folder} is there already and holds other things; name a new folder")
    subject = open_subject(name)
    weights = {key: x.contiguous() for key, x in twin(subject).state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(f"cannot write to {folder}: {error.strerror}; name another folder") from None
    write_atomically(folder / FILES[0], lambda temporary: save_file(weights, temporary, {"format": "pt"}))
    write_atomically(folder / FILES[1], lambda temporary: temporary.write_text(json.dumps(config(subject), indent=1) + "\n"))
    return folder


def main() -> None:
    parser = cli.Parser(prog="python -m lib.evaluation.export", description="Write a network for timm and Hugging Face.")
    parser.add_argument("network", help="a run's folder, a shipped one (shapes/mocov3) or official:NAME")
    parser.add_argument("folder", help="where to: a new one, or that of an export before")
    a = parser.parse_args()
    folder = export(a.network, a.folder)
    print(f"written; timm.create_model('local-dir:{folder}', pretrained=True) loads it")


if __name__ == "__main__":
    cli.main(main)
