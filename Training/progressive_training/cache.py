"""Compact volumes: what a scan keeps for training, prepared once and stored beside the runs.

A scan becomes an int16 volume of about 1.5 mm around the lungs, coarse masks (both lungs, left lung, right
lung, body, bore) and a JSON file. No pickle: ``.npy`` files are read with ``allow_pickle=False``.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError
from ProgressiveRegistrationLib.files import replacing, write_text
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.lungs import BOX_MARGIN_MM, Lungs, find_lungs
from ProgressiveRegistrationLib.network.input import sample_on_grid
from scipy import ndimage

CPU = torch.device("cpu")
VERSION = 4
SPACING_MM = 1.5
REACH_MM = 40.0  # the deformations and box margins look this far past the lung box
MASKS = ("lung", "right", "left", "body", "bore")


@dataclass(frozen=True)
class CachedScan:
    """One prepared scan in memory.

    volume : (z, y, x) float32 in [0, 1], windowed. coarse : the same, averaged over 2^3 voxels.
    masks : (5, z, y, x) float32 on the coarse lattice, in the order of ``MASKS``.
    origin, spacing : LPS mm (x, y, z) of voxel (0, 0, 0) of ``volume``. box, right_box, left_box : LPS mm.
    """

    name: str
    volume: torch.Tensor
    coarse: torch.Tensor
    masks: torch.Tensor
    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    box: Box
    side_boxes: tuple[Box, ...]

    @property
    def bytes(self) -> int:
        return 4 * (self.volume.numel() + self.coarse.numel() + self.masks.numel())


def sides(lung: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right and left lung of a (z, y, x) mask in LPS; both empty when they cannot be told apart."""
    nothing = np.zeros_like(lung)
    if not lung.any():
        return nothing, nothing
    width = np.ptp(np.flatnonzero(lung.any((0, 1)))) + 1
    # Lungs touch at the front, and the airways join them: erode until two parts lie side by side.
    core = lung
    for _ in range(7):
        core = ndimage.binary_erosion(core)
        labels, count = ndimage.label(core)
        if count < 2:
            continue
        sizes = np.bincount(labels.ravel())[1:]
        pair = np.argsort(sizes)[-2:] + 1
        where = {i: np.argwhere(labels == i)[:, 2].mean() for i in pair}
        first, second = sorted(pair, key=lambda i: where[i])
        if sizes[pair[0] - 1] > 0.25 * sizes[pair[1] - 1] and where[second] - where[first] > 0.25 * width:
            right, left = (ndimage.distance_transform_edt(labels != i) for i in (first, second))
            return lung & (right <= left), lung & (right > left)
    return nothing, nothing


def body(hu: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """The patient in a (z, y, x) volume in HU: the largest dense part, filled slice by slice,
    and the lungs."""
    dense = ndimage.binary_opening(hu > -500)
    labels, count = ndimage.label(dense)
    if count:
        dense = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    filled = np.stack([ndimage.binary_fill_holes(s) for s in dense])
    return filled | lung


def bore(image: sitk.Image, grid: Grid) -> np.ndarray:
    """The paper's circular mask: a radius of 250/256 of half the slice,
    about the slice's centre (section II-F)."""
    source = Grid.from_image(image)
    index = source.world_to_index(grid.points().reshape(-1, 3)).reshape(*grid.shape, 3)
    half = np.asarray(source.size[:2]) / 2
    radius = np.sqrt(np.sum(((index[..., :2] + 0.5 - half) / half) ** 2, axis=-1))
    return (radius <= 250 / 256) & source.contains(grid.points())


def prepare(image: sitk.Image, folder: Path, name: str, source: str = "", lungs: Lungs | None = None) -> None:
    """Write a scan's compact form into ``folder``. Raises NoLungError or OutputError."""
    lungs = lungs or find_lungs(image, name=name)
    extent = Box.around(Grid.from_image(image).corners())
    grown = lungs.box.grown(REACH_MM)
    outer = Box(np.maximum(grown.lower, extent.lower), np.minimum(grown.upper, extent.upper))
    # An even number of voxels, so that the coarse lattice covers the fine one.
    size = 2 * np.ceil(outer.extent / SPACING_MM / 2 - 1e-6).astype(int)
    half = SPACING_MM / 2
    grid = Grid(tuple(size), (SPACING_MM,) * 3, np.asarray(outer.lower) + half)
    coarse = Grid(tuple(size // 2), (2 * SPACING_MM,) * 3, np.asarray(outer.lower) + SPACING_MM)
    hu = np.clip(np.rint(sample_on_grid(image, grid)), -2048, 3071).astype(np.int16)
    lung = sitk.GetArrayFromImage(coarse.resample(sitk.Cast(lungs.mask, sitk.sitkFloat32))) >= 0.5
    z, y, x = coarse.shape
    coarse_hu = hu.reshape(z, 2, y, 2, x, 2).mean((1, 3, 5), dtype=np.float32)
    right, left = sides(lung)
    masks = np.stack([lung, right, left, body(coarse_hu, lung), bore(image, coarse)]).astype(np.uint8)
    side_boxes = []
    for side in (right, left):
        if side.any():
            index = np.argwhere(side)[:, ::-1]
            around = Box(coarse.index_to_world(index.min(0) - 0.5), coarse.index_to_world(index.max(0) + 0.5))
            around = around.grown(BOX_MARGIN_MM)
            side_boxes.append(
                Box(np.maximum(around.lower, lungs.box.lower), np.minimum(around.upper, lungs.box.upper))
            )
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in (("volume.npy", hu), ("masks.npy", masks)):
        with replacing(folder / file) as temporary:
            np.save(temporary, array, allow_pickle=False)
    card = {
        "version": VERSION,
        "name": name,
        "source": source,
        "origin": grid.origin,
        "spacing": grid.spacing,
        "box": lungs.box.to_list(),
        "side_boxes": [b.to_list() for b in side_boxes],
        "lung_litres": round(lungs.volume_litres, 3),
        "notes": lungs.notes,
    }
    write_text(folder / "scan.json", json.dumps(card, indent=1))


def load(folder: Path, window: tuple[float, float], device: torch.device = CPU) -> CachedScan:
    """Read a prepared scan; its tensors lie on ``device``."""
    card = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
    hu = np.load(folder / "volume.npy", allow_pickle=False)
    masks = np.load(folder / "masks.npy", allow_pickle=False)
    low, high = window
    # Whole numbers travel to a device in half the time.
    volume = torch.from_numpy(hu).to(device).float().sub_(low).div_(high - low).clamp_(0, 1)
    coarse = torch.nn.functional.avg_pool3d(volume[None, None], 2)[0, 0]
    return CachedScan(
        card["name"],
        volume,
        coarse,
        torch.from_numpy(masks).to(device).float(),
        tuple(card["origin"]),
        tuple(card["spacing"]),
        Box(*card["box"]),
        tuple(Box(*b) for b in card["side_boxes"]),
    )


def scan_name(folder: Path) -> str:
    """What a prepared scan is called."""
    return json.loads((folder / "scan.json").read_text(encoding="utf-8"))["name"]


def scan_source(folder: Path) -> Path | None:
    """The file that a prepared scan was read from, or the first of them."""
    source = json.loads((folder / "scan.json").read_text(encoding="utf-8")).get("source")
    return Path(source) if source else None


def is_prepared(folder: Path) -> bool:
    """Is there a whole scan of this version in ``folder``?"""
    try:
        card = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return card.get("version") == VERSION and all((folder / f).is_file() for f in ("volume.npy", "masks.npy"))


def cache_key(*parts: object) -> str:
    """A folder name that depends on all parts."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


class ScanStore:
    """Prepared scans on a device, of which the latest used stay in its memory up to ``gigabytes``.

    Threads may share it; another process gets an empty one of the same scans.
    """

    def __init__(
        self,
        folders: list[Path],
        window: tuple[float, float],
        gigabytes: float = 4.0,
        device: torch.device = CPU,
    ) -> None:
        self.folders, self.window, self.limit = list(folders), window, gigabytes * 1e9
        self.device = device
        self._begin()

    def _begin(self) -> None:
        self._memory: OrderedDict[int, CachedScan] = OrderedDict()
        self._lock, self._reading = Lock(), [Lock() for _ in self.folders]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __len__(self) -> int:
        return len(self.folders)

    @property
    def bytes(self) -> int:
        """What is held now."""
        with self._lock:
            return sum(scan.bytes for scan in self._memory.values())

    def __getitem__(self, index: int) -> CachedScan:
        # Several threads may read at a time, but each scan is read once.
        with self._reading[index]:
            scan = self._held(index)
            if scan is None:
                scan = self._read(index)
                self._keep(index, scan)
        return scan

    def _held(self, index: int) -> CachedScan | None:
        with self._lock:
            if index in self._memory:
                self._memory.move_to_end(index)
            return self._memory.get(index)

    def _read(self, index: int) -> CachedScan:
        try:
            return load(self.folders[index], self.window, self.device)
        except (OSError, ValueError, KeyError) as error:
            raise ProgressiveRegistrationError(
                f"The prepared scan in {self.folders[index]} cannot be read ({error}): delete that folder."
            ) from error

    def _keep(self, index: int, scan: CachedScan) -> None:
        with self._lock:
            self._memory[index] = scan
            held = sum(s.bytes for s in self._memory.values())
            while len(self._memory) > 1 and held > self.limit:
                held -= self._memory.popitem(last=False)[1].bytes
