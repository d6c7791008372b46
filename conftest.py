"""What holds for every test and every kernel, whether you run one notebook, one test, or all of them.

Pytest reads this file for tests/ and notebooks/ alike. It needs only the packages in requirements.txt.
"""

import os

from notebooks.isolation import isolate

isolate()


def pytest_configure(config):
    config.option.nbval_current_env = True  # the kernel is this Python, whatever a notebook's metadata says


# Two notebooks run side by side, each with all threads. Threads that wait for work by spinning would take the
# cores from the others (one cell took eight times as long), so they sleep instead.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Nothing may be downloaded: whatever tries finds a proxy that is not there. Only this machine can be reached.
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[name] = os.environ[name.upper()] = "http://127.0.0.1:9"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"
