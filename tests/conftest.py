"""How hypothesis runs in every test: without a deadline, for no test is about time.

A loaded machine or a sanitizer makes one example slow; pytest's own bound on a hanging test stays. With CI
set the examples are the same in every run, so that a failure there is the change's and not the dice's.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("fairlead", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("fairlead"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "fairlead")
