"""The presets: what each is called, how it refines, how long it takes.
A new preset is one entry in ``PRESETS``.

Nothing heavy is imported here, so that the command line, the panel and the report can list them at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    voxel_mm : of the feature lattice. node_mm : of the node lattice. step_mm : Adam's first and last step.
    smoothness : weight of the mean squared gradient of w (mm/mm) beside the mean squared feature difference
        (a sum of 12).
    repeats : how often at most the stage is run again, while it pays: see ``refine.PAYS``.
    """

    voxel_mm: float
    node_mm: float
    iterations: int
    smoothness: float = 0.6
    points: int = 40_000
    step_mm: tuple[float, float] = (1.0, 0.3)
    repeats: int = 0

    def __post_init__(self) -> None:
        if min(self.voxel_mm, self.node_mm, self.iterations, self.points, *self.step_mm) <= 0:
            raise InputError(f"A stage of the refinement needs positive numbers; got {self}.")


@dataclass(frozen=True)
class Settings:
    """Everything that a refinement is told. REFINEMENT.md has what each was weighed against.

    Attributes
    ----------
    dilation_mm : of the lung mask in which data counts.
    noise : see ``mind_ssc``; 2e-3 is the variance of 40 HU.
    redraw : iterations after which other points are drawn, so that no set of them is fitted.
    average : share of a stage's last iterations whose mean is its result.
    robust : squared feature difference (a sum of 12) past which a point counts for less (Geman-McClure).
    both_ways : refine from moving to fixed too (all stages but the first), and take the mean of both maps.
    """

    stages: tuple[Stage, ...]
    dilation_mm: float = 4.0
    noise: float = 2e-3
    redraw: int = 4
    average: float = 0.5
    robust: float = 0.6
    both_ways: bool = False


@dataclass(frozen=True)
class Preset:
    """What a user chooses between.

    Attributes
    ----------
    name : on the command line, in tables and reports. label, description : for people; "Label: description".
    refinement : its settings; None: the network alone.
    share : time of the refinement for the progress bar, where the network's stages together take about 4.
    """

    name: str
    label: str
    description: str
    refinement: Settings | None = None
    share: float = 0.0


# 24 mm nodes and 2 mm steps catch what the network missed: from no map at all, 35 mm off, to 1.1 mm
# (REFINEMENT.md)
_WIDE = Stage(6.0, 24.0, 10, step_mm=(2.0, 0.5), repeats=5)
_MIDDLE = (_WIDE, Stage(4.0, 16.0, 12, repeats=3), Stage(2.0, 8.0, 30))

PRESETS = {
    preset.name: preset
    for preset in (
        Preset("fast", "Fast", "the network alone"),
        Preset(
            "balanced",
            "Balanced",
            "refined for this pair",
            Settings((*_MIDDLE, Stage(1.5, 5.0, 32, points=60_000))),
            share=10.0,
        ),
        Preset(
            "accurate",
            "Accurate",
            "refined longer, in both directions",
            Settings((*_MIDDLE, Stage(1.5, 5.0, 60, points=60_000)), both_ways=True),
            share=29.0,
        ),
    )
}
DEFAULT = "balanced"


def find_preset(name: str) -> Preset:
    """The preset of this name; raises InputError with the names there are."""
    if name not in PRESETS:
        raise InputError(f"There is no preset {name}; choose {', '.join(PRESETS)}.")
    return PRESETS[name]


def described() -> str:
    """All presets in one line, for help texts."""
    return "; ".join(f"{p.name}: {p.description}" for p in PRESETS.values())
