"""Options: the command line that says the same as what was chosen."""

from __future__ import annotations

from pathlib import Path

from ProgressiveRegistrationLib.batch.pair import BatchOptions
from ProgressiveRegistrationLib.options import PairFiles, command_line


def test_threads_of_a_batch_are_not_part_of_the_command_that_repeats_a_pair():
    files = PairFiles(fixed=Path("a.nrrd"), moving=Path("b.nrrd"))
    with_threads = command_line(files, BatchOptions(preset="fast", threads=2), Path("out"))
    assert with_threads == command_line(files, BatchOptions(preset="fast"), Path("out"))
    assert "--preset fast" in with_threads
