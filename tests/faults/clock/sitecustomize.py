"""Moves the clock of a service from outside: Python runs this at its start, because the folder is on its path.

`services/shared/clock.py` is the only place that reads the clock, so that is where it is moved: by the seconds that
stand in the file named by FAULTS_CLOCK, read anew each time. A file beside it says which offsets were really used.
Nothing in the services knows of this.
"""

import importlib.abc
import importlib.util
import os
import sys
from datetime import timedelta
from pathlib import Path

CLOCK = "services.shared.clock"


class _Moved(importlib.abc.MetaPathFinder):
    """Finds the clock as everybody else would, and moves it once it is loaded."""

    def find_spec(self, name, _path=None, _target=None):
        if name != CLOCK:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            honest = module.utc_now
            offsets = Path(os.environ["FAULTS_CLOCK"])

            def utc_now():
                offset = offsets.read_text().strip()
                offsets.with_name(f"{offsets.name}.used.{offset}").touch()
                return honest() + timedelta(seconds=float(offset))

            module.utc_now = utc_now

        spec.loader.exec_module = exec_module
        return spec


if "FAULTS_CLOCK" in os.environ:
    sys.meta_path.insert(0, _Moved())
