"""The dialog that shows the data folder: where it is, what is there, and what was picked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict

from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

from .data_folder import MOST_ENTRIES, DataFolder, Entry
from .reading import series_in


class Listing:
    """Fills the state ``browse_*``; ``picked(role, entry)`` is called with a file or series."""

    def __init__(self, state, folder: DataFolder | None, picked: Callable) -> None:
        self._state, self._folder, self._picked = state, folder, picked
        self._role, self._path = "fixed", ""
        self._entries: list[Entry] = []
        self._turn = 0

    def open(self, role: str, title: str) -> None:
        """Show the folder that was shown last, for this role."""
        self._role = role
        self._state.update({"browsing": True, "browse_title": title})
        self.go(self._path)

    def go(self, path: str) -> None:
        """Show another folder; reading it goes on beside the page."""
        self._turn += 1
        names = [part for part in path.split("/") if part and part != "."]
        crumbs = [{"name": "Data", "path": ""}]
        crumbs += [{"name": name, "path": "/".join(names[: i + 1])} for i, name in enumerate(names)]
        # What was listed stays known until the new list is there: the page may still show it.
        self._state.update(
            {"browse_crumbs": crumbs, "browse_entries": [], "browse_error": "", "browse_wait": True}
        )
        asyncio.get_running_loop().create_task(self._fill("/".join(names), self._turn))

    async def _fill(self, path: str, turn: int) -> None:
        error, entries = "", []
        try:
            entries = await asyncio.to_thread(self._read, path, self._role)
            self._path = path
        except (ProgressiveRegistrationError, OSError) as problem:
            error = str(problem)
            self._path = ""
        if turn != self._turn:
            return  # another folder is wanted by now
        self._entries = entries
        error = error or self._cut(entries)
        with self._state as state:
            state.update(
                {"browse_entries": [asdict(e) for e in entries], "browse_error": error, "browse_wait": False}
            )

    def _read(self, path: str, role: str) -> list[Entry]:
        points = role.endswith("landmarks")
        entries = self._folder.list(path, ("landmarks",) if points else ("image",))
        series = [] if points else series_in(self._folder.resolve(path), path, self._folder.root)
        return [*series, *entries]

    @staticmethod
    def _cut(entries: list[Entry]) -> str:
        """Says so where there is more in a folder than is listed."""
        if sum(entry.kind != "series" for entry in entries) < MOST_ENTRIES:
            return ""
        return f"The first {MOST_ENTRIES} entries are listed: choose a folder below as --data to see more."

    def pick(self, path: str, series: str) -> None:
        """The user pressed an entry."""
        entry = next((e for e in self._entries if (e.path, e.series) == (path, series)), None)
        if entry is None:
            return
        if entry.kind == "folder":
            self.go(entry.path)
            return
        self._state.browsing = False
        self._picked(self._role, entry)
