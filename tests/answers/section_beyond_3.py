"""Answers to the exercise of the notebook on fast generation, beyond the chapter."""

import numpy as np
import torch

RIGHT, WRONG = {}, {}

RIGHT["cache_memory"] = [
    2400,
    2400.0,
    2 * 48 * 1600 * 1024 * 2 * 8 / 2**20,
    torch.empty(2, 48, 8, 25, 1024, 64, dtype=torch.bfloat16, device="meta").nbytes / 2**20,
    torch.tensor(2400),
    np.float32(2.4e3),
    2_390,
]
WRONG["cache_memory"] = [
    (2000, "2,000 is too small"),
    (2450, "2,450 is too large"),
    ((2, 400), "1,000 is written 1_000"),
]
