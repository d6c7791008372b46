"""What several test files share: a configuration small enough to be quick, and random parameters."""

import torch

SMALL = {
    "vocab_size": 61,
    "context_length": 12,
    "emb_dim": 24,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": True,
}


def randomized(module, seed=0):
    """`module` in float64 with random parameters: no mistake hides behind rounding or a start at 0 or 1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return module.double().eval()


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def ids(*values):
    """One sequence of token ids, of shape (1, T)."""
    return torch.tensor([values])
