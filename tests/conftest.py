"""What holds for every test and kernel, set before any of them starts."""

import os

from hypothesis import settings

# Two notebooks run side by side, each with all threads. Threads that wait for work by spinning would take the
# cores from the others (one cell took eight times as long), so they sleep instead.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Nothing may be downloaded: whatever tries, finds a proxy that is not there.
for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[name] = "http://127.0.0.1:9"

# hypothesis derives its examples from the text of each test, so every run tries the same ones.
settings.register_profile("course", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("course")
