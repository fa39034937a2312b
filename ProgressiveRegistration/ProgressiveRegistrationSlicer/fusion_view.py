"""``fusion.Fusion`` in the desktop application: Qt's timer flickers."""

from __future__ import annotations

import qt

from .choices import FusionMode
from .fusion import FLICKER_MS, Fusion


class FusionView(Fusion):
    """Two volumes in the application's slice views; can be paused while another module is shown."""

    def __init__(self) -> None:
        super().__init__()
        self._paused = False
        self._timer = qt.QTimer()
        self._timer.setInterval(FLICKER_MS)
        self._timer.connect("timeout()", self.flicker)

    def start_timer(self) -> None:
        if not self._paused:
            self._timer.start()

    def stop_timer(self) -> None:
        self._timer.stop()

    def pause(self) -> None:
        """No flickering until ``resume``; both volumes are to be seen meanwhile."""
        self._paused = True
        if self._timer.active:
            self._timer.stop()
            self._set_opacities(self._opacity)

    def resume(self) -> None:
        """Flicker again, if that is the mode."""
        self._paused = False
        if self.mode is FusionMode.FLICKER:
            self._timer.start()
