"""Settings of the suite. Its helpers are golden, wire, frames, schema and support beside it."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

# Its caches stay out of the tree that is tested.
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "mindckpt-hypothesis")

# No deadlines: nothing is timed. No database: a failure prints the line that reproduces it.
settings.register_profile(
    "mindckpt",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("mindckpt")
