"""The breathing thorax: its truth is exact, its anatomy sound, its errors clear."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import SimpleITK as sitk
from ProgressiveRegistrationLib.errors import InputError, OutputError
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.landmarks import read_landmarks
from ProgressiveRegistrationLib.phantom.motion import Motion
from ProgressiveRegistrationLib.phantom.pair import ThoraxPair, breathing_thorax, write_pair
from ProgressiveRegistrationLib.phantom.scanner import draw_tubes
from scipy.ndimage import binary_erosion, label

# Coarser than the default, so that the file stays fast; the field is sampled as coarsely as anyone would.
SMALL = {"size": (96, 80, 80), "spacing": (3.5, 3.5, 4.0)}


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


@pytest.fixture(scope="module")
def pair() -> ThoraxPair:
    return breathing_thorax(7, **SMALL)


@pytest.fixture(scope="module")
def quiet() -> ThoraxPair:
    """No noise, no sub-voxel vessels in the way: for comparing intensities."""
    return breathing_thorax(7, **SMALL, noise=0.0)


def interpolated(image: sitk.Image, points: np.ndarray) -> np.ndarray:
    return np.array([image.EvaluateAtPhysicalPoint([float(v) for v in p], sitk.sitkLinear) for p in points])


def test_images_masks_and_landmarks_have_the_promised_form(pair):
    assert pair.fixed is pair.exhale
    assert pair.moving is pair.inhale
    for image in (pair.inhale, pair.exhale):
        assert image.GetPixelID() == sitk.sitkInt16
        assert image.GetSize() == SMALL["size"]
        assert image.GetSpacing() == pytest.approx(SMALL["spacing"])
    for mask in (pair.inhale_lungs, pair.exhale_lungs):
        assert mask.GetPixelID() == sitk.sitkUInt8
        assert Grid.from_image(mask) == Grid.from_image(pair.inhale)
    fixed, moving = pair.fixed_landmarks, pair.moving_landmarks
    assert len(fixed.points) >= 300
    assert fixed.points.shape == moving.points.shape
    assert fixed.labels == moving.labels
    assert len(set(fixed.labels)) == len(fixed.labels)
    for side in (fixed.points[:, 0] < 0, fixed.points[:, 0] > 0):
        assert side.sum() > 80


def test_true_field_carries_fixed_landmarks_onto_moving_ones(pair):
    fixed, moving = pair.fixed_landmarks.points, pair.moving_landmarks.points
    before = np.linalg.norm(fixed - moving, axis=1)
    assert before.mean() > 5  # the test means nothing without motion
    after = np.linalg.norm(pair.field.warp_points(fixed) - moving, axis=1)
    assert after.max() < 0.05
    # The same with ITK's own interpolation of the field.
    transform = pair.field.to_transform()
    itk = np.array([transform.TransformPoint(p.tolist()) for p in fixed])
    assert np.linalg.norm(itk - moving, axis=1).max() < 0.05


def test_inverse_field_carries_moving_landmarks_back(pair):
    fixed, moving = pair.fixed_landmarks.points, pair.moving_landmarks.points
    assert np.linalg.norm(pair.inverse_field.warp_points(moving) - fixed, axis=1).max() < 0.05


def test_exact_maps_are_each_others_inverse():
    motion = breathing_motion(3, 25.0)
    rng = np.random.default_rng(0)
    points = rng.uniform((-120, -80, -120), (120, 80, 120), (3000, 3))
    points = points[motion.anatomy.lung_distance(*points.T) < 10]
    assert len(points) > 500
    assert np.abs(motion.lung(motion.lung_inverse(points)) - points).max() < 0.01
    assert np.abs(motion.wall(motion.wall_inverse(points)) - points).max() < 0.01


def breathing_motion(seed: int, amplitude: float) -> Motion:
    from ProgressiveRegistrationLib.phantom.anatomy import Anatomy

    rng = np.random.default_rng(seed)
    return Motion.draw(rng, Anatomy.draw(rng), amplitude)


def test_inhale_resampled_through_the_true_field_is_exhale_but_for_density(quiet):
    grid = Grid.from_image(quiet.exhale)
    warped = array(quiet.field.warp_image(quiet.inhale, quiet.exhale)).astype(float)
    exhale, inhale = array(quiet.exhale).astype(float), array(quiet.inhale).astype(float)
    inside = binary_erosion(array(quiet.exhale_lungs) > 0, iterations=2)
    determinant = quiet.motion.jacobian_determinant(grid.points()[inside])
    expected = (warped[inside] + 1000) * determinant - 1000
    lung = (warped[inside] < -700) & (expected < -600)  # away from vessels, which keep their density
    assert lung.mean() > 0.6
    error = np.abs(expected - exhale[inside])[lung]
    # Without the density change, and without the motion, it does not fit.
    still = np.abs(warped[inside] - exhale[inside])[lung]
    unmoved = np.abs(inhale[inside] - exhale[inside])[lung]
    assert np.median(error) < 13
    assert np.median(still) > 1.6 * np.median(error)
    assert np.mean(error) < 0.5 * np.mean(unmoved)
    # Vessels too: the warped image goes with exhale, the unmoved one does not.
    assert np.corrcoef(warped[inside], exhale[inside])[0, 1] > 0.85
    assert np.corrcoef(inhale[inside], exhale[inside])[0, 1] < 0.5


def test_lung_mass_is_kept(quiet):
    mass = []
    for image, mask in ((quiet.inhale, quiet.inhale_lungs), (quiet.exhale, quiet.exhale_lungs)):
        hu, lung = array(image).astype(float), array(mask) > 0
        mass.append((hu[lung] + 1000).sum())
    volume = [array(m).sum() for m in (quiet.inhale_lungs, quiet.exhale_lungs)]
    assert volume[0] > 1.08 * volume[1]
    assert mass[0] == pytest.approx(mass[1], rel=0.04)


def test_lung_slides_along_the_ribs():
    motion = breathing_motion(1, 20.0)
    anatomy = motion.anatomy
    rng = np.random.default_rng(1)
    p = rng.uniform((-140, -100, -110), (140, 100, 60), (60000, 3))
    body = motion.wall(p)
    pleura = p[np.abs(anatomy.cage_distance(*body.T)) < 0.2]
    assert len(pleura) > 200
    lung, wall = motion.lung(pleura), motion.wall(pleura)
    # Both stay on the same surface, yet they part along it.
    assert np.abs(anatomy.cage_distance(*lung.T)).max() < 0.5
    assert np.linalg.norm(lung - wall, axis=1).mean() > 5


@pytest.mark.parametrize("amplitude", [5.0, 20.0, 40.0])
def test_motion_does_not_fold_the_lung_and_grows_with_the_amplitude(amplitude):
    for seed in range(3):
        motion = breathing_motion(seed, amplitude)
        motion.check()
        axes = [np.arange(-135, 136, 9.0), np.arange(-100, 101, 9.0), np.arange(-150, 130, 9.0)]
        p = np.stack([g.ravel() for g in np.meshgrid(*axes)], -1)
        inside = p[motion.anatomy.lung_distance(*motion.lung(p).T) < 0]
        assert motion.jacobian_determinant(inside).min() > 0.4
        # On the right dome at inhale, the diaphragm went down by about the amplitude.
        dome = np.array([[-60.0, 0.0, motion.anatomy.dome_right]])
        lift = motion.lung_inverse(dome)[0, 2] - dome[0, 2]
        assert 0.6 * amplitude < lift < 1.5 * amplitude


def test_diaphragm_moves_more_at_the_back_than_at_the_front():
    motion = breathing_motion(2, 20.0)
    front, back = (
        motion.drop(np.float64(-0.5), np.float64(-0.7)),
        motion.drop(np.float64(-0.5), np.float64(0.7)),
    )
    assert back > 1.3 * front


def test_dense_field_does_not_fold_in_the_lung(pair):
    grid = pair.field.grid
    assert max(grid.spacing) <= 2.5
    inside = array(grid.resample(pair.exhale_lungs, interpolator=sitk.sitkNearestNeighbor)) > 0
    determinant = pair.field.jacobian_determinant()[inside]
    assert determinant.min() > 0.3
    exact = pair.motion.jacobian_determinant(grid.points()[inside])
    assert np.median(np.abs(determinant - exact)) < 0.01


def test_same_seed_same_bytes_and_another_seed_another_chest(pair):
    def digest(p):
        parts = [array(p.inhale), array(p.exhale), array(p.inhale_lungs), p.fixed_landmarks.points]
        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in parts)).hexdigest()

    assert digest(breathing_thorax(7, **SMALL)) == digest(pair)
    assert digest(breathing_thorax(8, **SMALL)) != digest(pair)


def test_options_do_what_they_say():
    plain = {**SMALL, "tips": 1200, "landmarks": 20, "noise": 0.0}
    quiet = breathing_thorax(7, **plain)
    inhale, lung = array(quiet.inhale), array(quiet.inhale_lungs) > 0
    inside = binary_erosion(lung, iterations=2)

    def made(**options):
        p = breathing_thorax(7, **{**plain, **options})
        assert np.array_equal(array(p.inhale_lungs) > 0, lung)  # one part's option leaves the anatomy alone
        return array(p.inhale)

    heart = (
        Grid.from_image(quiet.inhale)
        .world_to_index([quiet.motion.anatomy.heart_centre])[0]
        .round()
        .astype(int)
    )
    heart = tuple(heart[::-1])
    assert made(contrast=200.0)[inside].max() > inhale[inside].max() + 100
    assert -20 < inhale[heart] < 100
    emphysema = made(emphysema=0.3)
    assert (emphysema[inside] < -915).mean() > (inhale[inside] < -915).mean() + 0.15
    dense = made(consolidation=0.15)
    assert 0.05 < (dense[inside] > -300).mean() - (inhale[inside] > -300).mean() < 0.2
    nodules = made(nodules=12)
    assert (nodules[inside] > -100).sum() > (inhale[inside] > -100).sum() + 20
    noisy = made(noise=40.0).astype(float) - inhale
    assert noisy[inside].std() == pytest.approx(40, rel=0.1)
    sharp = made(noise=40.0, kernel="sharp").astype(float) - made(kernel="sharp")
    assert sharp[inside].std() > 1.4 * noisy[inside].std()
    padded = made(padding=True)
    assert (padded[:, 0, 0] == -2048).all()
    assert (padded[:, 40, 48] > -2048).all()


def test_without_amplitude_nothing_moves():
    pair = breathing_thorax(4, **SMALL, amplitude=0.0, noise=0.0)
    assert np.array_equal(array(pair.inhale), array(pair.exhale))
    assert np.array_equal(pair.fixed_landmarks.points, pair.moving_landmarks.points)


def test_landmarks_lie_on_vessels(quiet):
    """Bright forks on dark lung: a half-voxel shift of one frame would show here."""
    for image, landmarks in (
        (quiet.inhale, quiet.moving_landmarks),
        (quiet.exhale, quiet.fixed_landmarks),
    ):
        vessels = np.array([not name.endswith("airway") for name in landmarks.labels])
        points = landmarks.points[vessels]
        here = interpolated(image, points)
        shifts = [
            np.array(s) * 6.0 for s in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
        ]
        around = np.mean([interpolated(image, points + s) for s in shifts], 0)
        assert np.mean(here - around) > 60
        # Where the images are brightest around the landmarks, on average, is the landmarks themselves.
        offsets = np.linspace(-3, 3, 13)
        for axis in range(3):
            profile = np.array([interpolated(image, points + o * np.eye(3)[axis]).mean() for o in offsets])
            weight = np.maximum(profile - profile.min(), 0) ** 2
            assert abs((weight * offsets).sum() / weight.sum()) < 0.6


def test_two_lungs_of_plausible_volume(pair):
    mask = array(pair.inhale_lungs)
    parts, count = label(mask)
    sizes = np.sort(np.bincount(parts.ravel())[1:])[::-1]
    litres = sizes * np.prod(SMALL["spacing"]) / 1e6
    assert count >= 2
    assert litres[1] > 1.2
    assert 3.0 < litres[:2].sum() < 7.0


def test_tubes_keep_their_volume_however_thin():
    grid = Grid((40, 40, 40), (2.0, 2.0, 2.5), (-40, -40, -50))
    points = np.array([[-20.0, -15, -20], [18, 14, 22]])
    length = np.linalg.norm(points[1] - points[0])
    for radius in (0.4, 1.0, 5.0):
        share = draw_tubes(grid, points, np.array([0]), np.array([1]), np.array([radius]), np.array([radius]))
        volume = share.sum() * 10.0
        assert volume == pytest.approx(np.pi * radius**2 * length, rel=0.03)
    # A thick tube is full on its axis and ends at its radius.
    middle = grid.world_to_index(points.mean(0)).round().astype(int)
    assert share[tuple(middle[::-1])] > 0.97


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing": (0, 1.8, 2.5)}, "spacing must be positive"),
        ({"spacing": (1.8, float("nan"), 2.5)}, "spacing must be positive"),
        ({"size": (8, 192, 128)}, "at least 16 voxels"),
        ({"size": (64, 64, 64)}, "to hold the lungs"),
        ({"size": (64, 64)}, "three sizes"),
        ({"amplitude": 200.0}, "would fold"),
        ({"amplitude": -1.0}, "0 mm or more"),
        ({"amplitude": float("nan")}, "0 mm or more"),
        ({"kernel": "b70f"}, "soft, standard, sharp"),
        ({"emphysema": 1.5}, "emphysema must lie between"),
        ({"consolidation": -0.1}, "consolidation must lie between"),
        ({"noise": -3.0}, "noise must be 0 or more"),
        ({"contrast": float("nan")}, "contrast must be 0 or more"),
        ({"thickness": -1.0}, "thickness must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"landmarks": 0}, "landmarks"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(options, words):
    with pytest.raises(InputError, match=words) as caught:
        breathing_thorax(**{"seed": 0, **SMALL, **options})
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text


def test_a_file_in_the_folders_place_is_refused(pair, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="cannot hold the phantom"):
        write_pair(pair, tmp_path / "taken")
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


def test_written_pair_reads_back_the_same(pair, tmp_path):
    from ProgressiveRegistrationLib.field import DisplacementField

    paths = write_pair(pair, tmp_path / "sample")
    assert all(p.is_file() for p in paths)
    folder = tmp_path / "sample"
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in paths)
    for name, image in (("fixed", pair.fixed), ("moving", pair.moving), ("moving_lungs", pair.moving_lungs)):
        back = sitk.ReadImage(str(folder / f"{name}.nrrd"))
        assert np.array_equal(array(back), array(image))
        assert back.GetOrigin() == pytest.approx(image.GetOrigin())
    fixed, moving = (read_landmarks(folder / f"{name}.mrk.json") for name in ("fixed", "moving"))
    assert fixed.labels == moving.labels
    for name in ("true_field.nrrd", "true_transform.h5"):
        field = DisplacementField.read(folder / name)
        error = np.linalg.norm(field.warp_points(fixed.points) - moving.points, axis=1)
        assert error.max() < 0.05
