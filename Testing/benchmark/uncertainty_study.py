"""Fits and checks the uncertainty map: phantoms with known error, some to fit the model, others to check it.

    python Testing/benchmark/uncertainty_study.py measure FOLDER --seeds 1 2 3 100 101
    python Testing/benchmark/uncertainty_study.py fit FOLDER --check 100 101
    python Testing/benchmark/uncertainty_study.py real FOLDER --data ../shared/data/pairs/elastix_lung

measure: a file of signs and errors a seed. fit: writes uncertainty_model.json; seeds given to ``--check``
take no part in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from ProgressiveRegistrationLib.field import DisplacementField
from ProgressiveRegistrationLib.landmarks import read_landmarks
from ProgressiveRegistrationLib.lungs import find_lungs
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationLib.quality import mask_points
from ProgressiveRegistrationLib.refinement.refine import refine
from ProgressiveRegistrationLib.registration import register
from ProgressiveRegistrationLib.report.maps import COLOURS
from ProgressiveRegistrationLib.uncertainty import MODEL, SIGNS, predict, signs, terms, uncertainty
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

SIZE, SPACING = (152, 120, 104), (2.3, 2.3, 2.8)
VARIANTS = {"result": 1.0, "spoiled": 0.3, "network": 0.3}  # and how much each counts in the fit
Fields = dict[str, DisplacementField]
FORWARD = tuple(s for s in SIGNS if s != "there_and_back")


def options(seed: int) -> dict:
    """Another chest, breath and scanner for every seed."""
    rng = np.random.default_rng(1000 + seed)
    return {
        "amplitude": float(rng.uniform(10, 40)),
        "noise": float(rng.uniform(6, 30)),
        "kernel": str(rng.choice(["soft", "standard", "sharp"])),
        "emphysema": float(rng.choice([0.0, 0.0, 0.25])),
        "consolidation": float(rng.choice([0.0, 0.0, 0.1])),
        "contrast": float(rng.choice([0.0, 120.0])),
    }


def registered(
    folder: Path, name: str, preset: str, fixed: sitk.Image, moving: sitk.Image, **masks
) -> Fields:
    """``there``, ``back`` and ``network`` (there, not refined), from ``folder`` where they lie already."""
    files = {what: folder / f"{name}_{what}.nrrd" for what in ("network", "there", "back")}
    if not all(file.is_file() for file in files.values()):
        first = register(fixed, moving, preset="fast", device="cpu", **masks)
        first.field.write(files["network"])
        mask = first.fixed_lungs.mask
        refine(fixed, moving, first.field, preset=preset, mask=mask).write(files["there"])
        back = {"fixed_mask": masks.get("moving_mask"), "moving_mask": masks.get("fixed_mask")}
        register(moving, fixed, preset=preset, device="cpu", **back).field.write(files["back"])
    return {what: DisplacementField.read(file) for what, file in files.items()}


def spoiled(field: DisplacementField, places: np.ndarray, seed: int) -> DisplacementField:
    """The field with smooth errors of 2 to 12 mm around a few places: what a refinement caught elsewhere
    looks like.
    """
    rng = np.random.default_rng(seed)
    points, u = field.grid.points(), field.displacement.copy()
    for centre in places[rng.integers(len(places), size=5)]:
        direction = rng.normal(size=3)
        size = rng.uniform(2, 12) * direction / np.linalg.norm(direction)
        near = np.exp(-((np.linalg.norm(points - centre, axis=-1) / rng.uniform(14, 30)) ** 2) / 2)
        u += (near[..., None] * size).astype(np.float32)
    return DisplacementField(field.grid, u)


def measure(folder: Path, seeds: list[int], preset: str) -> None:
    """One ``seed_<n>_<variant>.npz`` each: every sign and the true error (mm) at the lungs' voxels.

    Variants: the result; the result with errors put in; the network alone. So the model meets failures, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        pair = breathing_thorax(seed, size=SIZE, spacing=SPACING, landmarks=100, **options(seed))
        fields = registered(folder, f"seed_{seed}", preset, pair.fixed, pair.moving)
        mask = find_lungs(pair.fixed).mask
        places = mask_points(mask)
        variants = {
            "result": fields["there"],
            "spoiled": spoiled(fields["there"], places, seed),
            "network": fields["network"],
        }
        for name, field in variants.items():
            grid, lungs, found = signs(pair.fixed, pair.moving, field, mask, backward=fields["back"])
            x = grid.points()[lungs].astype(float)
            true = pair.motion.lung(x)
            known = pair.motion.anatomy.lung_distance(*true.T) < 0  # truly lung
            error = np.linalg.norm(field.warp_points(x) - true, axis=1)[known]
            arrays = {sign: values[known].astype(np.float32) for sign, values in found.items()}
            np.savez_compressed(folder / f"seed_{seed}_{name}.npz", error=error.astype(np.float32), **arrays)
            rho = {sign: round(float(spearmanr(values, error)[0]), 2) for sign, values in arrays.items()}
            print(
                f"{seed} {name}: {error.mean():.2f} mm, 95 % {np.percentile(error, 95):.2f}", rho, flush=True
            )


def real(folder: Path, data: Path, preset: str) -> None:
    """The map at the landmarks of elastix_lung, for the same variants.

    Its landmarks lie on voxel centres, and that error is larger than the registration's: so each line says,
    too, what a map would reach that knew the registration's error exactly.
    """
    fixed, moving, fixed_mask, moving_mask = (
        sitk.ReadImage(str(data / f"{name}.nrrd"))
        for name in ("baseline", "followup_centred", "baseline_lungmask", "followup_centred_lungmask")
    )
    table = data / "landmarks51_lps_mm.csv"
    x, y = (
        read_landmarks(table, columns=name).without(("35",)).points
        for name in ("baseline", "followup_centred")
    )
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    fields = registered(folder, data.name, preset, fixed, moving, **masks)
    places = mask_points(fixed_mask)
    variants = {"result": fields["there"], "network": fields["network"]}
    variants |= {f"spoiled {seed}": spoiled(fields["there"], places, seed) for seed in range(4)}
    rng = np.random.default_rng(0)
    for name, field in variants.items():
        error = np.linalg.norm(field.warp_points(x) - y, axis=1)
        for how, backward in (("forward only", None), ("with backward", fields["back"])):
            expected = uncertainty(fixed, moving, field, fixed_mask, backward=backward).at(x)
            best = []
            for _ in range(1000):
                made = rng.normal(size=x.shape) / np.sqrt(8 / np.pi) * expected[:, None]
                rounding = (rng.random(x.shape) - rng.random(x.shape)) * fixed.GetSpacing()
                best.append(spearmanr(expected, np.linalg.norm(made + rounding, axis=1))[0])
            print(
                f"{name}, {how}: expected {expected.mean():.2f} mm, TRE {error.mean():.2f}; "
                f"rank correlation {spearmanr(expected, error)[0]:.2f}, "
                f"of a perfect map {np.mean(best):.2f} ± {np.std(best):.2f}"
            )


def fit(folder: Path, checked: list[int], preset: str, picture: Path | None) -> None:
    """Fit both models on all seeds but ``checked``; print how they do on those; write the model and the
    curve.
    """
    files = {tuple(p.stem.split("_")[1:]): dict(np.load(p)) for p in sorted(folder.glob("seed_*_*.npz"))}
    seeds = sorted({int(seed) for seed, _ in files})
    fitted = [seed for seed in seeds if seed not in checked]
    out: dict = {}
    curves = {}
    for name, used in (("forward_only", FORWARD), ("with_backward", SIGNS)):
        parts = [(files[str(k), v], weight) for k in fitted for v, weight in VARIANTS.items()]
        x = np.concatenate([terms({s: part[s] for s in used}) for part, _ in parts])
        error = np.concatenate([part["error"] for part, _ in parts])
        weight = np.concatenate([np.full(len(part["error"]), w) for part, w in parts])
        mean, scale = x.mean(0), x.std(0) + 1e-9
        x, y = np.clip((x - mean) / scale, -3, 3), np.log(error + 0.1)
        left = x * weight[:, None]
        ridge = 1e-3 * weight.sum() * np.eye(x.shape[1])
        weights = np.linalg.solve(left.T @ x + ridge, left.T @ (y - np.average(y, weights=weight)))
        score = x @ weights
        groups = np.array_split(np.argsort(score), 240)
        knots = np.array([np.average(score[g], weights=weight[g]) for g in groups])
        means = [np.average(error[g], weights=weight[g]) for g in groups]
        errors = isotonic_regression(means, weights=[weight[g].sum() for g in groups]).x
        out[name] = {
            "signs": list(used),
            "mean": mean.round(6).tolist(),
            "scale": scale.round(6).tolist(),
            "weights": weights.round(6).tolist(),
            "scores": [*knots[:-1:4].round(5).tolist(), round(float(knots[-1]), 5)],
            "errors_mm": [*errors[:-1:4].round(4).tolist(), round(float(errors[-1]), 4)],
        }
        for variant in VARIANTS:
            found = [predict(out[name], {s: files[str(k), variant][s] for s in used}) for k in checked]
            true = [files[str(k), variant]["error"] for k in checked]
            rhos = [float(spearmanr(f, t)[0]) for f, t in zip(found, true)]
            every, real = np.concatenate(found), np.concatenate(true)
            bins = np.array_split(np.argsort(every), 10)
            curve = [
                (float(every[b].mean()), float(real[b].mean()), float(np.percentile(real[b], 90)))
                for b in bins
            ]
            gap = float(np.mean([abs(p - t) for p, t, _ in curve]))
            pooled = float(spearmanr(every, real)[0])
            print(
                f"{name}, {variant}: fitted on {fitted}, checked on {checked}: rank correlation a seed "
                f"{[round(r, 2) for r in rhos]}, pooled {pooled:.2f}; mean gap of the curve {gap:.2f} mm"
            )
            for p, t, high in curve:
                print(f"   expected {p:5.2f} mm   true mean {t:5.2f}   90 % {high:5.2f}")
            entry = {
                "seeds": checked,
                "rank_correlation": [round(r, 3) for r in rhos],
                "pooled": round(pooled, 3),
                "reliability": [[round(v, 3) for v in row] for row in curve],
            }
            out[name].setdefault("checked", {})[variant] = entry
            curves[f"{name}, {variant}"] = curve
    out["about"] = f"phantoms, preset {preset}, fitted on seeds {fitted}, checked on {checked}"
    MODEL.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    if picture is not None:
        draw(curves, picture)


def draw(curves: dict, path: Path) -> None:
    """The reliability curve as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.4))
    axes = figure.add_subplot()
    top = max(max(p, t) for rows in curves.values() for p, t, _ in rows) * 1.05
    axes.plot([0, top], [0, top], color="#999", linewidth=1)
    for (name, rows), colour in zip(curves.items(), COLOURS):
        axes.plot(
            [r[0] for r in rows], [r[1] for r in rows], marker="o", color=colour, label=name.replace("_", " ")
        )
    axes.set_xlabel("expected error (mm)")
    axes.set_ylabel("true error, mean of a tenth (mm)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "fit", "real"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--check", type=int, nargs="*", default=[])
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--data", type=Path, help="for real: the folder elastix_lung")
    given = parser.parse_args()
    if given.what == "measure":
        measure(given.folder, given.seeds, given.preset)
    elif given.what == "real":
        real(given.folder, given.data, given.preset)
    else:
        fit(given.folder, given.check, given.preset, given.picture)
