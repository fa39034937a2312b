"""A trained model: a card (JSON), weights (safetensors) with a checksum,
and the device and precision they run at."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..errors import ModelError
from .device import choose_device, choose_precision, device_name, on_gpu_or_cpu, passed_over
from .unet import RegistrationUNet, channels_last, fold_batch_norm, join

# 1: the paper's network. 2: a card whose network differs from it (``correlated``, ``output``) or is
# asked otherwise (``passes``, ``mirrored``, ``symmetric``), which earlier programs cannot do.
CARD_FORMAT = 2
# What these are in the paper, and in a card that does not name them.
PLAIN = {"correlated": (), "output": "finest", "passes": 1, "mirrored": False, "symmetric": False}
ENVIRONMENT = "PROGRESSIVE_REGISTRATION_MODELS"


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model; stored as NAME.json beside NAME.safetensors.

    Attributes
    ----------
    name, version : what the user chooses by, and sees in every report.
    width, levels : of the RegistrationUNet.
    size : cells of the network's grid along each axis, or along x, y and z; divisible by 2**(levels - 1).
    window : HU; sigma : voxels (see ``network_input``). output_unit : always "voxel" of that grid.
    training_data : list of {name, licence, scans}. training_steps : iterations, by level or in all.
    metrics : measured figures, with their protocol in the keys.
    weights, sha256 : file name beside the card, and its checksum.
    correlated : levels (0 = finest) that see the images' correlation too; none in the paper.
    output : "finest", the last level's field, or "composed", the levels' fields concatenated (eq. 5).
    passes, mirrored, symmetric : how ``register`` asks it, see ``passes``; once and not in the paper.
    """

    name: str
    version: str
    width: int
    levels: int
    size: int | list[int]
    window: tuple[float, float]
    sigma: float
    output_unit: str
    training_data: list[dict[str, Any]]
    training_steps: dict[str, int]
    metrics: dict[str, Any]
    weights: str
    sha256: str
    description: str = ""
    licence: str = "Apache-2.0"
    correlated: tuple[int, ...] = ()
    output: str = "finest"
    passes: int = 1
    mirrored: bool = False
    symmetric: bool = False
    format: int = CARD_FORMAT
    extra: dict[str, Any] = field(default_factory=dict)
    path: str = ""

    @classmethod
    def read(cls, path: str | os.PathLike) -> ModelCard:
        """Read a card; raises ModelError when it is missing, damaged or newer than this program."""
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"There is no model card at {path}.") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"The model card {path} cannot be read; install the model again.") from error
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ModelError(f"{path} is not a model card: it has no format number.")
        if content["format"] > CARD_FORMAT:
            raise ModelError(
                f"The model card {path} has format {content['format']}, and this program reads up to "
                f"{CARD_FORMAT}; update Progressive Registration."
            )
        known = {f.name for f in fields(cls)} - {"path"}
        needed = known - {"description", "licence", "extra", *PLAIN}
        missing = sorted(needed - content.keys())
        if missing:
            raise ModelError(f"The model card {path} misses {', '.join(missing)}; install the model again.")
        card = cls(**{k: v for k, v in content.items() if k in known}, path=str(path))
        if not isinstance(card.passes, int) or not 1 <= card.passes <= 4:
            raise ModelError(f"The model card {path} asks for {card.passes!r} passes; it must be 1 to 4.")
        if card.output_unit != "voxel":
            raise ModelError(
                f"The model card {path} has the output unit {card.output_unit!r}; only 'voxel' is known."
            )
        sides = card.size if isinstance(card.size, list) else [card.size] * 3
        part = 2 ** (card.levels - 1)
        if len(sides) != 3 or any(not isinstance(n, int) or n < part or n % part for n in sides):
            raise ModelError(
                f"The model card {path} has the size {card.size}, which is not divisible by {part} along "
                f"each axis, as its {card.levels} levels need; install the model again."
            )
        return card

    @property
    def steps(self) -> int:
        """Iterations of the training in all."""
        return self.training_steps.get("total") or sum(self.training_steps.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the path on this machine."""
        content = asdict(self)
        content.pop("path")
        return content

    def read_weights(self) -> dict[str, torch.Tensor]:
        """The weights, after their checksum was found right; raises ModelError."""
        from safetensors.torch import load

        path = Path(self.path).parent / self.weights
        try:
            content = path.read_bytes()
        except OSError:
            raise ModelError(
                f"The weights {path} of model {self.name} are missing; install the model again."
            ) from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ModelError(
                f"The weights {path} do not have the checksum that their card states: damaged or changed; "
                f"install the model again."
            )
        try:
            return load(content)
        except Exception as error:  # safetensors raises its own type for a bad header
            raise ModelError(
                f"The weights {path} are no safetensors file; install the model again."
            ) from error


def metrics_text(metrics: dict[str, Any]) -> str:
    """A card's figures, those of one protocol together: "zero field 15.92 mm; validation:
    lung error 8.21 mm"."""
    figures, groups = [], []
    for key, value in metrics.items():
        if isinstance(value, dict):
            inner = metrics_text(value)
            if inner:
                groups.append(f"{key.replace('_', ' ')}: {inner}")
        elif isinstance(value, (int, float)):
            name, _underscore, last = key.rpartition("_")
            name, unit = (name, " mm") if last == "mm" else (key, "")
            figures.append(f"{name.replace('_', ' ')} {value:.2f}{unit}")
    return "; ".join([", ".join(figures), *groups] if figures else groups)


def model_folders() -> list[Path]:
    """Where cards are looked for: $PROGRESSIVE_REGISTRATION_MODELS, wheel, source checkout,
    Slicer's install tree."""
    here = Path(__file__).resolve().parents[1]
    places = [
        here / "Models",
        here.parent.parent / "Resources" / "Models",
        here.parent / "Resources" / "Models",
    ]
    if os.environ.get(ENVIRONMENT):
        places.insert(0, Path(os.environ[ENVIRONMENT]))
    return [p for p in dict.fromkeys(places) if p.is_dir()]


def available_models() -> list[ModelCard]:
    """The cards that are installed, the default first; a damaged card is an error."""
    cards: dict[str, ModelCard] = {}
    for folder in model_folders():
        for path in sorted(folder.glob("*.json")):
            card = ModelCard.read(path)
            cards.setdefault(card.name, card)
    return sorted(cards.values(), key=lambda c: (not c.extra.get("default", False), c.name))


def find_card(name_or_path: str | os.PathLike | None = None) -> ModelCard:
    """A card by name or by file; None: the default. Raises ModelError with the names there are."""
    if name_or_path is not None and str(name_or_path).endswith(".json"):
        return ModelCard.read(name_or_path)
    cards = available_models()
    if name_or_path is None:
        if cards:
            return cards[0]
        places = ", ".join(map(str, model_folders())) or "no model folder"
        raise ModelError(
            f"No model is installed (looked in {places}); set {ENVIRONMENT} to a folder with one."
        )
    for card in cards:
        if card.name == str(name_or_path):
            return card
    names = ", ".join(c.name for c in cards) or "none"
    raise ModelError(
        f"There is no model {name_or_path}; installed: {names}. A path to a card (.json) works too."
    )


class Model:
    """A network ready to run. Batch normalisation is folded into the convolutions."""

    def __init__(self, card: ModelCard, network: RegistrationUNet, device: str = "auto") -> None:
        self.card = card
        chosen = choose_device(device)
        self.notes: list[str] = (
            passed_over() if str(device).lower() == "auto" and chosen.type == "cpu" else []
        )
        self._exact = join(fold_batch_norm(network.float().eval()))
        on_gpu_or_cpu(chosen, self._place, "the network", self.notes)

    def _place(self, device: torch.device) -> None:
        self._device = device
        self._dtype = choose_precision(device)
        network = copy.deepcopy(self._exact)
        # bfloat16 would round a displacement of 20 voxels by up to 0.06: the last layer keeps its precision
        last = network.out, network.heads
        network.out, network.heads = cast(Any, torch.nn.Identity()), torch.nn.ModuleList()
        network = channels_last(network, device, self._dtype)
        network.out, network.heads = channels_last(last[0], device), channels_last(last[1], device)
        self._network = network

    @property
    def device(self) -> str:
        """Where it runs: cpu, cuda (with the card's name), mps."""
        return device_name(self._device)

    @property
    def torch_device(self) -> torch.device:
        return self._device

    @property
    def precision(self) -> str:
        """bfloat16 or float32."""
        return str(self._dtype).split(".")[-1]

    def predict(self, images: torch.Tensor) -> np.ndarray:
        """Run the network.

        Parameters
        ----------
        images : (1, 2, D, H, W) float32, fixed and moving, as ``network_input`` makes them; sides as
            ``card.size``.

        Returns
        -------
        (3, D, H, W) float32, channels x, y, z: displacements in voxels of the network's grid.

        When a GPU fails, the CPU takes over, for good, and ``notes`` says so.
        """

        def run(device: torch.device) -> np.ndarray:
            if device != self._device:
                self._place(device)
            return self._run(images)

        return on_gpu_or_cpu(self._device, run, "the network", self.notes)

    @torch.inference_mode()
    def _run(self, images: torch.Tensor) -> np.ndarray:
        x = images.to(self._device, self._dtype).contiguous(memory_format=torch.channels_last_3d)
        fine = images.to(self._device) if self.card.correlated else None
        return self._network.field(self._network.features(x, fine))[0].cpu().numpy()


def load_model(name_or_path: str | os.PathLike | None = None, device: str = "auto") -> Model:
    """Load a model by name or card file (None: the default one); raises ModelError or DeviceError.

    Examples
    --------
    >>> model = load_model("lung-width8", device="cpu")
    >>> model.card.width, model.card.size
    (8, 128)
    """
    choose_device(device)  # a wrong device is told before 10 MB are read
    card = find_card(name_or_path)
    try:
        if card.output not in ("finest", "composed"):
            raise ValueError(f"its output is {card.output!r}, and only finest and composed are known.")
        network = RegistrationUNet(
            card.width,
            card.levels,
            correlated=tuple(card.correlated),
            composed=card.output == "composed",
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"The model card {card.path} describes no network: {error}") from error
    weights = {k: v.float() if v.is_floating_point() else v for k, v in card.read_weights().items()}
    try:
        # batches are counted for training only
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"The weights of model {card.name} do not fit its card (width {card.width})."
        ) from error
    if unexpected or any(not k.endswith("num_batches_tracked") for k in missing):
        raise ModelError(f"The weights of model {card.name} do not fit the network that its card describes.")
    return Model(card, network, device)


def write_model(card: ModelCard, weights: dict[str, torch.Tensor], folder: str | os.PathLike) -> ModelCard:
    """Write NAME.safetensors and NAME.json; kernels in float16, checksum filled in.
    Returns the card as written."""
    from safetensors.torch import save

    from ..files import replacing, write_text

    folder = Path(folder)
    # kernels in float16; biases and statistics are few, and variances may be too small for it
    content = save(
        {
            k: (v.half() if v.ndim > 1 else v.float()).detach().cpu().contiguous()
            for k, v in weights.items()
            if not k.endswith("num_batches_tracked")
        }
    )
    entries = card.to_dict()
    entries.update(weights=f"{card.name}.safetensors", sha256=hashlib.sha256(content).hexdigest())
    differs = [name for name, value in PLAIN.items() if getattr(card, name) != value]
    entries = {name: value for name, value in entries.items() if name not in PLAIN or name in differs}
    entries["format"] = 2 if differs else 1
    with replacing(folder / entries["weights"]) as temporary:
        temporary.write_bytes(content)
    path = folder / f"{card.name}.json"
    write_text(path, json.dumps(entries, indent=2) + "\n")
    return ModelCard.read(path)
