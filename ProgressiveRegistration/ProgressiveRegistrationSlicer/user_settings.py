"""Options under a name of the user's own, kept on this computer (not in the scene)."""

from __future__ import annotations

import json

from ProgressiveRegistrationLib.errors import InputError

from .i18n import _
from .options import option_parameters

KEY = "ProgressiveRegistration/MySettings"


def kept(parameters) -> list[str]:
    """The parameters that are kept: how to register and what to make, not which nodes."""
    wanted = [name for name in parameters.allParameters if name.startswith("want")]
    return [*option_parameters(parameters).values(), *wanted, "suggestCount"]


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
        values = {key: getattr(parameters, key) for key in kept(parameters)}
        every = {**self._all(), name: {key: getattr(v, "value", v) for key, v in values.items()}}
        self._store.setValue(KEY, json.dumps(every))

    def apply(self, name: str, parameters) -> None:
        """Set a parameter node's options; what this version does not know is left as it is."""
        saved = self._all().get(name)
        if saved is None:
            raise InputError(_("There are no settings named {name}.").format(name=name))
        for key in kept(parameters):
            if key not in saved:
                continue
            kind = type(getattr(parameters, key))
            try:
                setattr(parameters, key, kind(saved[key]))
            except (TypeError, ValueError):
                pass  # an option of another version

    def delete(self, name: str) -> None:
        every = self._all()
        every.pop(name, None)
        self._store.setValue(KEY, json.dumps(every))

    def _all(self) -> dict:
        text = self._store.value(KEY)
        try:
            found = json.loads(text) if text else {}
        except (TypeError, ValueError):
            found = {}
        return (
            {name: v for name, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
        )
