"""Pairs of made-up breathing chests as training samples: sliding lungs and real density change,
with exact truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from ProgressiveRegistrationLib.files import replacing, write_text
from ProgressiveRegistrationLib.geometry import Box, Grid
from ProgressiveRegistrationLib.lungs import find_lungs, matched_boxes

from .cache import CPU, VERSION, CachedScan, is_prepared, load, prepare

TRUTH_SPACING = 4.0  # mm; the motion is smooth but at the pleura, which slides


@dataclass(frozen=True)
class PhantomPair:
    """Exhale and inhale of one made-up chest, prepared, with the maps between them.

    boxes : of exhale and inhale, matched as the engine matches them.
    forward, backward : (3, z, y, x) float32 mm (x, y, z in LPS) from exhale to inhale and back, on ``truth``.
    """

    exhale: CachedScan
    inhale: CachedScan
    boxes: tuple[Box, Box]
    truth: Grid
    forward: torch.Tensor
    backward: torch.Tensor


def prepare_phantom(seed: int, folder: Path, **options: Any) -> None:
    """Make a phantom and write it, prepared, into ``folder``.
    Its breath and its disease follow from the seed.

    ``options`` go to ``breathing_thorax``, over what is drawn.
    """
    from ProgressiveRegistrationLib.phantom.pair import breathing_thorax, true_displacement

    rng = np.random.default_rng([seed, 4])
    drawn = {
        "amplitude": float(rng.uniform(8, 30)),
        "kernel": str(rng.choice(["soft", "standard", "sharp"])),
        "contrast": float(rng.choice([0.0, 150.0])),
        "emphysema": float(rng.choice([0.0, 0.2])),
        "consolidation": float(rng.choice([0.0, 0.1])),
        "noise": float(rng.uniform(5, 25)),
    }
    pair = breathing_thorax(seed, **{**drawn, **options})
    lungs = []
    for phase in ("exhale", "inhale"):
        image = getattr(pair, phase)
        lungs.append(find_lungs(image, mask=getattr(pair, f"{phase}_lungs"), name=f"phantom {seed}"))
        prepare(image, folder / phase, f"phantom {seed} {phase}", lungs=lungs[-1])
    truth = Grid.from_image(pair.exhale).with_spacing(TRUTH_SPACING)
    for name, inverse in (("forward", False), ("backward", True)):
        field = np.moveaxis(true_displacement(pair.motion, truth, inverse=inverse), -1, 0)
        with replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, np.ascontiguousarray(field, np.float16), allow_pickle=False)
    card = {
        "version": VERSION,
        "size": truth.size,
        "spacing": truth.spacing,
        "origin": truth.origin,
        "boxes": [box.to_list() for box in matched_boxes(*lungs)],
    }
    write_text(folder / "truth.json", json.dumps(card))


def load_phantom(folder: Path, window: tuple[float, float], device: torch.device = CPU) -> PhantomPair:
    """Read what ``prepare_phantom`` wrote; tensors lie on ``device``."""
    card = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    forward, backward = (
        torch.from_numpy(np.load(folder / f"{name}.npy", allow_pickle=False)).to(device).float()
        for name in ("forward", "backward")
    )
    truth = Grid(card["size"], card["spacing"], card["origin"])
    exhale, inhale = (load(folder / phase, window, device) for phase in ("exhale", "inhale"))
    first, second = (Box(*corners) for corners in card["boxes"])
    return PhantomPair(exhale, inhale, (first, second), truth, forward, backward)


class PhantomStore:
    """``count`` phantoms on a device, made once in ``cache``; the last few used stay in its memory.

    Threads may share it; another process gets an empty one of the same phantoms.
    """

    def __init__(
        self,
        cache: Path,
        count: int,
        window: tuple[float, float],
        report: Callable[[str], None] = print,
        kept: int = 16,
        device: torch.device = CPU,
        **options: Any,
    ) -> None:
        self.window, self.kept, self.device, self._lock = window, kept, device, Lock()
        self._memory: dict[int, PhantomPair] = {}
        self.folders = [cache / f"phantom-{seed:04d}" for seed in range(1000, 1000 + count)]
        for number, folder in enumerate(self.folders, 1):
            if not _is_whole(folder):
                report(f"Making phantom {number} of {count}")
                prepare_phantom(1000 + number - 1, folder, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._memory, self._lock = {}, Lock()

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> PhantomPair:
        with self._lock:
            if index not in self._memory:
                while len(self._memory) >= self.kept:
                    self._memory.pop(next(iter(self._memory)))
                self._memory[index] = load_phantom(self.folders[index], self.window, self.device)
            return self._memory[index]


def _is_whole(folder: Path) -> bool:
    try:
        card = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        card.get("version") == VERSION
        and "boxes" in card
        and all(is_prepared(folder / p) for p in ("exhale", "inhale"))
    )
