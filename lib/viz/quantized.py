"""Attention in one byte a patch: small enough to send all of it to the browser once, exact enough to read numbers from."""
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Quantized:
    """Where every query looks, for images B, layers L, heads H, queries Q (CLS first, where there is one) and patches P.

    codes (B, L, H, Q, P) uint8 and brightest (B, L, H, Q) float32: attention to a patch is about `codes / 255 * brightest`,
    wrong by `brightest / 510` at most. outside (B, L, H, Q) float32: what the row gives to CLS and other prefix tokens.
    Every row is scaled to the brightest of its own *patches*: a CLS token that takes nearly all does not cost them a bit.
    """
    codes: np.ndarray
    brightest: np.ndarray
    outside: np.ndarray

    def row(self, image: int, layer: int, head: int, query: int) -> np.ndarray:
        """Attention of one query to the patches, (P,) float32. All arguments are positions that count from 0."""
        place = image, layer, head, query
        return self.codes[place].astype(np.float32) * (self.brightest[place] / 255)


def quantize(maps: Tensor, prefix: int) -> Quantized:
    """From attention of all blocks, (L, B, H, N, N) with `prefix` tokens before the patches, as `attention_maps` gives it.

    Of the queries that are not patches the first, CLS, is kept.
    """
    rows = maps.detach().float().cpu().numpy().swapaxes(0, 1)                    # (B, L, H, N, N)
    if prefix > 1:
        rows = np.concatenate([rows[:, :, :, :1], rows[:, :, :, prefix:]], axis=3)              # (B, L, H, Q, N)
    patches = rows[..., prefix:]                                                 # (B, L, H, Q, P)
    brightest = patches.max(-1)
    codes = np.rint(255 * (patches / np.where(brightest > 0, brightest, 1)[..., None])).astype(np.uint8)
    return Quantized(codes, brightest, rows[..., :prefix].sum(-1))
