"""A sequence's results on a phantom 4DCT against what is exactly true there.

progressive-registration phantom --phases 10 --hysteresis 0.05 --seed 205 -o chest
progressive-registration sequence chest -o result
python Testing/benchmark/sequence_study.py result --seed 205 --hysteresis 0.05
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.geometry import Grid
from ProgressiveRegistrationLib.phantom.cycle import cycle_motions
from ProgressiveRegistrationLib.quality import mask_points
from ProgressiveRegistrationLib.sequence.steps import read_field
from scipy.ndimage import binary_erosion
from scipy.stats import pearsonr, spearmanr


def main(result: Path, seed: int, hysteresis: float, amplitude: float) -> None:
    report = json.loads((result / "sequence.json").read_text(encoding="utf-8"))
    names = [phase["name"] for phase in report["phases"]]
    motions = cycle_motions(seed, len(names), hysteresis, amplitude)
    reference = names.index(report["reference"])
    mask = sitk.ReadImage(str(result / "reference_lungs.nrrd"))
    x = mask_points(mask, 20_000)
    anatomy = motions[reference].anatomy
    x = x[anatomy.lung_distance(*motions[reference].lung(x).T) < 0]
    above = motions[reference].lung(x)
    true = np.stack([motion.lung_inverse(above, 1e-4) for motion in motions])

    print("phase        error of the direct field   of the agreeing field (mm, mean / 95 %)")
    found = np.empty_like(true)
    found[reference] = x
    for k, name in enumerate(names):
        if k == reference:
            continue
        found[k] = DisplacementField.read(result / f"field_{name}.nrrd").warp_points(x)
        direct = read_field(result, f"direct_{name}").warp_points(x)
        rows = [np.linalg.norm(p - true[k], axis=1) for p in (direct, found[k])]
        print(f"{name:10s}" + "".join(f"   {e.mean():6.3f} / {np.percentile(e, 95):6.3f}" for e in rows))
    middle = np.linalg.norm(found.mean(0) - true.mean(0), axis=1)
    print(f"mid-position: error {middle.mean():.3f} mm, 95 % {np.percentile(middle, 95):.3f}")
    spans = [np.max([np.linalg.norm(a - b, axis=1) for a in p for b in p], axis=0) for p in (found, true)]
    print(f"amplitude: true {spans[1].mean():.2f} mm, error {np.abs(spans[0] - spans[1]).mean():.3f} mm")

    image = sitk.ReadImage(str(result / "ventilation_jacobian.nrrd"))
    grid = Grid.from_image(image)
    jacobian = sitk.GetArrayFromImage(image)
    air = sitk.GetArrayFromImage(sitk.ReadImage(str(result / "ventilation_hu.nrrd")))
    lungs = np.isfinite(jacobian)
    core = binary_erosion(lungs, iterations=2)  # 5 mm within: the pleura's own slide is no volume change
    empty, full = (names.index(report["ventilation"][w]) for w in ("exhale", "inhale"))
    for where, inside in (("whole lung", lungs), ("5 mm within", core)):
        places = np.argwhere(inside)[:, ::-1]
        places = places[:: max(1, len(places) // 20_000)]
        index = tuple(places[:, ::-1].T)
        p = grid.index_to_world(places)
        top = motions[reference].lung(p)
        ends = [motions[k].lung_inverse(top, 1e-4) for k in (empty, full)]
        growth = motions[empty].jacobian_determinant(ends[0]) / motions[full].jacobian_determinant(ends[1])
        volume = growth - 1
        print(f"ventilation, {where}: true volume change {volume.mean():.3f} ± {volume.std():.3f}")
        j = jacobian[index]
        print(
            f"by Jacobian: mean error {np.abs(j - volume).mean():.3f}, bias "
            f"{np.mean(j - volume):+.3f}, Pearson "
            f"{pearsonr(j, volume)[0]:.2f}, Spearman {spearmanr(j, volume)[0]:.2f}"
        )
        a = air[index]
        known = np.isfinite(a)
        # what the air-based measure should be: the tissue's share of the voxel at exhale from the
        # parenchyma's own density
        tissue = 1000 + anatomy.density + anatomy.gravity * np.clip((top[:, 1] + 10) / 170, -0.5, 0.5)
        share = np.clip(tissue * motions[empty].jacobian_determinant(ends[0]) / 1000, 0, 0.9)
        wanted = volume / (1 - share)
        print(
            f"by air:      mean error {np.abs(a - wanted)[known].mean():.3f}, bias "
            f"{np.mean((a - wanted)[known]):+.3f}, Pearson "
            f"{pearsonr(a[known], wanted[known])[0]:.2f}, Spearman "
            f"{spearmanr(a[known], wanted[known])[0]:.2f} "
            f"(known in {100 * known.mean():.0f} %)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hysteresis", type=float, default=0.0)
    parser.add_argument("--amplitude", type=float, default=20.0)
    given = parser.parse_args()
    main(given.result, given.seed, given.hysteresis, given.amplitude)
