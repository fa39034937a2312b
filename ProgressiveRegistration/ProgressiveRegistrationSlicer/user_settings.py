"""Options under a name of the user's own, kept on this computer (not in the scene)."""

from __future__ import annotations

import json

from ProgressiveRegistrationLib.errors import InputError

from .i18n import _

KEY = "ProgressiveRegistration/MySettings"
# what is kept: how to register and what to make, not which nodes
KEPT = (
    "preset",
    "lungBoxes",
    "modelName",
    "device",
    "wantTransform",
    "wantWarped",
    "wantJacobian",
    "wantBSpline",
    "wantHardened",
    "suggestCount",
)


class UserSettings:
    """``store`` has Qt's ``value(key)`` and ``setValue(key, text)``: ``slicer.app.userSettings()``."""

    def __init__(self, store) -> None:
        self._store = store

    def names(self) -> list[str]:
        return sorted(self._all())

    def save(self, name: str, parameters) -> None:
        """Keep a parameter node's options under ``name``, over what was there."""
        name = name.strip()
        if not name:
            raise InputError(_("Type a name for the settings."))
        values = {key: getattr(parameters, key) for key in KEPT}
        kept = {**self._all(), name: {key: getattr(v, "value", v) for key, v in values.items()}}
        self._store.setValue(KEY, json.dumps(kept))

    def apply(self, name: str, parameters) -> None:
        """Set a parameter node's options; what this version does not know is left as it is."""
        saved = self._all().get(name)
        if saved is None:
            raise InputError(_("There are no settings named {name}.").format(name=name))
        for key in KEPT:
            if key not in saved:
                continue
            kind = type(getattr(parameters, key))
            try:
                setattr(parameters, key, kind(saved[key]))
            except (TypeError, ValueError):
                pass  # an option of another version

    def delete(self, name: str) -> None:
        kept = self._all()
        kept.pop(name, None)
        self._store.setValue(KEY, json.dumps(kept))

    def _all(self) -> dict:
        text = self._store.value(KEY)
        try:
            found = json.loads(text) if text else {}
        except (TypeError, ValueError):
            found = {}
        return (
            {name: v for name, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
        )
