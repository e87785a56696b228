from __future__ import annotations

from hypothesis import settings

# Times of single examples say nothing on a machine that others use too.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
