"""Files of weights from elsewhere, read without running anything that is in them.

A PyTorch checkpoint is a pickle, and a pickle may call any function when it is read. Nothing here lets it: PyTorch's
weights-only loader refuses what is no tensor, and `TensorsOnly` puts an inert dict in the place of every foreign object.
"""
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.errors import CourseError

DTYPES = {"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
          "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
          "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool}


def read_checkpoint(path: Path) -> dict:
    """What a .pth or .npz file holds, with tensors on the CPU. Raises CourseError if it cannot be read.

    One foreign object makes PyTorch's weights-only loader refuse a whole file (that of SimMIM carries a yacs CfgNode): such
    a file is read by `TensorsOnly`. Large files are mapped, not read: only tensors that are looked at use memory.
    """
    try:
        _refuse_text(path)
        found = _read_arrays(path) if path.suffix == ".npz" else _read_pickle(path)
    except Exception as error:                                    # a damaged file makes the loaders raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CourseError(f"{path} cannot be read as a file of weights ({reason}): delete it and fetch it again") from None
    if not isinstance(found, dict):
        raise CourseError(f"{path} holds a {type(found).__name__}, expected a dict of weights: it is another file")
    return found


def _refuse_text(path: Path) -> None:
    """Raises ValueError for what a browser or git may have saved in the place of the weights, which are never plain text."""
    with open(path, "rb") as file:
        begins = file.read(256)
    if begins.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise ValueError("it is a web page")
    if begins and all(byte >= 32 or byte in b"\t\r\n" for byte in begins):         # a pickle begins with 128 and 2
        raise ValueError("it is text")


def _read_arrays(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is cut short, or no npz file")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _read_pickle(path: Path):
    zipped = zipfile.is_zipfile(path)                             # PyTorch since 1.6
    with open(path, "rb") as file:
        if not zipped and file.read(2) == b"PK":                  # how zip files begin; is_zipfile looks at their end
            raise EOFError("it is cut short")
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                raise ValueError("it is a zip file without weights")
            if damaged := archive.testzip():                      # torch.load does not compare checksums
                raise ValueError(f"the checksum of {damaged} in it is wrong")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:                                # whose words advise to let the file run what it likes
        if not zipped:
            raise ValueError("it is no file of PyTorch, or holds more than tensors") from None
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(name) as file:
            return TensorsOnly(file, archive, name.removesuffix("data.pkl")).load()


class Inert(dict):
    """Stands for any object of a foreign class: it can be made and filled, and does nothing."""

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__):
        super().__init__()

    def __setstate__(self, state):
        pass


class TensorsOnly(pickle.Unpickler):
    """Unpickles tensors, plain values and dicts from a PyTorch archive; every other class or function becomes `Inert`.

    No name in the file is ever imported. Bytes of tensors are compared with the archive's checksums.
    """

    def __init__(self, file, archive: zipfile.ZipFile, prefix: str):
        super().__init__(file)
        self.archive, self.prefix, self.storages = archive, prefix, {}

    def find_class(self, module: str, name: str):
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        return {("collections", "OrderedDict"): OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
                ("torch._utils", "_rebuild_parameter"): _parameter}.get((module, name), Inert)

    def persistent_load(self, pid) -> Tensor:
        """("storage", dtype, key, device, number of elements) -> its elements, one after the other."""
        _, dtype, key, _, length = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
            if len(data) != length * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} has {len(data)} bytes, expected {length * dtype.itemsize}")
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, shape: tuple, strides: tuple, *_) -> Tensor:
    return storage.as_strided(shape, strides, offset)             # which raises where it would leave the storage


def _parameter(tensor: Tensor, *_) -> Tensor:
    return tensor
