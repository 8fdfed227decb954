"""`shapes`, a procedural world of textured shapes on textured grounds, in which the truth is known.

An image is an object of one of 10 shapes, filled with one of 10 textures, before a ground of one of 10 textures.
Position, size, angle, colours, light and noise vary too, all independently. Image i depends on (seed, split, i) alone,
whatever the batch, the device or the order. Because shape and texture are known and independent, "does this network see
shape or texture?" has an exact answer: `pairing="congruent"` gives every shape a texture of its own, and
`pairing="conflict"` lets the two disagree, the cue-conflict experiment of Geirhos et al. 2019 in a world under control.

Shapes and textures are tables, made once; an image looks them up at rotated and scaled coordinates. Pixels meet only
sums, products and table look-ups, one at a time, so that every device rounds them alike.
"""
import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lib import random
from lib.errors import CourseError

# A shape is where this is true; x points right and y down, and the object fills about [-1, 1] x [-1, 1].
SHAPES = {
    "disk": lambda x, y: x**2 + y**2 < 0.81,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.8,
    "triangle": lambda x, y: (y < 0.7) & (y > 1.9 * abs(x) - 1),
    "bar": lambda x, y: (abs(x) < 1) & (abs(y) < 0.3),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.95),
    "ring": lambda x, y: (x**2 + y**2 < 0.9) & (x**2 + y**2 > 0.3),
    "crescent": lambda x, y: (x**2 + y**2 < 0.9) & ((x - 0.45) ** 2 + y**2 > 0.5),
    "star": lambda x, y: np.hypot(x, y) < 0.62 + 0.36 * np.cos(5 * np.arctan2(x, -y)),
    "heart": lambda x, y: (1.2 * x) ** 2 + (1.25 * (0.1 - y) - 0.75 * np.sqrt(abs(x))) ** 2 < 0.9,
    "hourglass": lambda x, y: (abs(x) < 0.15 + 0.8 * abs(y)) & (abs(y) < 0.9),
}

# A texture is a tile with values between 0 and 1, repeated over the plane; x and y run from 0 to 1 across the tile.
TEXTURES = {
    "plain": lambda x, y: 0 * x + 0.5,
    "stripes": lambda x, y: _soft(np.sin(4 * np.pi * x)),
    "checks": lambda x, y: _soft(2 * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)),
    "dots": lambda x, y: _soft(1.2 * (np.cos(4 * np.pi * x) + np.cos(4 * np.pi * y) - 0.7)),
    "grid": lambda x, y: _soft(2 * (np.maximum(np.cos(4 * np.pi * x), np.cos(4 * np.pi * y)) - 0.75)),
    "waves": lambda x, y: _soft(np.sin(4 * np.pi * y + 1.8 * np.sin(4 * np.pi * x))),
    "zigzag": lambda x, y: _soft(np.sin(4 * np.pi * (y + 0.5 * abs(2 * ((2 * x) % 1) - 1)))),
    "bricks": lambda x, y: _soft(14 * (np.minimum(_edge(2 * y), _edge(x + 0.5 * (y > 0.5))) - 0.09)),
    "rings": lambda x, y: _soft(np.sin(8 * np.pi * np.hypot(x - 0.5, y - 0.5))),
    "clouds": lambda x, y: _soft(sum(np.sin(2 * np.pi * (i * x + j * y) + p) for i, j, p in _CLOUD)),
}
_CLOUD = [(1, 0, 0.3), (0, 1, 1.1), (1, 1, 2.0), (-1, 2, 4.0), (2, -1, 5.1), (1, 3, 0.7), (3, 1, 2.9)]

SPLITS = ("train", "val", "test")
PAIRINGS = ("independent", "congruent", "conflict")
SHAPE_CELLS, TEXTURE_CELLS, REACH = 256, 128, 1.25               # a shape's table spans [-REACH, REACH]


def _soft(wave):
    """From a wave around 0 to a tile between 0 and 1 with soft borders."""
    return np.clip(0.5 + 0.8 * wave, 0, 1)


def _edge(x):
    """Distance to the nearest whole number."""
    return abs((x + 0.5) % 1 - 0.5)


@dataclass(frozen=True)
class Difficulty:
    """How hard it is to see the shape. Lengths are in half image widths, angles in degrees, the rest from 0 to 1."""
    radius: tuple[float, float]       # size of the object
    wander: float                     # how far from the middle it may lie, as a share of the room there is
    angle: float                      # rotations go from -angle to angle
    separation: float                 # least difference in lightness between object and ground
    inverted: float                   # share of images with a dark object on a light ground
    contrast: float                   # of the two tones of a texture
    colour: float                     # strength of random colours; 0 is a grey world
    light: float                      # strength of the light from one side
    clutter: int                      # blobs between ground and object
    noise: float                      # standard deviation of pixel noise


# "easy" has no textures to see, and is learnt in seconds. "mild" has them, in grey: colours would be the first thing by which
# contrastive learning tells images apart. From "medium" on a CPU has little hope.
DIFFICULTIES = {
    "easy": Difficulty((0.5, 0.85), 0.1, 10, 0.7, 0.0, 0.0, 0.0, 0.0, 0, 0.35),
    "mild": Difficulty((0.5, 0.85), 0.3, 30, 0.5, 0.0, 0.4, 0.0, 0.0, 0, 0.1),
    "medium": Difficulty((0.45, 0.75), 1.0, 180, 0.3, 0.5, 0.5, 0.15, 0.15, 2, 0.03),
    "hard": Difficulty((0.3, 0.6), 1.0, 180, 0.15, 0.5, 0.8, 0.4, 0.3, 4, 0.06),
}


@functools.cache
def _shape_tables(device: torch.device) -> Tensor:
    """Signed distance to the outline, in object units, inside positive: (10 * cells * cells,)."""
    axis = (np.arange(2 * SHAPE_CELLS) + 0.5) / SHAPE_CELLS * REACH - REACH
    x, y = np.meshgrid(axis, axis)
    insides = [inside(x, y) for inside in SHAPES.values()]
    distances = [distance_transform_edt(i) - distance_transform_edt(~i) for i in insides]
    distances = np.stack([d[::2, ::2] * REACH / SHAPE_CELLS for d in distances])
    return torch.tensor(distances, dtype=torch.float32, device=device).flatten()


@functools.cache
def _texture_tables(device: torch.device) -> Tensor:
    """Tiles between 0 and 1: (10 * cells * cells,)."""
    axis = (np.arange(TEXTURE_CELLS) + 0.5) / TEXTURE_CELLS
    x, y = np.meshgrid(axis, axis)
    return torch.tensor(np.stack([tile(x, y) for tile in TEXTURES.values()]), dtype=torch.float32, device=device).flatten()


@functools.cache
def _noise_table(device: torch.device) -> Tensor:
    """Standard normal noise, looked up at a random offset: (2^16,)."""
    return torch.tensor(np.random.default_rng(0).standard_normal(2**16), dtype=torch.float32, device=device)


class Shapes:
    """A source of images: `Shapes("train", size=64).images(torch.arange(8))` -> (8, 3, 64, 64) uint8.

    difficulty: a name in DIFFICULTIES or a `Difficulty`. pairing: "independent" draws shape and texture apart,
    "congruent" gives shape k texture k, "conflict" gives it any texture but k. `labels` are the shapes.
    Raises CourseError for a split, pairing, difficulty, size or index that does not exist.
    """
    name = "shapes"

    def __init__(self, split: str = "train", size: int = 64, length: int = 20_000, difficulty: str | Difficulty = "medium",
                 pairing: str = "independent", seed: int = 0, device: str | torch.device = "cpu"):
        for value, known, what in ((split, SPLITS, "split"), (pairing, PAIRINGS, "pairing")):
            if value not in known:
                raise CourseError(f"shapes has no {what} {value!r}; choose one of {', '.join(known)}")
        if isinstance(difficulty, str) and difficulty not in DIFFICULTIES:
            raise CourseError(f"shapes has no difficulty {difficulty!r}; choose one of {', '.join(DIFFICULTIES)}")
        if size < 8 or length < 1:
            raise CourseError(f"shapes needs a size of at least 8 pixels and at least 1 image, got {size} and {length}")
        self.split, self.size, self.length, self.pairing, self.seed = split, size, length, pairing, seed
        self.difficulty = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
        self.device = torch.device(device)
        self.classes = list(SHAPES)

    def __len__(self) -> int:
        return self.length

    def labels(self, indices: Tensor) -> Tensor:
        return self.factors(indices)["shape"]

    def images(self, indices: Tensor) -> Tensor:
        return self.render(self.factors(indices))[0]

    def masks(self, indices: Tensor) -> Tensor:
        return self.render(self.factors(indices))[1]

    def factors(self, indices: Tensor) -> dict[str, Tensor]:
        """What image i is made of, one row an image: classes as int64 (B,), the rest float32; lengths in half widths."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        if len(indices) and not (0 <= int(indices.min()) and int(indices.max()) < self.length):
            raise CourseError(f"shapes holds images 0 to {self.length - 1}, got {int(indices.min())} to {int(indices.max())}")
        d, key = self.difficulty, random.combine("shapes", self.seed, self.split, indices)
        u = random.uniform(key, 32)                                                # (B, 32)
        shape, texture, ground = ((10 * u[:, k]).long() for k in range(3))
        if self.pairing == "congruent":
            texture = shape
        elif self.pairing == "conflict":
            texture = (shape + 1 + (9 * u[:, 1]).long()) % 10
        radius = d.radius[0] + (d.radius[1] - d.radius[0]) * u[:, 3]
        room = d.wander * (1 - radius)[:, None]                                    # the object stays in the image
        dark, light = self._tones(u)
        swap = (u[:, 10] < d.inverted)[:, None, None]
        return {
            "shape": shape, "texture": texture, "ground": ground, "radius": radius,
            "position": (2 * u[:, 4:6] - 1) * room, "angle": (2 * u[:, 6] - 1) * math.radians(d.angle),
            "texture_angle": 2 * math.pi * u[:, 7:9], "texture_period": 0.55 + 0.25 * u[:, 24:26],
            "texture_phase": u[:, 20:24], "tones": torch.stack([torch.where(swap, dark, light),
                                                                torch.where(swap, light, dark)], 1),
            "light_angle": 2 * math.pi * u[:, 9], "light": d.light * u[:, 26],
            "noise_offset": (u[:, 27] * 2**16).long(), "key": key,
        }

    def _tones(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Two colours for the darker and two for the lighter of object and ground: (B, 2, 3) each, in [0.05, 0.95]."""
        d = self.difficulty
        middle = 0.5 + (0.5 - d.separation) * (u[:, 11] - 0.5)                     # between the two lightnesses
        gap = d.separation / 2 + (0.35 - d.separation / 2) * u[:, 12]
        tint = d.colour * (u[:, 28:32] - 0.5)
        sides = []
        for side, sign in enumerate((-1, 1)):
            lightness = (middle + sign * gap)[:, None, None]                       # (B, 1, 1)
            step = torch.tensor([-0.5, 0.5])[None, :, None] * d.contrast * (0.3 + 0.3 * u[:, 13 + side])[:, None, None]
            hue = d.colour * (u[:, 15 + 2 * side:17 + 2 * side] - 0.5)             # (B, 2)
            hue = torch.stack([hue[:, 0], hue[:, 1], -hue.sum(1)], 1)[:, None]     # red, green, blue: no lightness
            hue = hue + torch.stack([tint[:, 2 * side], -tint[:, 2 * side], tint[:, 2 * side + 1]], 1)[:, None] * step.sign()
            sides.append((lightness + step + hue).clamp(0.05, 0.95))
        return sides[0], sides[1]

    def render(self, factors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Draw factors, changed or not: -> images (B, 3, S, S) uint8 and object masks (B, S, S) bool."""
        chunks = [self._render({k: v[i:i + 32] for k, v in factors.items()}) for i in range(0, len(factors["shape"]), 32)]
        if not chunks:
            return (torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device),
                    torch.empty(0, self.size, self.size, dtype=torch.bool, device=self.device))
        return torch.cat([c[0] for c in chunks]), torch.cat([c[1] for c in chunks])

    def _render(self, f: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        axis = (torch.arange(self.size, device=self.device) + 0.5) * 2 / self.size - 1
        x, y = axis[None, None, :], axis[None, :, None]                            # (1, 1, S), (1, S, 1)
        inside = self._shape(x, y, f["shape"], f["position"], f["radius"], f["angle"])          # (B, S, S)
        angles, periods, phases = f["texture_angle"].T, f["texture_period"].T, f["texture_phase"].split(2, dim=1)
        filling = self._texture(x, y, f["texture"], angles[0], periods[0], phases[0])             # (B, S, S)
        backing = self._texture(x, y, f["ground"], angles[1], periods[1], phases[1])              # (B, S, S)
        blobs = [self._blob(x, y, f, k) for k in range(self.difficulty.clutter)]
        shade = self._shade(x, y, f)
        tones = f["tones"].to(self.device)                                         # (B, 2, 2, 3)
        images = torch.empty(len(inside), 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        for channel in range(3):
            object_, ground = tones[:, 0, :, channel, None, None], tones[:, 1, :, channel, None, None]   # (B, 2, 1, 1)
            pixels = backing * (ground[:, 1] - ground[:, 0]) + ground[:, 0]
            for cover, colour in blobs:
                pixels = pixels + cover * (colour[:, channel] - pixels)
            pixels = pixels + inside * (filling * (object_[:, 1] - object_[:, 0]) + object_[:, 0] - pixels)
            images[:, channel] = ((pixels + shade) * 255 + 0.5).clamp_(0, 255).to(torch.uint8)
        return images, inside > 0.5

    def _column(self, values: Tensor) -> Tensor:
        """(B,) on the CPU -> (B, 1, 1) on the device."""
        return values[:, None, None].to(self.device)

    def _turned(self, x: Tensor, y: Tensor, angle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates in a frame turned by `angle` and stretched by 1 / `scale`: two of (B, S, S)."""
        cos, sin = ((f(angle.double()) / scale).float() for f in (torch.cos, torch.sin))
        cos, sin = self._column(cos), self._column(sin)
        return x * cos + y * sin, y * cos - x * sin

    def _shape(self, x, y, shape, position, radius, angle) -> Tensor:
        """Share of each pixel that the object covers: (B, S, S) in [0, 1]."""
        u, v = self._turned(x - self._column(position[:, 0]), y - self._column(position[:, 1]), angle, radius)
        scale = SHAPE_CELLS / (2 * REACH)
        column = ((u + REACH) * scale).clamp_(0, SHAPE_CELLS - 1).int()
        row = ((v + REACH) * scale).clamp_(0, SHAPE_CELLS - 1).int()
        index = row * SHAPE_CELLS + column + self._column(shape.int() * SHAPE_CELLS**2)
        distance = _shape_tables(self.device).take(index.long())              # in object units
        return (distance * self._column(radius * self.size / 2) + 0.5).clamp_(0, 1)

    def _texture(self, x, y, texture, angle, period, phase) -> Tensor:
        """Tile value at each pixel: (B, S, S) in [0, 1]."""
        u, v = self._turned(x, y, angle, period)
        u, v = u + self._column(phase[:, 0] + 8), v + self._column(phase[:, 1] + 8)   # + 8 keeps them positive
        column = (u * TEXTURE_CELLS).int() & (TEXTURE_CELLS - 1)
        row = (v * TEXTURE_CELLS).int() & (TEXTURE_CELLS - 1)
        index = row * TEXTURE_CELLS + column + self._column(texture.int() * TEXTURE_CELLS**2)
        return _texture_tables(self.device).take(index.long())

    def _blob(self, x, y, f, k: int) -> tuple[Tensor, Tensor]:
        """Clutter: a soft disk of a random tone of the object or the ground, -> cover (B, S, S), colour (B, 3, 1, 1)."""
        u = random.uniform(random.combine(f["key"], "blob", k), 5)                 # (B, 5)
        radius = 0.1 + 0.12 * u[:, 2]
        dx, dy = x - self._column(2 * u[:, 0] - 1), y - self._column(2 * u[:, 1] - 1)
        edge = self._column(self.size / (4 * radius))
        cover = ((self._column(radius**2) - (dx * dx + dy * dy)) * edge + 0.5).clamp_(0, 1)
        rows = torch.arange(len(u))
        colour = f["tones"][rows, (2 * u[:, 3]).long(), (2 * u[:, 4]).long()]      # (B, 3)
        return cover, colour[..., None, None].to(self.device)

    def _shade(self, x, y, f) -> Tensor:
        """Light from one side and pixel noise: (B, S, S), to be added."""
        cos, sin = ((g(f["light_angle"].double()) * f["light"] / 2).float() for g in (torch.cos, torch.sin))
        pixel = torch.arange(self.size**2, device=self.device).view(self.size, self.size)
        noise = _noise_table(self.device).take((pixel + self._column(f["noise_offset"])) & (2**16 - 1))
        return x * self._column(cos) + y * self._column(sin) + noise * self.difficulty.noise
