"""What is told about lungs and masks that cannot be right, or are only partly there; on made-up chests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import NoLungError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.lungs import find_lungs
from ProgressiveRegistrationLib.orientation import mirrored, upside_down
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationLib.registration import register
from scipy import ndimage


@pytest.fixture(scope="module")
def thorax():
    return breathing_thorax(1, size=(96, 96, 96), spacing=(3.5, 3.5, 3.2), landmarks=60)


def with_values(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    return Grid.from_image(image).image(values)


def flipped(image: sitk.Image, axis: int | tuple[int, ...]) -> sitk.Image:
    return with_values(image, np.ascontiguousarray(np.flip(sitk.GetArrayFromImage(image), axis)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hu: np.clip(hu, -1024, 3000) + 1024, r"HU \+ 1024"),
        (lambda hu: np.clip((hu + 1000) / 1000, 0, 1).astype(np.float32), "was scaled"),
    ],
)
def test_intensities_inside_a_given_mask_must_be_those_of_lung(thorax, change, words):
    hu = sitk.GetArrayFromImage(thorax.fixed).astype(np.int32)
    image = with_values(thorax.fixed, change(hu))
    with pytest.raises(
        NoLungError, match=f"median intensity inside it is .* near -850 HU; perhaps .*{words}"
    ):
        find_lungs(image, mask=thorax.fixed_lungs, name="it", mask_name="m.nrrd")


def test_a_mask_of_the_wrong_place_is_told(thorax):
    assert find_lungs(thorax.fixed, mask=thorax.fixed_lungs).notes == []
    for wrong in (sitk.Cast(thorax.fixed_lungs == 0, sitk.sitkUInt8), thorax.fixed > -300):
        with pytest.raises(NoLungError, match="the mask is inverted, or of another organ"):
            find_lungs(thorax.fixed, mask=wrong, mask_name="m.nrrd")
    # with as much of something else, a mask is noted only
    lungs = sitk.GetArrayFromImage(thorax.fixed_lungs) > 0
    more = ndimage.binary_dilation(lungs, iterations=8)
    found = find_lungs(thorax.fixed, mask=with_values(thorax.fixed, more.astype(np.uint8)), mask_name="m")
    assert any("Much of the lung mask m shows no lung" in note for note in found.notes)


def test_a_flipped_scan_is_told_and_two_phases_are_not(thorax):
    fixed, moving = find_lungs(thorax.fixed), find_lungs(thorax.moving)
    assert mirrored(fixed, moving) is None
    ways = {0: "head to feet", 1: "front to back", 2: "left to right", (1, 2): "by half a turn"}
    for axis, way in ways.items():
        assert (mirrored(fixed, replace(moving, mask=flipped(moving.mask, axis))) or "").startswith(way)


def test_scans_upside_down_are_told_each_by_itself(thorax):
    up = {"fixed": thorax.fixed, "moving": thorax.moving}
    for down, said in (
        (("fixed", "moving"), "The fixed and the moving lungs"),
        (("fixed",), "The fixed lungs"),
    ):
        images = {k: flipped(v, 0) if k in down else v for k, v in up.items()}
        result = register(images["fixed"], images["moving"], model="none", preset="fast")
        (note,) = [n for n in result.notes if "upside down" in n]
        assert note.startswith(f"{said} stand upside down")
    assert not any(upside_down(find_lungs(image)) for image in up.values())
    cut = find_lungs(flipped(thorax.moving[:, :, :58], 0))  # without apices it cannot be known
    assert not upside_down(cut)


def test_no_lung_gives_the_images_size(thorax):
    image = sitk.Image(thorax.fixed)
    image.SetSpacing((0.35, 0.35, 0.32))  # cm taken for mm
    with pytest.raises(NoLungError, match=r"the image is 33\.6 x 33\.6 x 30\.72 mm"):
        find_lungs(image)


def test_lungs_that_leave_one_image_take_the_box_that_explains_the_images(thorax):
    lower = thorax.moving[:, :, :58]
    lungs = find_lungs(lower)
    assert lungs.cut == ("top",)
    assert any("border (top)" in note for note in lungs.notes)
    inside = thorax.moving_landmarks.points[:, 2] < lower.TransformIndexToPhysicalPoint((0, 0, 54))[2]
    assert inside.sum() > 4
    errors = {}
    for boxes in ("own", "shared"):
        result = register(thorax.fixed, lower, model="none", preset="fast", lung_boxes=boxes)
        moved = result.field.warp_points(thorax.fixed_landmarks.points[inside])
        errors[boxes] = np.linalg.norm(moved - thorax.moving_landmarks.points[inside], axis=1).mean()
        if boxes == "own":
            assert result.lung_boxes == "shared"
            assert any("better than own boxes" in note for note in result.notes)
    assert errors["own"] == pytest.approx(errors["shared"])
    whole = register(thorax.fixed, thorax.moving, model="none", preset="fast")
    assert whole.lung_boxes == "own"
    assert whole.notes == []


def chest_with_bowel(neck: bool) -> sitk.Image:
    """4 mm voxels: a body with two lungs, and gas below the left one, joined to it by a neck or not."""
    z, y, x = np.mgrid[:80, :64, :80].astype(float)
    rng = np.random.default_rng(0)
    hu = np.full(z.shape, -1000.0)
    hu[((x - 40) / 36) ** 2 + ((y - 32) / 26) ** 2 < 1] = 40
    texture = ndimage.gaussian_filter(rng.standard_normal(z.shape), 1.2)
    for side in (-1, 1):
        lung = ((x - 40 - side * 17) / 12) ** 2 + ((y - 32) / 17) ** 2 + ((z - 50) / 25) ** 2 < 1
        hu[lung] = (-820 + 400 * texture)[lung]
    bowel = ((x - 57) / 7) ** 2 + ((y - 32) / 9) ** 2 + ((z - 12) / 8) ** 2 < 1
    hu[bowel] = np.where(texture > 0.15, -600, -990)[bowel]
    if neck:
        hu[18:28, 31:33, 56:58] = -800
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    image.SetSpacing((4.0, 4.0, 4.0))
    return image


def test_bowel_gas_that_touches_the_lung_is_not_taken_for_it():
    apart, joined = find_lungs(chest_with_bowel(False)), find_lungs(chest_with_bowel(True))
    assert joined.volume_litres == pytest.approx(apart.volume_litres, rel=0.02)
    assert joined.box.lower[2] > 60  # the lungs end at 100, the gas at 16: a stump of the neck may stay


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6])
def test_one_lung_cut_by_side_and_top_is_found(thorax, share):
    lungs = find_lungs(thorax.moving)
    grid = Grid.from_image(thorax.moving)
    low = np.floor(grid.world_to_index(np.asarray(lungs.box.lower) + 4)).astype(int)
    high = np.ceil(grid.world_to_index(lungs.box.upper)).astype(int)
    middle = int(grid.world_to_index(lungs.box.centre)[0])
    top = int(low[2] + share * (high[2] - low[2]))
    part = thorax.moving[low[0] + 2 : middle - 4, low[1] : high[1], low[2] : top]
    found = find_lungs(part)
    truth = sitk.GetArrayFromImage(
        thorax.moving_lungs[low[0] + 2 : middle - 4, low[1] : high[1], low[2] : top]
    )
    assert found.volume_litres == pytest.approx(truth.sum() * np.prod(grid.spacing) / 1e6, rel=0.15)
