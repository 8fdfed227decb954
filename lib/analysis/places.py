"""Units at places: a patch token of a ViT, or a place in the map of a CNN, and the part of the image that lies under it."""
from torch import Tensor, nn

from lib.analysis.recording import Observer, layout_of, part_names, run
from lib.errors import CourseError


class AtPlaces:
    """Reads some parts of a network as units in a grid: `keep(name, tokens (B, rows columns, D), grid)`, prefix left out.

    Either parts of a timm-style ViT, names in `lib.analysis.recording.part_names`; or modules {name: module} of any network,
    which give tokens (B, N, D) if it is such a ViT, or maps (B, C, rows, columns). Raises CourseError for anything else.
    """
    reads = "parts"

    def __init__(self, network: nn.Module, images: Tensor, parts: list[str] | None, modules: dict[str, nn.Module] | None):
        if (not parts and not modules) or (parts and modules):
            raise CourseError("give either parts of a ViT, such as ['block1'], or modules={'stage1': resnet.layer1}")
        is_vit = hasattr(network, "blocks") and hasattr(network, "num_prefix_tokens")
        self.network, self.modules, self.names = network, modules, list(dict.fromkeys(parts or modules))
        self.layout = layout_of(network, images) if parts or is_vit else None
        unknown = set(parts or ()) - set(part_names(self.layout.depth) if parts else ())
        if unknown:
            raise CourseError(f"there is no part {min(unknown)!r} in this ViT; choose some of embedding, block1.norm1, ..., "
                              f"block{self.layout.depth}: see lib.analysis.recording.part_names")

    def keep(self, name: str, tokens: Tensor, grid: tuple[int, int]) -> None:
        raise NotImplementedError

    def update(self, name: str, activation: Tensor) -> None:
        if name not in self.names:
            return
        if activation.ndim == 4:
            tokens, grid = activation.flatten(2).mT, tuple(activation.shape[2:])
        elif activation.ndim == 3 and self.layout is not None:
            tokens, grid = activation[:, self.layout.prefix:], self.layout.grid
        else:
            tokens, grid = activation, None
        if grid is None or tokens.shape[1] != grid[0] * grid[1]:
            raise CourseError(f"{name} gives {tuple(activation.shape)}, expected tokens of a ViT (B, N, D) or a map "
                              "(B, C, rows, columns)")
        self.keep(name, tokens, grid)

    def read(self, images: Tensor, where: str = "these images") -> None:
        """One forward pass in eval mode, with gradients if they are on. uint8 images are normalised."""
        observer = Observer([self], self.layout, verify=False)
        if self.modules:
            run(self.network, self.network, images, observer.attach_modules(self.modules))
        else:
            run(self.network, self.network.forward_features, images, observer.attach(self.network))
        observer.check_passed(self.names)
        observer.check_finite(where)


def image_patches(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pixels under each place of a grid: (B, 3, H, W) -> (B, rows columns, pixels). CourseError where they do not divide."""
    (rows, columns), (height, width) = grid, images.shape[2:]
    if height % rows or width % columns:
        raise CourseError(f"images of {height} x {width} pixels do not divide into {rows} x {columns} places")
    tiles = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))          # (B, 3, rows, h, columns, w)
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
