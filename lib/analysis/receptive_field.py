"""Which pixels does a unit look at? Effective receptive fields (Luo et al. 2016; Raghu et al. 2021, Fig. 6, C.1 to C.6).

The field of a unit y at pixel (u, v) is the mean over channels c of |dy_c / dx_uv|, and the mean of that over images; here also
over red, green and blue, of which the paper does not speak. One backward pass gives one channel, so the full field of a unit
with D channels costs D of them; some channels drawn at random give an estimate without bias.

A unit is a patch token of a ViT or a place in a map (B, C, rows, columns), and its own patch the cell of the image at the same
place in the grid. x is what the network gets: images after normalisation.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.analysis.places import AtPlaces
from lib.data.views import normalize
from lib.errors import CourseError
from lib.random import combine, permutation


class ReceptiveField(NamedTuple):
    """Fields of one unit, image by image: `fields.mean(0)` is what Raghu et al. show."""
    fields: Tensor                    # (images, H, W) float32 on the CPU, not negative
    place: tuple[int, int]            # row and column of the unit in its grid
    patch: tuple[float, float]        # height and width of its own patch, in pixels

    @property
    def centre(self) -> tuple[float, float]:
        """Of the unit's own patch, in pixels from the top and from the left of the image."""
        return tuple((place + 0.5) * size for place, size in zip(self.place, self.patch, strict=True))

    @property
    def own_share(self) -> Tensor:
        """Share of the gradient in the unit's own patch: (images,) float64. nan where the gradient is 0 everywhere."""
        (top, left), (bottom, right) = ([round((place + k) * size) for place, size in zip(self.place, self.patch, strict=True)]
                                        for k in (0, 1))
        own = self.fields[:, top:bottom, left:right].sum((1, 2), dtype=torch.float64)
        return own / self.fields.sum((1, 2), dtype=torch.float64)


class Units(AtPlaces):
    """Keeps one unit of each part, (B, C), with its place and its grid."""

    def __init__(self, network, images, parts, modules, place: tuple[int, int] | None):
        super().__init__(network, images, parts, modules)
        self.place, self.found = place, {}

    def keep(self, name: str, tokens: Tensor, grid: tuple[int, int]) -> None:
        row, column = place = (grid[0] // 2, grid[1] // 2) if self.place is None else tuple(self.place)
        if row not in range(grid[0]) or column not in range(grid[1]):
            raise CourseError(f"{name} has no place {place}; its grid is {grid[0]} x {grid[1]}, counted from (0, 0)")
        # A copy: what comes next in the network may be a ReLU that overwrites the map.
        self.found[name] = tokens[:, row * grid[1] + column].clone(), place, grid


@torch.enable_grad()
def receptive_fields(network: nn.Module, images: Tensor, parts: list[str] | None = None,
                     modules: dict[str, nn.Module] | None = None, place: tuple[int, int] | None = None,
                     channels: int | str | None = None, seed: int = 0, batch_size: int = 32) -> dict[str, ReceptiveField]:
    """Effective receptive field of a unit of each part: images (B, 3, H, W) -> {name: ReceptiveField}.

    parts or modules: see `AtPlaces`. "block6.attention" is the residual stream after attention (Fig. 6), "block6.proj" what
    attention adds to it (Fig. C.4). place: row and column of the unit, by default the middle of its grid, the lower and right
    one of two. channels: None for all; a number, to draw so many by the seed; or "sum" for |d(sum of channels) / dx|, another
    and cheaper quantity, in which channels that pull apart cancel. uint8 images are normalised, float images are taken as they
    come. Raises CourseError for parts, places and channels that are not there, and where network and images do not fit.
    """
    if batch_size < 1 or not len(images):
        raise CourseError(f"{len(images)} images in batches of {batch_size}; expected at least one image, and one a batch")
    fields = {}
    for batch in images.split(batch_size):
        x = normalize(batch) if batch.dtype == torch.uint8 else batch
        x = x.to(next(network.parameters())).detach().requires_grad_()
        units = Units(network, x, parts, modules, place)
        units.read(x)
        for name, (unit, _, _) in units.found.items():
            fields.setdefault(name, []).append(mean_gradient(chosen(unit, channels, seed), x).float().cpu())
    found = {}
    for name in units.names:
        _, where, grid = units.found[name]
        patch = tuple(size / n for size, n in zip(images.shape[2:], grid, strict=True))
        found[name] = ReceptiveField(torch.cat(fields[name]), where, patch)
    return found


def chosen(unit: Tensor, channels: int | str | None, seed: int) -> list[Tensor]:
    """What to differentiate in a unit (B, C): a list of (B,)."""
    if channels == "sum":
        return [unit.sum(1)]
    width = unit.shape[1]
    channels = width if channels is None else channels
    if channels not in range(1, width + 1):
        raise CourseError(f"channels {channels!r} of a unit with {width}; take 1 to {width}, None for all, or 'sum'")
    return [unit[:, c] for c in permutation(combine("receptive field", seed), width)[:channels].tolist()]


def mean_gradient(targets: list[Tensor], x: Tensor) -> Tensor:
    """Mean over targets (B,) and colours of |d target / dx|: (B, H, W). Images do not meet: one gradient serves them all."""
    field = torch.zeros_like(x[:, 0])
    for target in targets:
        gradient, = torch.autograd.grad(target.sum(), x, retain_graph=True)
        field += gradient.abs().mean(1)
    return field.detach() / len(targets)


# ------------------------------------------------------------------------------------------------- numbers from fields

def radius(fields: Tensor, centre: tuple[float, float] | None = None, share: float = 0.5) -> Tensor:
    """Pixels from the centre within which lies a share of the gradient: (..., H, W) -> (...) float64. nan for a field of 0.

    The least distance such that the pixels (their middles) no further away hold the share. centre: pixels from the top and from
    the left, as `ReceptiveField.centre`; None for each field's own centre of mass, which is the fair choice for strided
    convolutions: their unit (i, j) is centred on pixel (i s, j s), not on the middle of its cell of s x s pixels. A field that
    is the same everywhere has, for 50 %, about .4 of the side of a square image. Raises CourseError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise CourseError(f"a share of {share} of the gradient; expected more than 0 and at most 1")
    mass, rows, columns = weights_and_places(fields)
    if centre is None:
        centre = centre_of_mass(fields)
    middle = torch.as_tensor(centre, dtype=mass.dtype, device=mass.device)                        # (..., 2) or (2,)
    down, right = rows - middle[..., :1], columns - middle[..., 1:]                               # (..., H), (..., W)
    distances = (down[..., :, None].square() + right[..., None, :].square()).sqrt().expand(mass.shape).flatten(-2)
    distances, order = distances.sort(dim=-1)
    held = mass.flatten(-2).gather(-1, order).cumsum(-1)                         # (..., H W), from the centre outwards
    total = held[..., -1:]
    enough = (held < (1 - 1e-12) * share * total).sum(-1, keepdim=True)          # the first pixel with which it is enough
    return distances.gather(-1, enough).where(total > 0, torch.nan)[..., 0]


def centre_of_mass(fields: Tensor) -> Tensor:
    """Mean place of the gradient, in pixels from the top and from the left: (..., H, W) -> (..., 2) float64."""
    mass, rows, columns = weights_and_places(fields)
    return torch.stack([mass.sum(-1) @ rows, mass.sum(-2) @ columns], dim=-1) / mass.sum((-2, -1))[..., None]


def weights_and_places(fields: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., H, W), and the middles of its rows (H,) and columns (W,) in pixels, in float64."""
    mass = fields.double()
    return mass, *(torch.arange(n, dtype=torch.float64, device=mass.device) + 0.5 for n in mass.shape[-2:])
