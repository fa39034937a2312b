"""A network that is asked more than once: again at what is left, and at the mirror image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ProgressiveRegistrationLib.geometry import Box
from ProgressiveRegistrationLib.network.passes import answer, first_input, later_passes
from scipy import ndimage

SIDE = 32
BOX = Box((0, 0, 0), (64, 64, 64))


def scan(shift: tuple[float, float, float]) -> sitk.Image:
    """A ball of soft tissue in lung, moved by ``shift`` mm (x, y, z); voxels of 1 mm."""
    z, y, x = np.mgrid[:64, :64, :64] + 0.5
    away = np.sqrt(sum((a - 32 - s) ** 2 for a, s in zip((x, y, z), shift)))
    image = sitk.GetImageFromArray((-900 + 700 / (1 + np.exp(away - 9))).astype(np.float32))
    image.SetOrigin((0.5, 0.5, 0.5))
    return image


class Cautious:
    """Finds how far the edges' centre has moved, and says ``share`` of it, everywhere."""

    def __init__(self, share: float, **card) -> None:
        self.share, self.asked = share, 0
        self.card = SimpleNamespace(window=(-1000, -100), sigma=0.5, **card)

    def predict(self, images: torch.Tensor) -> np.ndarray:
        self.asked += 1
        centres = [np.array(ndimage.center_of_mass(i.numpy()))[::-1] for i in images[0]]
        u = self.share * (centres[1] - centres[0])
        return np.broadcast_to(u[:, None, None, None], (3, SIDE, SIDE, SIDE)).astype(np.float32)


def registered(network: Cautious, shift: tuple[float, float, float]) -> np.ndarray:
    fixed, moving = scan((0, 0, 0)), scan(shift)
    grids = BOX.grid(SIDE), BOX.grid(SIDE)
    first = answer(network, first_input(network.card, fixed, moving, grids))
    return later_passes(network, first, fixed, moving, grids)


@pytest.mark.parametrize(("passes", "left"), [(1, 0.4), (2, 0.16), (3, 0.064)])
def test_each_pass_finds_its_share_of_what_the_last_left(passes, left):
    shift = np.array([6.0, -4.0, 2.0])  # mm, of voxels of 2 mm
    network = Cautious(0.6, passes=passes)
    u = registered(network, tuple(shift))
    assert network.asked == passes
    assert np.abs(u - (1 - left) * shift[:, None, None, None] / 2).max() < 0.06


def test_the_mirror_image_is_asked_too_and_its_field_turned_back():
    class Biased(Cautious):
        def predict(self, images: torch.Tensor) -> np.ndarray:
            # Says one voxel more along every axis than there is, whichever way round it is shown the pair.
            return super().predict(images) + np.float32(1)

    shift = np.array([6.0, -4.0, 2.0])
    network = Biased(1.0, mirrored=True)
    u = registered(network, tuple(shift))
    assert network.asked == 2
    assert np.abs(u.mean((1, 2, 3)) - (shift / 2 + [0, 1, 1])).max() < 0.05


def test_a_symmetric_card_lays_a_scan_on_itself_and_gives_the_inverse_of_the_exchanged_pair():
    class Wavy(Cautious):
        """Adds what it should not: a wave, the same whichever image is which."""

        def predict(self, images: torch.Tensor) -> np.ndarray:
            wave = np.sin(np.arange(SIDE) / 4).astype(np.float32)
            return super().predict(images) + wave

    shift = np.array([6.0, -4.0, 2.0])
    network = Wavy(1.0, symmetric=True)
    assert np.abs(registered(network, (0, 0, 0))).max() < 1e-3
    there = registered(network, tuple(shift))
    assert network.asked == 4
    assert np.abs(there.mean((1, 2, 3)) - shift / 2).max() < 0.05

    fixed, moving = scan(tuple(shift)), scan((0, 0, 0))
    grids = BOX.grid(SIDE), BOX.grid(SIDE)
    back = answer(network, first_input(network.card, fixed, moving, grids))
    at = np.stack(np.meshgrid(*3 * [np.arange(SIDE)], indexing="ij")).astype(float) + there[::-1]
    again = there + np.stack([ndimage.map_coordinates(b, at, order=1, mode="nearest") for b in back])
    inside = np.s_[:, 4:-4, 4:-4, 4:-4]  # whence no point leaves the grid
    assert np.abs(again[inside]).max() < 0.05  # voxels


def test_a_card_without_such_wishes_is_asked_once_and_its_field_kept():
    network = Cautious(1.0)
    fixed, moving = scan((0, 0, 0)), scan((2, 0, 0))
    grids = BOX.grid(SIDE), BOX.grid(SIDE)
    first = answer(network, first_input(network.card, fixed, moving, grids))
    assert later_passes(network, first, fixed, moving, grids) is first
    assert network.asked == 1
