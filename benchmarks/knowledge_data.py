"""Real images for the benchmark of sharing: alphabets, clothes and digits, few of them with labels.

Read from the folder COTERIE_DATA, or shared/data beside the repository, and never written.
Legend of shape suffixes: N images of H×W pixels, each 1×28×28 with values 0..1 in the end.
"""

from __future__ import annotations

import functools
import gzip
import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

SIDE = 28  # pixels
NUM_CLASSES = 10  # of clothes, and of digits
NUM_DRAWINGS = 20  # of each character
NUM_UNSEEN = 10  # of these are tested on
OMNIGLOT = "https://github.com/brendenlake/omniglot/raw/master/python"
FASHION = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"

Numbers = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their labels."""

    images_NHW: Tensor  # (N, 1, H, W)
    labels_N: Tensor

    def some(self, indices: Numbers) -> Images:
        """Those at some places, in that order."""
        told = torch.as_tensor(indices)
        return Images(self.images_NHW[told], self.labels_N[told])

    def turned(self, degrees: float) -> Images:
        """The same images, rotated.

        >>> image = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        >>> Images(image, torch.zeros(1)).turned(90).images_NHW[0, 0].round().tolist()
        [[0.0, 1.0], [0.0, 0.0]]
        """
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]])
        shape = list(self.images_NHW.shape)
        grid = F.affine_grid(turn, [1, *shape[1:]], align_corners=False)
        told = F.grid_sample(
            self.images_NHW, grid.expand(shape[0], -1, -1, -1), align_corners=False
        )
        return Images(told, self.labels_N)

    def parts(self) -> tuple[Tensor, Tensor]:
        """Both tensors."""
        return self.images_NHW, self.labels_N

    def dataset(self) -> TensorDataset:
        """As tasks take them."""
        return TensorDataset(*self.parts())

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True, eq=False)
class Split:
    """What one learner has: images to learn from, some to judge lessons by, and those of the test.

    Nobody learns from the test, and it judges no lesson.
    """

    train: Images
    test: Images
    kept: Images | None = None

    def all_learned(self) -> Split:
        """The same, but that what was kept is learned from too."""
        if self.kept is None:
            return self
        both = zip(self.train.parts(), self.kept.parts(), strict=True)
        return Split(Images(*(torch.cat(parts) for parts in both)), self.test)

    def renamed(self, order: Numbers) -> Split:
        """The same with label i called `order[i]`."""
        told = torch.as_tensor(order)
        parts = (self.train, self.test, self.kept)
        return Split(*(each and Images(each.images_NHW, told[each.labels_N]) for each in parts))


def folder(*parts: str, source: str) -> Path:
    """A file of the data folder; FileNotFoundError that says where to get it."""
    own = os.environ.get("COTERIE_DATA")
    root = Path(own) if own else Path(__file__).resolve().parents[2] / "shared" / "data"
    path = root.joinpath(*parts)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path}, found none; save {source}/{parts[-1]} as {'/'.join(parts)} in a "
            "folder and set COTERIE_DATA to that folder"
        )
    return path


def bits(png: bytes) -> NDArray[np.uint8]:
    """The pixels of a PNG file of one bit a pixel without filters, as all of Omniglot's are.

    Raises ValueError for any other PNG.
    """
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    at, packed = 8, b""
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        packed += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    if png[24:29] != bytes([1, 0, 0, 0, 0]) or rows[:, 0].any():
        raise ValueError("expected a PNG of black and white without filters, found another kind")
    return np.unpackbits(rows[:, 1:], axis=1)[:, :width]


@functools.cache
def drawings() -> Mapping[str, Tensor]:
    """Omniglot's eight small alphabets: for each, (characters, 20, 1, 28, 28), ink is one."""
    found: dict[str, dict[str, list[NDArray[np.uint8]]]] = {}
    for number in (1, 2):
        path = folder("omniglot", f"images_background_small{number}.zip", source=OMNIGLOT)
        with zipfile.ZipFile(path) as files:
            names = [PurePosixPath(name) for name in sorted(files.namelist())]
            drawn = [name for name in names if name.suffix == ".png" and len(name.parts) == 4]
            new = {name.parts[1] for name in drawn} - found.keys()  # the second repeats two
            for name in drawn:
                alphabet, character = name.parts[1:3]
                if alphabet in new:
                    pixels = 1 - bits(files.read(str(name)))
                    found.setdefault(alphabet, {}).setdefault(character, []).append(pixels)
    return {name: _small(np.array(list(of.values()))) for name, of in sorted(found.items())}


def _small(ink: NDArray[np.uint8]) -> Tensor:
    flat = torch.as_tensor(ink, dtype=torch.float32).flatten(0, 1).unsqueeze(1)
    small = F.interpolate(flat, (SIDE, SIDE), mode="bilinear", antialias=True)
    return small.unflatten(0, ink.shape[:2])


def alphabet(name: str, num_shots: int, seed: int) -> Split:
    """One alphabet: so many drawings of each character to learn from, ten others to test on."""
    images = drawings()[name]
    random = np.random.RandomState(seed)
    chosen = [torch.as_tensor(random.permutation(NUM_DRAWINGS)) for _ in images]

    def part(which: slice) -> Images:
        told = torch.cat([of[order[which]] for of, order in zip(images, chosen, strict=True)])
        return Images(told, torch.arange(len(images)).repeat_interleave(len(told) // len(images)))

    return Split(part(slice(num_shots)), part(slice(NUM_DRAWINGS - NUM_UNSEEN, None)))


@functools.cache
def clothes() -> Split:
    """Fashion-MNIST: 60,000 images of clothes, and 10,000 to test on."""

    def part(name: str) -> Images:
        def content(kind: str, skip: int) -> Tensor:
            path = folder("fashion-mnist", f"{name}-{kind}-ubyte.gz", source=FASHION)
            with gzip.open(path) as file:
                return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=skip).copy())

        images = content("images-idx3", 16).view(-1, 1, SIDE, SIDE)
        return Images(images, content("labels-idx1", 8).long())  # bytes: floats only of those used

    return Split(part("train"), part("t10k"))


@functools.cache
def digits() -> Split:
    """Scikit-learn's 1,797 digits, enlarged: a third, drawn once for all, is tested on."""
    from sklearn.datasets import load_digits

    told = load_digits()
    small = torch.as_tensor(told.images, dtype=torch.float32).unsqueeze(1) * (255 / 16)
    large = F.interpolate(small, (SIDE, SIDE), mode="bilinear").round().to(torch.uint8)
    images = Images(large, torch.as_tensor(told.target).long())
    order, cut = np.random.RandomState(0).permutation(len(images)), len(images) * 2 // 3
    return Split(images.some(order[:cut]), images.some(order[cut:]))


def own(
    images: Split, num_each: tuple[int, int], num_test: int, degrees: float, seed: Sequence[int]
) -> Split:
    """What one agent has of these: some of each class to learn from and to judge lessons by.

    All are rotated by its angle; the images of its test are drawn from those to test on.
    """
    random = np.random.RandomState(seed)
    labels, num_shots = images.train.labels_N.numpy(), num_each[0]
    taken = np.array(
        [
            random.choice(np.flatnonzero(labels == label), sum(num_each), replace=False)
            for label in range(NUM_CLASSES)
        ]
    )
    tested = random.permutation(len(images.test))[:num_test]
    train, kept, test = (
        Images(of.images_NHW.float() / 255, of.labels_N).turned(degrees)
        for of in (
            images.train.some(taken[:, :num_shots].ravel()),
            images.train.some(taken[:, num_shots:].ravel()),
            images.test.some(tested),
        )
    )
    return Split(train, test, kept if len(kept) else None)
