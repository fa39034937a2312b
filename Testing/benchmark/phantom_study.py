"""How real is the breathing thorax? Pictures, histograms and a registration's error, beside real scans.

    python Testing/benchmark/phantom_study.py sheet        # five seeds beside a real scan, lung window
    python Testing/benchmark/phantom_study.py figures      # HU, gradient magnitude, vessel volume
    python Testing/benchmark/phantom_study.py motion       # how uneven: phantom and DIR-Lab landmarks
    python Testing/benchmark/phantom_study.py difficulty   # elastix B-spline, TRE before and after
    python Testing/benchmark/phantom_study.py cost         # seconds a pair, by size

Results go to ``--output`` (default build/phantom-study): they hold pictures of real scans, so they stay out
of the repository. What they said is in PHANTOM.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.phantom.pair import SPACING, breathing_thorax
from scipy import ndimage

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = (
    "ct/train/lidc-0001",
    "ct/train/lidc-0002",
    "ct/train/lidc-0003",
    "ct/train/lidc-0314",
    "ct/train/lidc-0350",
    "ct/train/lidc-1028",
    "ct/validation/lung1-002",
)
WINDOW = (-1000, 200)  # HU
HU_BINS = np.arange(-1000, 101, 20)
GRADIENT_BINS = np.arange(0, 301, 6)  # HU / mm


def real_scan(name: str) -> sitk.Image:
    """A real scan averaged onto the phantom's spacing, so that like is compared with like."""
    image = sitk.ReadImage(str(SHARED / f"{name}.nrrd"))
    target = Grid.from_image(image).with_spacing(np.maximum(SPACING, image.GetSpacing()))
    # Averaging over the larger voxel, roughly: the box's variance as a Gaussian.
    sigma = np.sqrt(np.maximum(np.square(target.spacing) - np.square(image.GetSpacing()), 0) / 12)
    smooth = sitk.SmoothingRecursiveGaussian(
        sitk.Cast(image, sitk.sitkFloat32), np.maximum(sigma, 1e-3).tolist()
    )
    if min(sigma) <= 1e-3:
        smooth = sitk.GetImageFromArray(
            ndimage.gaussian_filter(
                sitk.GetArrayFromImage(image).astype(np.float32), (sigma / image.GetSpacing())[::-1]
            )
        )
        smooth.CopyInformation(image)
    return target.resample(smooth, default=-1000)


def lung_mask(image: sitk.Image) -> np.ndarray:
    """(z, y, x) bool: dark voxels inside the body, in large pieces.

    Own code, so that a change of the engine's finder leaves the study's figures as they are.
    """
    hu = ndimage.gaussian_filter(sitk.GetArrayFromImage(image).astype(np.float32), 0.7)
    dark = hu < -400
    for plane in dark:
        pieces, _ = ndimage.label(plane)
        rim = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
        plane[np.isin(pieces, rim)] = False
    # Thin bridges (couch, folds, trachea) go; what is left in large pieces is lung.
    core, _ = ndimage.label(ndimage.binary_erosion(dark, iterations=2))
    size = np.bincount(core.ravel()) * np.prod(image.GetSpacing()) / 1e6
    size[0] = 0
    keep = np.isin(core, np.flatnonzero(size > 0.3))
    return ndimage.binary_dilation(keep, iterations=2) & dark


def measure(image: sitk.Image) -> dict:
    """What the lung of an image looks like: histograms, gradient magnitude, vessel volume, noise.

    The lung is closed over its vessels (8 mm) and taken 5 mm below its surface.
    """
    mask = lung_mask(image)
    spacing = np.array(image.GetSpacing())[::-1]
    outside = ndimage.distance_transform_edt(~mask, spacing)
    closed = ndimage.distance_transform_edt(outside < 8, spacing) > 8
    depth = ndimage.distance_transform_edt(closed, spacing)
    inside = depth > 5
    hu = sitk.GetArrayFromImage(image).astype(np.float32)
    steps = [ndimage.gaussian_filter1d(hu, 1.0, axis=k, order=1) / spacing[k] for k in range(3)]
    gradient = np.sqrt(sum(s * s for s in steps))
    values = hu[inside]
    deep = inside & (depth > 15)
    high = hu - ndimage.gaussian_filter(hu, 1.0)  # what is finer than a voxel or so: noise and small vessels
    return {
        "litres": float(closed.sum() * np.prod(spacing) / 1e6),
        "hu": np.histogram(values, HU_BINS)[0] / len(values),
        "gradient": np.histogram(gradient[inside], GRADIENT_BINS)[0] / inside.sum(),
        "hu_percentiles": np.percentile(values, [1, 5, 25, 50, 75, 95, 99]),
        "gradient_percentiles": np.percentile(gradient[inside], [5, 25, 50, 75, 95, 99]),
        "vessel_percent": {str(t): float(100 * (values > t).mean()) for t in (-700, -600, -500, -300)},
        "vessel_percent_deep": float(100 * (hu[deep] > -500).mean()),
        "vessel_percent_rim": float(100 * (hu[inside & (depth < 15)] > -500).mean()),
        "fine_sd": float(1.4826 * np.median(np.abs(high[inside] - np.median(high[inside])))),
    }


def figures(output: Path, seeds: int) -> None:
    """Table and plot of ``measure`` for real scans and phantoms."""
    rows = {}
    for name in REAL:
        rows[name.split("/")[-1]] = measure(real_scan(name))
    for seed in range(seeds):
        pair = breathing_thorax(seed)
        rows[f"phantom {seed} inhale"] = measure(pair.inhale)
        rows[f"phantom {seed} exhale"] = measure(pair.exhale)
    line = "{:18s} {:>6s} {:>30s} {:>25s} {:>27s} {:>12s} {:>7s}"
    print(
        line.format(
            "",
            "litres",
            "HU p1 p5 p25 p50 p75 p95 p99",
            "gradient p5 .. p99",
            "% above -700 .. -300",
            "deep rim",
            "fine",
        )
    )
    for name, m in rows.items():
        print(
            f"{name:18s} {m['litres']:6.2f} "
            + " ".join(f"{v:5.0f}" for v in m["hu_percentiles"])
            + " | "
            + " ".join(f"{v:5.1f}" for v in m["gradient_percentiles"])
            + " | "
            + " ".join(f"{v:5.2f}" for v in m["vessel_percent"].values())
            + f" | {m['vessel_percent_deep']:5.2f} {m['vessel_percent_rim']:5.2f} | {m['fine_sd']:5.1f}"
        )
    _, axes = plt.subplots(1, 2, figsize=(15, 5.5))
    for axis, key, bins, label in (
        (axes[0], "hu", HU_BINS, "HU"),
        (axes[1], "gradient", GRADIENT_BINS, "gradient magnitude, HU/mm"),
    ):
        middle = 0.5 * (bins[1:] + bins[:-1])
        for name, m in rows.items():
            phantom = name.startswith("phantom")
            style = (
                {"color": "tab:red" if "inhale" in name else "tab:orange"} if phantom else {"color": "0.55"}
            )
            axis.semilogy(middle, np.maximum(m[key], 1e-6), lw=1, **style)
        for group, colour in (("phantom", "darkred"), ("", "black")):
            chosen = [m[key] for n, m in rows.items() if n.startswith("phantom") == bool(group)]
            axis.semilogy(
                middle,
                np.maximum(np.mean(chosen, 0), 1e-6),
                color=colour,
                lw=3,
                label=f"{group or 'real'}, mean",
            )
        axis.set_xlabel(label)
        axis.set_ylabel("share of the lung")
        axis.set_ylim(1e-5, 1)
        axis.legend()
    plt.tight_layout()
    plt.savefig(output / "histograms.png", dpi=80)
    plain = {
        n: {k: np.asarray(v).tolist() if not isinstance(v, dict) else v for k, v in m.items()}
        for n, m in rows.items()
    }
    (output / "figures.json").write_text(json.dumps(plain, indent=1))


def cuts(image: sitk.Image, reference: sitk.Image | None = None) -> list[tuple[np.ndarray, float]]:
    """Coronal, axial and sagittal slices through the lungs (of ``reference``), and each one's aspect."""
    hu = sitk.GetArrayFromImage(image)
    grid = Grid.from_image(image)
    found = np.argwhere(lung_mask(reference or image))[:, ::-1]
    lower, upper = found.min(0), found.max(0)
    middle, right = (np.round(lower + f * (upper - lower)).astype(int) for f in (0.5, 0.27))
    sx, sy, sz = grid.spacing
    return [(hu[::-1, middle[1]], sz / sx), (hu[middle[2]], sy / sx), (hu[::-1, :, right[0]], sz / sy)]


def sheet(output: Path, seeds: int) -> None:
    """Five seeds, inhale, exhale and difference, coronal, axial and sagittal,
    and a real scan in the first row."""
    fig, axes = plt.subplots(seeds + 1, 9, figsize=(9 * 3.2, (seeds + 1) * 3.0))
    fig.patch.set_facecolor("black")
    for axis in axes.ravel():
        axis.axis("off")
    for i, name in enumerate((REAL[0], REAL[3], REAL[6])):
        for k, (cut, aspect) in enumerate(cuts(real_scan(name))):
            axes[0, 3 * k + i].imshow(cut, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], aspect=aspect)
    for seed in range(seeds):
        pair = breathing_thorax(seed)
        difference = sitk.Cast(pair.exhale, sitk.sitkInt32) - sitk.Cast(pair.inhale, sitk.sitkInt32)
        where = cuts(pair.inhale), cuts(pair.exhale, pair.inhale), cuts(difference, pair.inhale)
        for i, three in enumerate(where):
            low, high = WINDOW if i < 2 else (-600, 600)
            for k, (cut, aspect) in enumerate(three):
                axes[seed + 1, 3 * k + i].imshow(cut, cmap="gray", vmin=low, vmax=high, aspect=aspect)
    plt.tight_layout(pad=0.2)
    plt.savefig(output / "sheet.png", dpi=60)


def unexplained(fixed: np.ndarray, moving: np.ndarray) -> tuple[float, float, float]:
    """Mean distance, mm: as it is, after the best affine map, after the best quadratic map of the points."""
    x = fixed - fixed.mean(0)
    affine = np.c_[np.ones(len(x)), x]
    quadratic = np.c_[affine, x**2, x[:, :1] * x[:, 1:2], x[:, 1:2] * x[:, 2:], x[:, :1] * x[:, 2:]]
    left = [np.linalg.norm(moving - fixed, axis=1).mean()]
    for basis in (affine, quadratic):
        rest = moving - basis @ np.linalg.lstsq(basis, moving, rcond=None)[0]
        left.append(np.linalg.norm(rest, axis=1).mean())
    return tuple(left)


def motion(seeds: int) -> None:
    """Landmark motion that an affine and a quadratic map leave over, DIR-Lab 4DCT and phantom."""
    print("case,before,affine,quadratic,affine/before,quadratic/before")
    spacing = (0.97, 1.16, 1.15, 1.13, 1.10, 0.97, 0.97, 0.97, 0.97, 0.97)
    rows = []
    for case, mm in enumerate(spacing, 1):
        folder = SHARED / "landmarks" / "dirlab_4dct"
        inhale, exhale = (
            np.loadtxt(folder / f"case{case}_300_{t}_xyz.txt") * (mm, mm, 2.5) for t in ("T00", "T50")
        )
        rows.append((f"DIR-Lab {case}", unexplained(exhale, inhale)))
    for seed in range(seeds):
        pair = breathing_thorax(seed, size=(96, 80, 80), spacing=(3.5, 3.5, 4.0))
        rows.append(
            (f"phantom {seed}", unexplained(pair.fixed_landmarks.points, pair.moving_landmarks.points))
        )
    for name, (before, affine, quadratic) in rows:
        print(
            f"{name},{before:.2f},{affine:.2f},{quadratic:.2f},{affine / before:.2f},{quadratic / before:.2f}"
        )


def difficulty(output: Path, seeds: int, amplitudes: tuple[float, ...]) -> None:
    """elastix, its default affine and B-spline maps, within the fixed lung mask: TRE before and after, mm."""
    import itk

    def itk_image(image: sitk.Image, kind):
        array = sitk.GetArrayFromImage(image)
        out = itk.image_view_from_array(np.ascontiguousarray(array.astype(kind)))
        out.SetSpacing(image.GetSpacing())
        out.SetOrigin(image.GetOrigin())
        return out

    lines = [
        "amplitude,seed,before,before_p95,after_affine,after_bspline,median,p95,max,rim,deep,lowest,seconds"
    ]
    print(lines[0])
    for amplitude in amplitudes:
        for seed in range(seeds):
            pair = breathing_thorax(seed, amplitude=amplitude)
            fixed, moving = pair.fixed_landmarks.points, pair.moving_landmarks.points
            parameters = itk.ParameterObject.New()
            errors = []
            started = time.process_time()
            stages = [itk.ParameterObject.New().GetDefaultParameterMap(n) for n in ("affine", "bspline")]
            for stage in stages:
                stage["FinalGridSpacingInPhysicalUnits"] = ["15"]
                stage["ErodeMask"] = ["false"]
                parameters.AddParameterMap(stage)
            _, result = itk.elastix_registration_method(
                itk_image(pair.fixed, np.float32),
                itk_image(pair.moving, np.float32),
                parameter_object=parameters,
                fixed_mask=itk_image(sitk.BinaryDilate(pair.fixed_lungs, [4, 4, 3]), np.uint8),
                log_to_console=False,
            )
            seconds = time.process_time() - started
            for count in (1, 2):
                partial = itk.ParameterObject.New()
                for k in range(count):
                    m = dict(result.GetParameterMap(k))
                    partial.AddParameterMap(m)
                errors.append(np.linalg.norm(transformed(itk, partial, pair, fixed) - moving, axis=1))
            before = np.linalg.norm(fixed - moving, axis=1)
            a, b = errors
            # Where the error sits: within 10 mm of the lung's surface, deeper, in the lowest fifth.
            rim = pair.motion.anatomy.lung_distance(*moving.T) > -10
            low = fixed[:, 2] < np.percentile(fixed[:, 2], 20)
            lines.append(
                f"{amplitude:g},{seed},{before.mean():.2f},{np.percentile(before, 95):.2f},{a.mean():.2f},"
                f"{b.mean():.2f},{np.median(b):.2f},{np.percentile(b, 95):.2f},{b.max():.2f},"
                f"{b[rim].mean():.2f},{b[~rim].mean():.2f},{b[low].mean():.2f},{seconds:.0f}"
            )
            print(lines[-1], flush=True)
    (output / "difficulty.csv").write_text("\n".join(lines) + "\n")


def transformed(itk, parameters, pair, points: np.ndarray) -> np.ndarray:
    """Points through elastix's transform, by its dense deformation field on the fixed image's grid."""
    moving = itk.image_view_from_array(sitk.GetArrayFromImage(pair.moving).astype(np.float32))
    moving.SetSpacing(pair.moving.GetSpacing())
    moving.SetOrigin(pair.moving.GetOrigin())
    field = itk.transformix_deformation_field(moving, parameters)
    u = itk.array_from_image(field)
    index = Grid.from_image(pair.fixed).world_to_index(points)[:, ::-1].T
    return points + np.stack([ndimage.map_coordinates(u[..., k], index, order=1) for k in range(3)], -1)


def cost() -> None:
    """Seconds to make a pair, to know its field, and to know the inverse."""
    for size, spacing in (
        ((192, 192, 128), (1.8, 1.8, 2.5)),
        ((128, 128, 128), (2.6, 2.6, 2.4)),
        ((96, 96, 96), (3.5, 3.5, 3.2)),
    ):
        clock, cpu = time.perf_counter(), time.process_time()
        pair = breathing_thorax(0, size=size, spacing=spacing)
        made = time.perf_counter() - clock, time.process_time() - cpu
        clock = time.process_time()
        _ = pair.field
        field = time.process_time() - clock
        clock = time.process_time()
        _ = pair.inverse_field
        inverse = time.process_time() - clock
        times = f"pair {made[0]:.1f} s ({made[1]:.1f} CPU s), field {field:.1f}, inverse {inverse:.1f} CPU s"
        print(f"{size} {spacing}: {times}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sheet", "figures", "motion", "difficulty", "cost"))
    parser.add_argument("--output", type=Path, default=Path("build/phantom-study"))
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--amplitudes", type=float, nargs="+", default=[20.0])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.what == "sheet":
        sheet(options.output, options.seeds or 5)
    elif options.what == "figures":
        figures(options.output, options.seeds or 3)
    elif options.what == "motion":
        motion(options.seeds or 10)
    elif options.what == "difficulty":
        difficulty(options.output, options.seeds or 3, tuple(options.amplitudes))
    else:
        cost()


if __name__ == "__main__":
    main()
