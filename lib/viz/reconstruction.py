"""Draw a mask on an image, and a network of masked image modelling fills it in: SimMIM or MAE, from the kernel.

`Reconstruction(images, "mae")` takes a checkpoint that ships, `Reconstruction(images, trainer.objective)` one of your own.
"""
import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from lib.data.views import denormalize, normalize
from lib.errors import CourseError
from lib.models import zoo
from lib.objectives.masked import MAE, SimMIM, cell_mask, patch_statistics, patchify, unpatchify
from lib.precision import widen
from lib.training.build import build, from_description
from lib.viz.checks import check_images
from lib.viz.gallery import read_pictures
from lib.viz.plots import png_of
from lib.viz.still import few_colors
from lib.viz.widget import BadValue, Widget, check_number

HERE = Path(__file__).parent
GREY = 128                            # what a masked patch looks like, of 255


def load_masked(name: str, world: str = "shapes") -> SimMIM | MAE:
    """A checkpoint that ships with its pixel decoder, in eval mode. Raises CourseError for one that has none, and names those
    that have."""
    if name not in zoo.names(world):
        raise CourseError(f"no checkpoint {name!r} ships for world {world!r}; " + _advice(world))
    if name not in _with_decoder(world):
        raise CourseError(f"the checkpoint {name!r} has no pixel decoder, so it cannot fill in pixels; " + _advice(world))
    tensors = zoo.weights(name, world)
    with torch.random.fork_rng(devices=[]):                                      # `build` sets the seed
        objective = build(from_description(zoo.manifest()[f"{world}/{name}"]["recipe"]))
    own = {key.removeprefix("decoder."): x for key, x in tensors.items() if key.startswith("decoder.")}
    objective.backbone.load_state_dict({key: x for key, x in tensors.items() if not key.startswith("decoder.")})
    objective.decoder.load_state_dict(own)
    return objective.eval()


def _with_decoder(world: str) -> list[str]:
    return [name for name in zoo.names(world) if zoo.manifest()[f"{world}/{name}"]["recipe"]["objective"] in ("mae", "simmim")]


def _advice(world: str) -> str:
    return f"take {' or '.join(_with_decoder(world))}, or an objective SimMIM or MAE that you trained"


@torch.no_grad()
def fill_in(objective: SimMIM | MAE, view: Tensor, mask: Tensor) -> Tensor:
    """One normalised image (1, 3, S, S), a mask (1, N) with any number of patches -> the image with those filled in.

    The same as the objective's `reconstruct`, which takes as many masked patches as it was trained with. MAE with normalised
    targets is given the true mean and standard deviation of each masked patch here as there.
    """
    if isinstance(objective, SimMIM):
        return objective.reconstruct({"view": view, "mask": mask})
    pixels, visible = patchify(view, objective.patch_size), (~mask[0]).nonzero().T                # (1, N, 3 p^2), (1, V)
    predicted = widen(objective.decoder(objective.backbone.forward_features(view, visible=visible), visible))
    if objective.normalize_target:
        mean, std = patch_statistics(pixels)
        predicted = predicted * std + mean
    return unpatchify(torch.where(mask[..., None], predicted, pixels), objective.patch_size)


class Reconstruction(Widget):
    """The image, the image under a mask that the pointer draws, and what the network fills in, side by side.

    images: uint8 (B, 3, S, S) or (3, S, S), a path, a PIL image, or a list of these. model: "mae" or "simmim", of `world`, or
    an objective SimMIM or MAE. `mask`, bool (rows, columns), True is masked, is seen and set from Python, as are `image`
    (from 0) and, for links and observers, `masked`, the numbers of the masked patches. `error` is the mean distance of masked
    pixels to the true ones, in levels of 255, `guess` that of a guess without a network; both nan where nothing is masked.
    Raises CourseError for a model without a pixel decoder, and for images or a mask that do not fit.
    """
    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("dom.js", "reconstruction.js"))
    _css = (HERE / "reconstruction.css").read_text(encoding="utf-8")

    meta = traitlets.Dict().tag(sync=True)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)    # PNG files
    image = traitlets.Int(0).tag(sync=True)
    masked = traitlets.List(traitlets.Int()).tag(sync=True)
    filled = traitlets.Bytes().tag(sync=True)                      # a PNG file, the answer to what `report` names
    report = traitlets.Dict().tag(sync=True)                       # {"text", "masked", "image"}

    def __init__(self, images, model: SimMIM | MAE | str, mask=None, world: str = "shapes", **shown):
        self.objective = load_masked(model, world) if isinstance(model, str) else model
        if not isinstance(self.objective, SimMIM | MAE):
            raise CourseError(f"a {type(model).__name__} has no pixel decoder, so it cannot fill in pixels; " + _advice(world))
        size, self._draws = self.objective.backbone.patch_embed.img_size, 0
        if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
            images, names = check_images(images), [f"image {n}" for n in range(len(images))]
        else:
            images, names = read_pictures(images, size[0])
        if tuple(images.shape[2:]) != tuple(size):
            raise CourseError(f"images are {images.shape[2]} x {images.shape[3]} pixels, the model takes {size[0]} x "
                              f"{size[1]}")
        self.images, self.side = images, self.objective.side
        self.error = self.guess = float("nan")
        first = self._random() if mask is None else self._numbers(mask)
        name = type(self.objective).__name__
        super().__init__(meta={"model": name, "side": self.side, "names": names}, pictures=[_png(image) for image in images],
                         masked=first, **shown)
        self.observe(self._fill, ["masked", "image"])
        self.on_msg(self._received)
        self._fill()

    # ---- the mask
    @property
    def mask(self) -> Tensor:
        """bool (rows, columns), True is masked."""
        mask = torch.zeros(self.side**2, dtype=torch.bool)
        mask[self.masked] = True
        return mask.view(self.side, self.side)

    @mask.setter
    def mask(self, mask) -> None:
        self.masked = self._numbers(mask)

    def _numbers(self, mask) -> list[int]:
        try:
            mask = torch.as_tensor(mask)
        except (TypeError, ValueError, RuntimeError):
            raise CourseError(f"the mask is a {type(mask).__name__}; expected bool ({self.side}, {self.side})") from None
        if mask.dtype != torch.bool or tuple(mask.shape) not in ((self.side, self.side), (self.side**2,)):
            raise CourseError(f"the mask is {mask.dtype} {tuple(mask.shape)}; expected bool ({self.side}, {self.side}), True "
                              "is masked")
        return mask.flatten().nonzero().flatten().tolist()

    def _random(self) -> list[int]:
        """A mask as in training, another one each time."""
        cell = getattr(self.objective, "mask_cell", 1)
        mask = cell_mask(torch.tensor([self._draws]), self.side, cell, self.objective.mask_ratio)
        self._draws += 1
        return self._numbers(mask[0])

    @traitlets.validate("masked")
    def _patches(self, proposal):
        wrong = [n for n in proposal["value"] if isinstance(n, bool) or not 0 <= n < self.side**2]
        if wrong:
            raise BadValue(f"there is no patch {wrong[0]} to mask; give numbers from 0 to {self.side**2 - 1}")
        return sorted(set(proposal["value"]))

    @traitlets.validate("image")
    def _image(self, proposal):
        check_number("image", proposal["value"], 0, len(self.images) - 1, "an image")
        return proposal["value"]

    def _received(self, _, content: dict, buffers: list) -> None:
        """The button asks for another random mask."""
        if content.get("random"):
            self.masked = self._random()

    # ---- the network
    def _fill(self, _=None) -> None:
        """Let the network fill in, and say how well; or that it could not, so that nobody waits for it."""
        mask = self.mask.flatten()[None]                                         # (1, N)
        try:
            self._answer = self._pixels(mask)
            self.error, self.guess, text = self._compare(mask)
        except BaseException as error:                                           # Ctrl-C as well
            self._answer, self.error, self.guess = self._hidden(), float("nan"), float("nan")
            text = f"The network did not fill this in: {' '.join(str(error).split()) or type(error).__name__}"
            raise
        finally:
            with self.hold_sync():
                self.filled = _png(self._answer)
                self.report = {"text": text, "masked": self.masked, "image": self.image}

    def _pixels(self, mask: Tensor) -> Tensor:
        """The network's answer to a mask (1, N): uint8 (3, S, S). Raises CourseError if it is not finite."""
        network, weight = self.objective, next(self.objective.parameters())
        view, training = normalize(self.images[self.image, None]).to(weight.device, weight.dtype), network.training
        network.eval()
        try:
            pixels = fill_in(network, view, mask.to(weight.device)) if self.masked else view
        finally:
            network.train(training)
        if not bool(pixels.isfinite().all()):
            raise CourseError("its answer holds NaN or infinity; its weights are damaged")
        return (255 * denormalize(pixels.float().cpu()).clamp(0, 1)).round().byte()[0]

    def _hidden(self) -> Tensor:
        """The image under its mask: uint8 (3, S, S)."""
        patches = patchify(self.images[self.image, None].float(), self.objective.patch_size)
        return unpatchify(patches.masked_fill(self.mask.flatten()[None, :, None], GREY), self.objective.patch_size)[0].byte()

    def _compare(self, mask: Tensor) -> tuple[float, float, str]:
        """Mean distance of masked pixels to the true ones: the network's, that of a guess without one, both as a sentence."""
        if not self.masked:
            return float("nan"), float("nan"), "Nothing is masked: draw on the picture in the middle."
        true, said = (patchify(image[None].float(), self.objective.patch_size) for image in
                      (self.images[self.image], self._answer))                   # (1, N, 3 p^2)
        if getattr(self.objective, "normalize_target", False):
            guess, what = patch_statistics(true)[0], "each patch in its true mean"
            given = " (MAE says patterns only: it is given the true mean and contrast of each masked patch.)"
        else:
            visible = torch.full((1, 3), float(GREY)) if bool(mask.all()) else true[~mask].view(-1, 3)
            guess, what, given = visible.mean(0).repeat(true.shape[2] // 3), "the visible patches' mean colour", ""
        error, other = (float((values.expand_as(true) - true).abs()[mask].mean()) for values in (said, guess))
        return error, other, (f"{len(self.masked)} of {self.side**2} patches masked. Masked pixels are wrong by {error:.0f} of "
                              f"255 on average; {what} would be by {other:.0f}.{given}")

    # ---- without a kernel
    def __repr__(self) -> str:
        return f"Reconstruction(images: {len(self.images)}, patches: {self.side} x {self.side}, by {self.meta['model']})"

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = base64.b64encode(self.still()).decode()
        alt = f"{self.meta['names'][self.image]}, masked, and filled in by {self.meta['model']}. {self.report['text']}"
        return data | {"text/plain": repr(self), "image/png": picture}, metadata | {"image/png": {"alt": alt}}

    def still(self) -> bytes:
        """The three pictures side by side, as a PNG file."""
        figure, panels = plt.subplots(1, 3, figsize=(6, 2.3), dpi=100, layout="constrained")
        titles = ("image", "masked", f"filled in by {self.meta['model']}")
        for axes, picture, title in zip(panels, (self.images[self.image], self._hidden(), self._answer), titles):
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
        return few_colors(png_of(figure))


def _png(image: Tensor) -> bytes:
    """uint8 (3, H, W) as a file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
    return file.getvalue()
