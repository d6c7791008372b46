"""Two notebooks run side by side, each with all threads. Threads that wait for work by spinning would take
the cores from the others (one cell took eight times as long), so they sleep instead. Set before any kernel
starts."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
