"""Lets a test see, hold and kill real registrations in other processes; a Dask preload,
or imported by ``-c``.

In the folder $BATCH_GATES: ``begun.log`` and ``ended.log`` get a line "id pid threads" a registration; while
``ID.closed`` exists, the pair ID waits in the middle of its work; where ``ID.deadly`` exists, the process
kills itself there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import torch
from ProgressiveRegistrationLib import jobs, registration
from ProgressiveRegistrationLib.errors import Cancelled

FOLDER = Path(os.environ["BATCH_GATES"])
_register_files, _register = jobs.register_files, registration.register
_current = threading.local()


def write(name: str) -> None:
    with open(FOLDER / name, "a") as stream:
        stream.write(f"{_current.id} {os.getpid()} {torch.get_num_threads()}\n")


def register_files(job, **options):
    _current.id = job.output.name
    return _register_files(job, **options)


def register(fixed, moving, **options):
    write("begun.log")
    while (FOLDER / f"{_current.id}.closed").exists():
        time.sleep(0.02)
        if options["cancelled"]():
            raise Cancelled
    if (FOLDER / f"{_current.id}.deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    result = _register(fixed, moving, **options)
    write("ended.log")
    return result


jobs.register_files, registration.register = register_files, register
