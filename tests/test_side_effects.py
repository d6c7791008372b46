"""Whatever an answer does outside itself, the checks that follow give the same verdicts."""

import builtins
import copy
import math
import random
import warnings

import answers
import pytest
import torch
from support import say
from torch import nn
from torch.nn import functional as F

import helpers
from notebooks.checks import require


def right_answers():
    return [(name, answer, ": right. ") for name, given in answers.RIGHT.items() for answer in given]


def test_no_answer_spoils_a_later_check():
    wrong = [(name, *case) for name, given in answers.WRONG.items() for case in given]
    right, order = right_answers(), random.Random(5)
    order.shuffle(wrong)
    order.shuffle(right)
    for name, answer, words in [*wrong, *right]:
        assert words in say(name, answer)


def change_dict(config):
    config["emb_dim"] = 5
    del config["n_heads"]


def delete_gelu():
    del F.gelu


SPOILERS = {
    "small model": lambda: require.SMALL.update(emb_dim=5),
    "another small model": lambda: setattr(require, "SMALL", {}),
    "configuration": lambda: change_dict(helpers.GPT_CONFIG_124M),
    "released sizes": lambda: change_dict(helpers.GPT2_CONFIGS["gpt2-xl"]),
    "one size less": lambda: helpers.GPT2_CONFIGS.pop("gpt2-xl"),
    "random numbers": lambda: torch.manual_seed(5),
    "type": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(3),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "gradients": lambda: torch.set_grad_enabled(False),
    "device": lambda: torch.set_default_device("meta"),
    "softmax": lambda: setattr(F, "softmax", lambda *a, **k: 0),
    "softmax of a tensor": lambda: setattr(torch.Tensor, "softmax", lambda *a, **k: 0),
    "gelu": delete_gelu,
    "linear": lambda: setattr(nn.Linear, "forward", lambda self, x: x),
    "attention": lambda: setattr(helpers.MultiHeadAttention, "forward", lambda self, x: x),
    "model": lambda: setattr(helpers, "GPTModel", nn.Identity),
    "hook": lambda: nn.modules.module.register_module_forward_hook(lambda *a: 0 * a[-1]),
    "root": lambda: setattr(math, "sqrt", lambda x: x),
    "sum": lambda: setattr(builtins, "sum", lambda *a: 0),
    "warnings": lambda: warnings.simplefilter("error"),
    "words": lambda: setattr(require, "is_close", lambda *a: True),
}


def state():
    """What an answer might change."""
    return (
        copy.deepcopy((helpers.GPT_CONFIG_124M, helpers.GPT2_CONFIGS, dict(require.SMALL))),
        (torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision()),
        (torch.is_anomaly_enabled(), torch.is_grad_enabled(), torch.get_default_device()),
        (F.softmax, torch.Tensor.softmax, F.gelu, nn.Linear.forward, helpers.MultiHeadAttention.forward),
        (helpers.GPTModel, math.sqrt, builtins.sum, list(warnings.filters), require.is_close),
        list(nn.modules.module._global_forward_hooks.values()),
        torch.random.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("what", SPOILERS)
def test_what_an_answer_changes_elsewhere_is_undone(what):
    xl, before = helpers.GPT2_CONFIGS["gpt2-xl"], state()
    function = type("Spoiler", (), {"__call__": lambda self, *a: SPOILERS[what]()})()
    module = type(
        "Spoiler",
        (nn.Module,),
        {"__init__": lambda self, *a, **k: nn.Module.__init__(self), "forward": lambda *a: SPOILERS[what]()},
    )
    for name, answer in (
        ("attention_head", function),
        ("part_counts", function),
        ("transformer_block", module),
    ):
        assert ": not right yet. " in say(name, answer)
        assert state() == before
    assert helpers.GPT2_CONFIGS["gpt2-xl"] is xl
