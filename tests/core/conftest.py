from __future__ import annotations

import hypothesis

# The same examples every time: a change is judged by what it changes. No deadline: the machine is shared.
hypothesis.settings.register_profile("mldeploy", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("mldeploy")
