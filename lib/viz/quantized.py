"""Maps in one byte a patch: small enough to send all of them to the browser once, exact enough to read numbers from."""
from dataclasses import dataclass, fields

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


@dataclass(frozen=True)
class QuantizedCosines:
    """How alike every query is to each patch, with the shapes of `Quantized` and one "head".

    A cosine is about `low + codes / 255 * (high - low)`, wrong by `(high - low) / 510` at most; low and high are the row's.
    """
    codes: np.ndarray
    high: np.ndarray
    low: np.ndarray

    def row(self, image: int, layer: int, head: int, query: int) -> np.ndarray:
        """Cosine of one query with the patches, (P,) float32. All arguments are positions that count from 0."""
        place = image, layer, head, query
        return self.low[place] + self.codes[place].astype(np.float32) * ((self.high[place] - self.low[place]) / 255)


def quantize(maps: Tensor, prefix: int) -> Quantized:
    """From attention of all blocks, (L, B, H, N, N) with `prefix` tokens before the patches, as `attention_maps` gives it.

    Of the queries that are not patches the first, CLS, is kept.
    """
    rows = _rows(maps, prefix)                                                   # (B, L, H, Q, N)
    patches = rows[..., prefix:]                                                 # (B, L, H, Q, P)
    brightest = patches.max(-1)
    codes = np.rint(255 * (patches / np.where(brightest > 0, brightest, 1)[..., None])).astype(np.uint8)
    return Quantized(codes, brightest, rows[..., :prefix].sum(-1))


def quantize_cosines(cosines: Tensor, prefix: int) -> QuantizedCosines:
    """From cosines of the tokens behind each block, (L, B, N, N), queries as in `quantize`."""
    patches = _rows(cosines[:, :, None], prefix)[..., prefix:]                   # (B, L, 1, Q, P)
    low, high = patches.min(-1), patches.max(-1)
    codes = np.rint(255 * ((patches - low[..., None]) / np.where(high > low, high - low, 1)[..., None])).astype(np.uint8)
    return QuantizedCosines(codes, high, low)


def _rows(maps: Tensor, prefix: int) -> np.ndarray:
    """(L, B, H, N, N) -> float32 (B, L, H, Q, N)."""
    rows = maps.detach().float().cpu().numpy().swapaxes(0, 1)
    return np.concatenate([rows[:, :, :, :1], rows[:, :, :, prefix:]], axis=3) if prefix > 1 else rows


# --------------------------------------------------------------------------------------------------------- for all kinds

def parts(maps) -> list[np.ndarray]:
    """The codes and the two arrays of float32 of a `Quantized` or `QuantizedCosines`, in that order."""
    return [getattr(maps, field.name) for field in fields(maps)]


def join(maps, more):
    """The images of both, one after the other."""
    return type(maps)(*(np.concatenate(pair) for pair in zip(parts(maps), parts(more))))


def coarse(maps):
    """The same in less: 33 codes, multiples of 8 and 255, and floats of 8 binary digits, so that a page compresses well.

    A code is then wrong by 4.5 of 255 at most, 1.8 % of the row's range, and a float by 0.2 % of itself.
    """
    codes, *floats = parts(maps)
    fewer = np.minimum(np.rint(codes / 8) * 8, 255).astype(np.uint8)
    return type(maps)(fewer, *(_short(values) for values in floats))


def _short(values: np.ndarray) -> np.ndarray:
    """float32, rounded so that the last 15 of 23 digits behind the point are 0."""
    whole = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((whole + 0x4000) & np.uint32(0xFFFF8000)).view(np.float32)
