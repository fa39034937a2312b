"""Training samples: the truth they come with is the truth, and they depend on their number alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from progressive_training import cache
from progressive_training import phantoms as phantom_module
from progressive_training.cache import MASKS, ScanStore, load, prepare, sides
from progressive_training.deformation import SplineSpec
from progressive_training.phantoms import PhantomStore
from progressive_training.samples import Augmentation, SampleStream, Sampling
from ProgressiveRegistrationLib.geometry import Grid
from scipy.ndimage import map_coordinates
from training_helpers import prepared_chest, small_chest

WINDOW = (-1000.0, -100.0)
PLAIN = Sampling(augmentation=Augmentation.none(), input="intensity")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ScanStore:
    folder = tmp_path_factory.mktemp("prepared")
    return ScanStore([prepared_chest(folder / "0", 0), prepared_chest(folder / "1", 1)], WINDOW)


def warp(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """image(i + u(i)) by scipy, for u (3, D, H, W) x, y, z in voxels."""
    n = image.shape[0]
    z, y, x = np.meshgrid(*[np.arange(n)] * 3, indexing="ij")
    return map_coordinates(image, [z + target[2], y + target[1], x + target[0]], order=1, mode="nearest")


GEOMETRY = replace(
    Augmentation(), density=0.0, noise=0.0, blur_share=0.0, masked_share=0.0, box_change_share=1.0
)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation.none(),
        GEOMETRY,
        replace(GEOMETRY, one_lung_share=1.0),
        replace(GEOMETRY, large_share=1.0),
    ],
    ids=["paper", "boxes and flips", "one lung", "large"],
)
def test_the_moving_image_warped_with_the_target_is_the_fixed_image(store, augmentation):
    stream = SampleStream(store, replace(PLAIN, augmentation=augmentation), seed=1)
    inner = slice(20, -20)
    for number in (0, 1):
        sample = stream.sample(number, 128, 128)
        fixed, moving = sample.images[0].numpy()
        error = np.abs(warp(moving, sample.target[0].numpy()) - fixed)[inner, inner, inner]
        before = np.abs(moving - fixed)[inner, inner, inner]
        # What is left is interpolation; the deformation itself moves edges by many voxels.
        assert error.mean() < 0.1 * before.mean()


def test_flips_mirror_the_patient(store):
    still = {name: SplineSpec(2, (0.0, 0.0, 0.0)) for name in ("t1", "t21", "t22")}
    options = replace(PLAIN, table=still, augmentation=replace(Augmentation.none(), flip=True))
    plain = SampleStream(store, replace(PLAIN, table=still), 3).sample(0, 64, 64, scan=0).images
    seen = set()
    for number in range(6):
        images = SampleStream(store, options, 3).sample(number, 64, 64, scan=0).images
        flipped = torch.allclose(images, plain.flip(-1), atol=1e-4)
        assert flipped or torch.allclose(images, plain, atol=1e-4)
        seen.add(flipped)
    assert seen == {True, False}


def test_small_motion_ranges_from_none_to_the_whole(store):
    def lengths(share: float) -> np.ndarray:
        options = replace(Augmentation.none(), box_change=0.04, box_change_share=1.0, small_share=share)
        stream = SampleStream(store, replace(PLAIN, augmentation=options), seed=5)
        return np.array([float(stream.sample(k, 64, 8).target.norm(dim=1).mean()) for k in range(40)])

    whole, small = lengths(0.0), lengths(1.0)
    assert small.min() < 0.2 * whole.min()
    assert small.mean() == pytest.approx(whole.mean() / 2, rel=0.25)


def test_a_sample_depends_on_seed_and_number_alone(store):
    first = SampleStream(store, Sampling(), seed=7)
    again = SampleStream(store, Sampling(), seed=7)
    wanted = first.sample(5, 64, 32)
    again.sample(0, 64, 32)
    same = again.sample(5, 64, 32)
    assert torch.equal(wanted.images, same.images)
    assert torch.equal(wanted.target, same.target)
    others = [
        SampleStream(store, Sampling(), seed=8).sample(5, 64, 32),
        SampleStream(store, Sampling(), seed=7, name="validate").sample(5, 64, 32),
        first.sample(6, 64, 32),
    ]
    for other in others:
        assert not torch.equal(wanted.target, other.target)


def test_held_out_samples_are_the_same_however_a_configuration_augments(store):
    table = {name: SplineSpec(2, (1.0, 1.0, 1.0)) for name in ("t1", "t21", "t22")}
    other = Sampling(augmentation=Augmentation.none(), table=table)
    for number in (0, 1):
        ours, theirs = (SampleStream.held_out(store, s).sample(number, 64, 32) for s in (Sampling(), other))
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.target, theirs.target)
        assert torch.equal(ours.lung, theirs.lung)


def test_coarse_and_fine_sampling_show_the_same_pair(store):
    stream = SampleStream(store, replace(PLAIN, input="gradient"), seed=2)
    coarse, fine = stream.sample(0, 64, 32), stream.sample(0, 128, 32)
    assert torch.equal(coarse.target, fine.target)
    assert torch.allclose(coarse.lung, fine.lung, atol=1e-5)
    pooled = [torch.nn.functional.avg_pool3d(s.images, s.images.shape[-1] // 16) for s in (coarse, fine)]
    flat = torch.stack([p.flatten() for p in pooled])
    assert torch.corrcoef(flat)[0, 1] > 0.9
    assert 0.75 < float(pooled[0].mean() / pooled[1].mean()) < 1.35


def test_a_levels_target_is_the_mean_of_the_fine_one(store):
    stream = SampleStream(store, PLAIN, seed=2)
    fine, coarse = stream.sample(3, 128, 128), stream.sample(3, 64, 16)
    pooled = torch.nn.functional.avg_pool3d(fine.target, 8)
    assert (coarse.target - pooled).abs().mean() < 0.02
    assert (coarse.target - pooled).abs().max() < 0.3  # at the border
    assert coarse.target.shape == (1, 3, 16, 16, 16)
    assert coarse.weight.shape == (1, 1, 16, 16, 16)


def test_the_loss_weighs_lung_over_the_rest_of_the_body(store):
    sample = SampleStream(store, replace(PLAIN, lung_weight=10.0), seed=2).sample(0, 64, 64)
    lung, weight = sample.lung[0, 0], sample.weight[0, 0]
    assert torch.allclose(weight[lung == 1], torch.tensor(10.0))
    outside = weight[lung == 0]
    assert set(outside.unique().tolist()) <= {0.0, 1.0}
    assert (outside == 1).any()


def test_the_mask_moves_with_t1_as_printed_or_with_the_fixed_image(store):
    options = replace(PLAIN, lung_weight=1.0, mask="body")
    fixed = SampleStream(store, replace(options, mask_moved_with="t1t2"), 2).sample(1, 64, 64)
    moving = SampleStream(store, replace(options, mask_moved_with="t1"), 2).sample(1, 64, 64)
    tissue = fixed.images[0] > 0.9  # soft tissue in the fixed and in the moving image
    agreement = [
        [float((mask.weight[0, 0] > 0)[tissue[channel]].float().mean()) for channel in (0, 1)]
        for mask in (fixed, moving)
    ]
    assert agreement[0][0] > agreement[1][0]
    assert agreement[1][1] > agreement[0][1]


def test_density_noise_and_blur_change_the_images_but_not_the_truth(store):
    plain = SampleStream(store, PLAIN, 4).sample(2, 64, 64)
    for change in ({"density": 0.5}, {"noise": 0.05}, {"blur_share": 1.0}):
        options = replace(PLAIN, augmentation=replace(Augmentation.none(), **change))
        other = SampleStream(store, options, 4).sample(2, 64, 64)
        assert torch.equal(plain.target, other.target)
        assert not torch.equal(plain.images, other.images)


def test_density_changes_lung_but_neither_air_nor_tissue(store):
    plain = SampleStream(store, PLAIN, 4).sample(2, 64, 64).images
    options = replace(PLAIN, augmentation=replace(Augmentation.none(), density=0.5))
    other = SampleStream(store, options, 4).sample(2, 64, 64).images
    change = (other - plain).abs()
    assert change[plain == 0].max() == 0
    assert change[plain == 1].max() == 0
    assert change[(plain > 0.1) & (plain < 0.3)].mean() > 0.005


def test_gryds_as_generator_gives_the_same_sample_but_for_interpolation(store):
    pytest.importorskip("gryds")
    fast = SampleStream(store, PLAIN, 5).sample(0, 64, 16)
    slow = SampleStream(store, replace(PLAIN, generator="gryds"), 5).sample(0, 64, 16)
    assert (fast.target - slow.target).abs().max() < 0.05
    assert not torch.equal(fast.target, slow.target)


def test_a_prepared_scan_keeps_what_the_image_showed(store, tmp_path):
    image = small_chest(0)
    scan = store[0]
    rng = np.random.default_rng(0)
    index = rng.uniform(2, np.array(scan.volume.shape[::-1]) - 3, (500, 3)).round()
    world = np.asarray(scan.origin) + index * np.asarray(scan.spacing)
    import SimpleITK as sitk

    at = Grid.from_image(image).world_to_index(world)
    values = map_coordinates(sitk.GetArrayFromImage(image).astype(float), at.T[::-1], order=1, mode="nearest")
    expected = np.clip((values + 1000) / 900, 0, 1)
    i = index.astype(int)
    assert np.abs(scan.volume.numpy()[i[:, 2], i[:, 1], i[:, 0]] - expected).max() < 0.01


def test_lungs_are_told_apart_into_right_and_left(store):
    masks = dict(zip(MASKS, store[0].masks.numpy() > 0))
    x = np.arange(masks["lung"].shape[2])
    assert not (masks["right"] & masks["left"]).any()
    assert (masks["right"] | masks["left"]).sum() == masks["lung"].sum()
    assert (masks["right"].sum((0, 1)) * x).sum() / masks["right"].sum() < (
        masks["left"].sum((0, 1)) * x
    ).sum() / masks["left"].sum()
    one = np.zeros((30, 30, 30), bool)
    one[5:25, 5:25, 5:15] = True
    assert not sides(one)[0].any()


def test_the_bore_mask_is_the_papers_circle(store, tmp_path):
    prepare(small_chest(0), tmp_path / "scan", "scan")
    scan = load(tmp_path / "scan", WINDOW)
    bore = scan.masks[MASKS.index("bore")].numpy() > 0
    shape = bore.shape
    grid = Grid(shape[::-1], tuple(2 * s for s in scan.spacing), np.asarray(scan.origin) + 0.75)
    # The slice of the chest spans 300 x 220 mm about the origin; the circle has 250 / 256 of half of it.
    x, y, _ = np.moveaxis(grid.points(), -1, 0)
    radius = np.sqrt((x / 150) ** 2 + (y / 110) ** 2)
    radius, bore = radius[5:-5], bore[5:-5]  # the lattice may begin and end past the image
    assert bore[radius < 250 / 256 - 0.03].all()
    assert not bore[radius > 250 / 256 + 0.03].any()


def test_memory_is_bounded_and_reloading_gives_the_same(store):
    small = ScanStore(store.folders, WINDOW, gigabytes=1e-6)
    first = small[0].volume.clone()
    small[1]
    assert len(small._memory) == 1
    assert torch.equal(small[0].volume, first)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> PhantomStore:
    small = {"size": (80, 80, 64), "spacing": (4.4, 4.4, 5.0), "tips": 800, "landmarks": 20}
    folder = tmp_path_factory.mktemp("phantoms")
    return PhantomStore(folder, 1, WINDOW, report=lambda text: None, **small)


@pytest.mark.parametrize("kind", ["scans", "phantoms"])
def test_threads_share_what_is_in_memory(store, phantoms, kind, monkeypatch):
    """Four threads that want the same one at once: it is read once, and all get it."""
    if kind == "scans":
        shared, module, name = ScanStore(store.folders, WINDOW), cache, "load"
    else:
        monkeypatch.setattr(phantoms, "_memory", {})
        shared, module, name = phantoms, phantom_module, "load_phantom"
    read, loads = getattr(module, name), []

    def slow(*arguments):
        loads.append(arguments)
        time.sleep(0.2)
        return read(*arguments)

    monkeypatch.setattr(module, name, slow)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(shared.__getitem__, [0] * 4))
    assert len(loads) == 1
    assert all(one is found[0] for one in found)


def test_a_phantom_pair_comes_with_the_phantoms_motion(store, phantoms):
    """Moving warped with the target looks like fixed, in lungs that slide and change their density."""
    augmentation = replace(GEOMETRY, phantom_share=1.0, one_lung_share=0.0, box_margin=(0.0, 0.05))
    stream = SampleStream(store, replace(PLAIN, augmentation=augmentation), 1, phantoms=phantoms)
    names = set()
    for number in range(3):
        sample = stream.sample(number, 128, 128)
        names.add(sample.scan)
        fixed, moving = sample.images[0].numpy()
        lung = sample.lung[0, 0].numpy() > 0.99
        lung[:, :, [0, -1]] = False

        def likeness(other, fixed=fixed, lung=lung):
            return np.corrcoef(fixed[lung], other[lung])[0, 1]

        warped = warp(moving, sample.target[0].numpy())
        assert likeness(warped) > 0.95
        assert 1 - likeness(warped) < 0.4 * (1 - likeness(moving))
    assert names == {"phantom 1000 exhale", "phantom 1000 inhale"}


def test_boxes_of_a_phantom_pair_are_matched_as_the_engine_matches_them(store, phantoms):
    """Else a network would learn from the made-up chests what it never meets: boxes that lie apart."""
    augmentation = replace(GEOMETRY, phantom_share=1.0, box_margin=(0.0, 0.05), box_change_share=0.0)
    matched = replace(PLAIN, augmentation=augmentation)
    apart = replace(matched, augmentation=replace(augmentation, box_change=0.06, box_change_share=1.0))

    def moved(sampling: Sampling) -> float:
        found = []
        for number in range(6):
            sample = SampleStream(store, sampling, 1, phantoms=phantoms).sample(number, 64, 32)
            mm = (sample.target[0] * torch.tensor(sample.spacing).view(3, 1, 1, 1)).norm(dim=0)
            found.append(float((mm * sample.lung[0, 0]).sum() / sample.lung.sum()))
        return float(np.mean(found))

    pair = phantoms[0]
    u = pair.forward.norm(dim=0)
    assert moved(matched) < 0.7 * float(u[u > 1].mean())
    assert moved(matched) < 0.6 * moved(apart)


def test_phantoms_and_scans_are_mixed_by_share_and_coarse_samples_agree(store, phantoms):
    augmentation = replace(Augmentation(), phantom_share=0.5)
    stream = SampleStream(store, replace(PLAIN, augmentation=augmentation), 1, phantoms=phantoms)
    samples = [stream.sample(number, 64, 8) for number in range(8)]
    made = sum(s.scan.startswith("phantom") for s in samples)
    assert 1 <= made <= 7
    number = next(i for i, s in enumerate(samples) if s.scan.startswith("phantom"))
    fine = stream.sample(number, 128, 64).target
    coarse = stream.sample(number, 64, 16).target
    assert torch.allclose(torch.nn.functional.avg_pool3d(fine, 4), coarse, atol=1e-3)
