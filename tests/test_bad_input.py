"""What the parts answer to input that cannot be right: the table is the test.

Each key of TABLE names the parts that are asked; each of them is asked every row below it. A row says in
words what is tried, then gives the value, the type of the error and its whole message. A message that ends in
"…" is only the beginning: the error is Python's or PyTorch's own. Nothing may have changed after it.
"""

import copy
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from support import ATTENTION_ARGUMENTS, SMALL, ids
from torch import nn

import helpers
from helpers import (
    GELU,
    GPT2_CONFIGS,
    ExampleDeepNeuralNetwork,
    FeedForward,
    GPTModel,
    LayerNorm,
    MultiHeadAttention,
    TransformerBlock,
    check_config,
    check_token_ids,
    generate_text_simple,
    gpt2_tokenizer,
    gradient_magnitudes,
    stream_tokens,
    text_to_token_ids,
    tie_weights,
    token_ids_to_text,
)

MODEL, BLOCK, NORM = GPTModel(SMALL).eval(), TransformerBlock(SMALL), LayerNorm(7)
ATTENTION = MultiHeadAttention(**ATTENTION_ARGUMENTS)
FEED_FORWARD, NETWORK = FeedForward(SMALL), ExampleDeepNeuralNetwork([3, 3], use_shortcut=True)
PARTS = nn.ModuleList([MODEL, BLOCK, NORM, ATTENTION, FEED_FORWARD, NETWORK])


def config(**changes):
    return {**SMALL, **changes}


def without(key):
    return {name: value for name, value in SMALL.items() if name != key}


def meta_model(cfg):
    """Without memory: the embeddings, built before attention looks at qkv_bias, draw no random numbers."""
    with torch.device("meta"):
        GPTModel(cfg)


def network(layer_sizes):
    ExampleDeepNeuralNetwork(layer_sizes, use_shortcut=True)


def shortcuts(use_shortcut):
    ExampleDeepNeuralNetwork([3, 3], use_shortcut)


def magnitudes(model):
    gradient_magnitudes(model, torch.zeros(1, 3))


def attention(changes):
    MultiHeadAttention(**{**ATTENTION_ARGUMENTS, **changes})


def load(changes):
    MODEL.load_state_dict(MODEL.state_dict() | changes)


def encode(text):
    text_to_token_ids(text, gpt2_tokenizer())


def decode(ids):
    token_ids_to_text(ids, gpt2_tokenizer())


GENERATION = {"model": MODEL, "idx": ids(1, 2), "max_new_tokens": 2, "context_size": 12}


def simple(changes):
    generate_text_simple(**{**GENERATION, **changes})


def generate(changes):
    helpers.generate(**{**GENERATION, **changes})


def simple_ids(idx):
    simple({"idx": idx})


def generate_none(idx):
    generate({"idx": idx, "max_new_tokens": 0})


def generate_ids(idx):
    generate({"idx": idx})


def stream(changes):
    next(stream_tokens(MODEL, **{"idx": ids(1, 2), "context_size": 12, **changes}))


def tie(head):
    model = copy.deepcopy(MODEL)
    model.out_head = head
    tie_weights(model)


def logits(fill):
    """Arguments with a model whose every logit is `fill`."""
    return {"model": lambda idx: torch.full((*idx.shape, 61), fill), "temperature": 1.0}


BLOCK_KEYS = ("emb_dim", "context_length", "drop_rate", "n_heads")

# How the longer messages begin, or all of them
NOT_DIM = "emb_dim must be an integer, got "
NOT_RATE = "drop_rate must be at least 0 and below 1, got "
NOT_NUMBER = "drop_rate must be a number, got "
NOT_DROPOUT = "dropout must be at least 0 and below 1, got "
NOT_BOOL = "qkv_bias must be True or False, got "
NO_WEIGHT = "`inputs` argument to `grad()` cannot be empty…"
NOT_TOKENS = "the input must have shape (B, T, d_in), got "
SEQUENCE_13 = "got a sequence of 13 tokens, context_length is only 12"
NOT_MULTIPLIED = "mat1 and mat2 shapes cannot be multiplied…"
NOT_SAME_DTYPE = "mat1 and mat2 must have the same dtype…"
UNKNOWN_WEIGHT = (
    "Error(s) in loading state_dict for GPTModel:\n"
    '\tUnexpected key(s) in state_dict: "trf_blocks.0.att.other". '
)
NOT_IDS = "token ids must be a tensor of int64 or int32, got "
NOT_BATCH = "token ids must have shape (B, T) with B and T at least 1, got "
NOT_ONE = "one sequence of shape (1, T) can be decoded at a time, got "
OUTSIDE_61 = "token ids must lie in 0 ... 60, got ids from "
OUTSIDE_GPT2 = "token ids must lie in 0 ... 50256, got ids from "
NOT_TEMPERATURE = "temperature must be a number, got "
NOT_IN_RANGE = "temperature must be at least 0 and below inf, got "
NOT_TOP_P = "top_p must be above 0 and at most 1, got "
NOT_TOP_K = "top_k must be an integer, got "
NOT_EOS = "eos_id must be an integer, got "
NOT_GENERATOR = "multinomial(): argument 'generator' must be torch.Generator, not …"
NAN = "the model's logits are nan or infinite"
NOT_TIED = "out_head must have tok_emb's shape (61, 24), got "
NOT_COUNT = "max_new_tokens must be an integer, got "
NOT_SIZE = "context_size must be an integer, got "

TABLE = {
    (check_config, GPTModel): [
        ("emb_dim 0", config(emb_dim=0), ValueError, "emb_dim must be at least 1, got 0"),
        ("emb_dim negative", config(emb_dim=-24), ValueError, "emb_dim must be at least 1, got -24"),
        ("emb_dim a float", config(emb_dim=24.0), TypeError, NOT_DIM + "24.0"),
        ("emb_dim of numpy", config(emb_dim=np.int64(24)), TypeError, NOT_DIM + "np.int64(24)"),
        ("emb_dim a tensor", config(emb_dim=torch.tensor(24)), TypeError, NOT_DIM + "tensor(24)"),
        ("n_layers True", config(n_layers=True), TypeError, "n_layers must be an integer, got True"),
        ("n_layers 0", config(n_layers=0), ValueError, "n_layers must be at least 1, got 0"),
        ("n_layers a list", config(n_layers=[2]), TypeError, "n_layers must be an integer, got [2]"),
        ("vocab_size a str", config(vocab_size="61"), TypeError, "vocab_size must be an integer, got '61'"),
        ("vocab_size 0", config(vocab_size=0), ValueError, "vocab_size must be at least 1, got 0"),
        ("vocab_size inf", config(vocab_size=math.inf), TypeError, "vocab_size must be an integer, got inf"),
        ("no context", config(context_length=None), TypeError, "context_length must be an integer, got None"),
        ("context -1", config(context_length=-1), ValueError, "context_length must be at least 1, got -1"),
        ("5 heads", config(n_heads=5), ValueError, "emb_dim must be divisible by n_heads, got 24 and 5"),
        ("48 heads", config(n_heads=48), ValueError, "emb_dim must be divisible by n_heads, got 24 and 48"),
        ("n_heads 0", config(n_heads=0), ValueError, "n_heads must be at least 1, got 0"),
        ("n_heads negative", config(n_heads=-3), ValueError, "n_heads must be at least 1, got -3"),
        ("drop_rate 1.0", config(drop_rate=1.0), ValueError, NOT_RATE + "1.0"),
        ("drop_rate 1", config(drop_rate=1), ValueError, NOT_RATE + "1"),
        ("drop_rate negative", config(drop_rate=-0.1), ValueError, NOT_RATE + "-0.1"),
        ("drop_rate nan", config(drop_rate=math.nan), ValueError, NOT_RATE + "nan"),
        ("drop_rate nan of numpy", config(drop_rate=np.float64("nan")), ValueError, NOT_RATE + "nan"),
        ("drop_rate inf", config(drop_rate=math.inf), ValueError, NOT_RATE + "inf"),
        ("drop_rate -inf", config(drop_rate=-math.inf), ValueError, NOT_RATE + "-inf"),
        ("drop_rate a str", config(drop_rate="0.1"), TypeError, NOT_NUMBER + "'0.1'"),
        ("drop_rate False", config(drop_rate=False), TypeError, NOT_NUMBER + "False"),
        ("drop_rate None", config(drop_rate=None), TypeError, NOT_NUMBER + "None"),
        ("drop_rate complex", config(drop_rate=0.1j), TypeError, NOT_NUMBER + "0.1j"),
        ("drop_rate a tensor", config(drop_rate=torch.tensor(0.5)), TypeError, NOT_NUMBER + "tensor(0.5000)"),
        ("drop_rate a Decimal", config(drop_rate=Decimal("0.1")), TypeError, NOT_NUMBER + "Decimal('0.1')"),
        *((f"no {key}", without(key), KeyError, repr(key)) for key in SMALL if key != "qkv_bias"),
        ("misspelled key", {**without("n_heads"), "heads": 3}, KeyError, "'n_heads'"),
        ("empty dict", {}, KeyError, "'vocab_size'"),
        ("sizes", GPT2_CONFIGS, KeyError, "'vocab_size'"),
        ("a class", dict, TypeError, "vocab_size must be an integer, got dict['vocab_size']"),
    ],
    (meta_model, TransformerBlock): [
        ("no qkv_bias", without("qkv_bias"), KeyError, "'qkv_bias'"),
        ("qkv_bias 1", config(qkv_bias=1), TypeError, NOT_BOOL + "1"),
        ("qkv_bias None", config(qkv_bias=None), TypeError, NOT_BOOL + "None"),
        ("qkv_bias a str", config(qkv_bias="False"), TypeError, NOT_BOOL + "'False'"),
        ("qkv_bias of numpy", config(qkv_bias=np.True_), TypeError, NOT_BOOL + "np.True_"),
    ],
    (check_config, GPTModel, TransformerBlock, FeedForward): [
        ("None", None, TypeError, "'NoneType' object is not subscriptable…"),
        ("a list", [], TypeError, "list indices must be integers or slices, not str…"),
        ("a name", "gpt2-small", TypeError, "string indices must be integers…"),
        ("a number", 124, TypeError, "'int' object is not subscriptable…"),
    ],
    (TransformerBlock,): [  # its attention says what is wrong, by the names of its own arguments
        *((f"no {key}", without(key), KeyError, repr(key)) for key in BLOCK_KEYS),
        ("empty dict", {}, KeyError, "'emb_dim'"),
        ("emb_dim 0", config(emb_dim=0), ValueError, "d_in must be at least 1, got 0"),
        ("emb_dim a float", config(emb_dim=24.0), TypeError, "d_in must be an integer, got 24.0"),
        ("no context", config(context_length=None), TypeError, "context_length must be an integer, got None"),
        ("n_heads 0", config(n_heads=0), ValueError, "num_heads must be at least 1, got 0"),
        ("5 heads", config(n_heads=5), ValueError, "d_out must be divisible by num_heads, got 24 and 5"),
        ("drop_rate 1", config(drop_rate=1), ValueError, NOT_DROPOUT + "1"),
        ("drop_rate a str", config(drop_rate="0.1"), TypeError, "dropout must be a number, got '0.1'"),
    ],
    (FeedForward,): [
        ("emb_dim 0", config(emb_dim=0), ValueError, "emb_dim must be at least 1, got 0"),
        ("emb_dim negative", config(emb_dim=-24), ValueError, "emb_dim must be at least 1, got -24"),
        ("emb_dim a float", config(emb_dim=24.0), TypeError, NOT_DIM + "24.0"),
        ("emb_dim of numpy", config(emb_dim=np.int64(24)), TypeError, NOT_DIM + "np.int64(24)"),
        ("emb_dim a tensor", config(emb_dim=torch.tensor(24)), TypeError, NOT_DIM + "tensor(24)"),
        ("emb_dim True", config(emb_dim=True), TypeError, NOT_DIM + "True"),
        ("no emb_dim", without("emb_dim"), KeyError, "'emb_dim'"),
        ("empty dict", {}, KeyError, "'emb_dim'"),
    ],
    (LayerNorm,): [
        ("size 0", 0, ValueError, "emb_dim must be at least 1, got 0"),
        ("size -1", -1, ValueError, "emb_dim must be at least 1, got -1"),
        ("size a float", 7.0, TypeError, NOT_DIM + "7.0"),
        ("size None", None, TypeError, NOT_DIM + "None"),
        ("size True", True, TypeError, NOT_DIM + "True"),
        ("size a tuple", (7,), TypeError, NOT_DIM + "(7,)"),
        ("size of numpy", np.int32(7), TypeError, NOT_DIM + "np.int32(7)"),
    ],
    (NORM,): [
        ("width 6", torch.zeros(2, 6), ValueError, "the input must have 7 features, got shape (2, 6)"),
        ("width 8", torch.zeros(2, 8), ValueError, "the input must have 7 features, got shape (2, 8)"),
        ("width 1", torch.zeros(2, 1), ValueError, "the input must have 7 features, got shape (2, 1)"),
        ("no width", torch.zeros(()), ValueError, "the input must have 7 features, got shape ()"),
        ("width not last", torch.zeros(7, 2), ValueError, "the input must have 7 features, got shape (7, 2)"),
        ("width 0", torch.zeros(2, 0), ValueError, "the input must have 7 features, got shape (2, 0)"),
    ],
    (network,): [
        ("no sizes", [], ValueError, "the number of layer_sizes must be at least 2, got 0"),
        ("one size", [3], ValueError, "the number of layer_sizes must be at least 2, got 1"),
        ("size 0", [3, 0], ValueError, "layer_sizes[1] must be at least 1, got 0"),
        ("second size -1", (3, -1, 3), ValueError, "layer_sizes[1] must be at least 1, got -1"),
        ("size a float", [3, 2.5], TypeError, "layer_sizes[1] must be an integer, got 2.5"),
        ("size a str", ["3", 3], TypeError, "layer_sizes[0] must be an integer, got '3'"),
        ("last size True", [3, 3, True], TypeError, "layer_sizes[2] must be an integer, got True"),
        ("size None", [3, None], TypeError, "layer_sizes[1] must be an integer, got None"),
        ("size a list", [[3], 3], TypeError, "layer_sizes[0] must be an integer, got [3]"),
        ("sizes a str", "33", TypeError, "layer_sizes[0] must be an integer, got '3'"),
        ("of numpy", np.array([3, 3]), TypeError, "layer_sizes[0] must be an integer, got np.int64(3)"),
        ("a tensor", torch.tensor([3, 3]), TypeError, "layer_sizes[0] must be an integer, got tensor(3)"),
        ("one number", 3, TypeError, "'int' object is not iterable…"),
        ("sizes None", None, TypeError, "'NoneType' object is not iterable…"),
        ("a set", {3, 4}, TypeError, "'set' object is not subscriptable…"),
    ],
    (shortcuts,): [
        ("a str", "False", TypeError, "use_shortcut must be True or False, got 'False'"),
        ("None", None, TypeError, "use_shortcut must be True or False, got None"),
        ("1", 1, TypeError, "use_shortcut must be True or False, got 1"),
    ],
    (magnitudes,): [
        ("no parameter", nn.Identity(), RuntimeError, NO_WEIGHT),
        ("no name like that", LayerNorm(3), RuntimeError, NO_WEIGHT),
        ("none trainable", nn.Linear(3, 3).requires_grad_(False), RuntimeError, NO_WEIGHT),
        ("an activation", GELU(), RuntimeError, NO_WEIGHT),
        ("another width", nn.Linear(4, 3), RuntimeError, NOT_MULTIPLIED),
    ],
    (attention,): [
        ("5 heads", {"num_heads": 5}, ValueError, "d_out must be divisible by num_heads, got 24 and 5"),
        ("48 heads", {"num_heads": 48}, ValueError, "d_out must be divisible by num_heads, got 24 and 48"),
        ("num_heads 0", {"num_heads": 0}, ValueError, "num_heads must be at least 1, got 0"),
        ("num_heads True", {"num_heads": True}, TypeError, "num_heads must be an integer, got True"),
        ("d_in negative", {"d_in": -10}, ValueError, "d_in must be at least 1, got -10"),
        ("d_in of numpy", {"d_in": np.int64(10)}, TypeError, "d_in must be an integer, got np.int64(10)"),
        ("d_out a float", {"d_out": 24.0}, TypeError, "d_out must be an integer, got 24.0"),
        ("d_out 0", {"d_out": 0}, ValueError, "d_out must be at least 1, got 0"),
        ("context 0", {"context_length": 0}, ValueError, "context_length must be at least 1, got 0"),
        ("context '12'", {"context_length": "12"}, TypeError, "context_length must be an integer, got '12'"),
        ("dropout 1", {"dropout": 1}, ValueError, NOT_DROPOUT + "1"),
        ("dropout below 0", {"dropout": -1e-9}, ValueError, NOT_DROPOUT + "-1e-09"),
        ("dropout nan", {"dropout": math.nan}, ValueError, NOT_DROPOUT + "nan"),
        ("dropout inf", {"dropout": math.inf}, ValueError, NOT_DROPOUT + "inf"),
        ("dropout None", {"dropout": None}, TypeError, "dropout must be a number, got None"),
        ("dropout True", {"dropout": True}, TypeError, "dropout must be a number, got True"),
        ("qkv_bias a str", {"qkv_bias": "False"}, TypeError, NOT_BOOL + "'False'"),
        ("qkv_bias 0", {"qkv_bias": 0}, TypeError, NOT_BOOL + "0"),
    ],
    (ATTENTION,): [
        ("0-D", torch.zeros(()), ValueError, NOT_TOKENS + "()"),
        ("1-D", torch.zeros(10), ValueError, NOT_TOKENS + "(10,)"),
        ("2-D", torch.zeros(3, 10), ValueError, NOT_TOKENS + "(3, 10)"),
        ("4-D", torch.zeros(1, 1, 3, 10), ValueError, NOT_TOKENS + "(1, 1, 3, 10)"),
        ("13 tokens", torch.zeros(1, 13, 10), ValueError, SEQUENCE_13),
        ("width 9", torch.zeros(1, 3, 9), RuntimeError, NOT_MULTIPLIED),
        ("float64", torch.zeros(1, 3, 10).double(), RuntimeError, NOT_SAME_DTYPE),
        ("token ids", ids(1, 2), ValueError, NOT_TOKENS + "(1, 2)"),
        ("a list", [[[0.0] * 10]], AttributeError, "'list' object has no attribute…"),
    ],
    (FEED_FORWARD, NETWORK): [
        ("width 2", torch.zeros(1, 2), RuntimeError, NOT_MULTIPLIED),
        ("width 25", torch.zeros(1, 3, 25), RuntimeError, NOT_MULTIPLIED),
        ("no width", torch.zeros(()), RuntimeError, "both arguments to linear need to be at least 1D…"),
        ("a list", [1.0], TypeError, "linear(): argument 'input' (position 1) must be Tensor, not list…"),
    ],
    (GELU(),): [
        ("a list", [1.0], TypeError, "gelu(): argument 'input' (position 1) must be Tensor, not list…"),
    ],
    (BLOCK,): [
        ("2-D", torch.zeros(3, 24), ValueError, NOT_TOKENS + "(3, 24)"),
        ("13 tokens", torch.zeros(1, 13, 24), ValueError, SEQUENCE_13),
        ("width 23", torch.zeros(3, 23), ValueError, "the input must have 24 features, got shape (3, 23)"),
        ("width 1", torch.zeros(1, 3, 1), ValueError, "the input must have 24 features, got shape (1, 3, 1)"),
        ("token ids", ids(1, 2), ValueError, "the input must have 24 features, got shape (1, 2)"),
    ],
    (check_token_ids, MODEL, simple_ids, generate_none, decode): [
        ("float32", ids(1.0, 2.0), TypeError, NOT_IDS + "torch.float32"),
        ("float16", ids(1.0, 2.0).half(), TypeError, NOT_IDS + "torch.float16"),
        ("bfloat16", ids(1.0, 2.0).bfloat16(), TypeError, NOT_IDS + "torch.bfloat16"),
        ("complex", ids(1j), TypeError, NOT_IDS + "torch.complex64"),
        ("bool", ids(True, False), TypeError, NOT_IDS + "torch.bool"),
        ("int16", ids(1).short(), TypeError, NOT_IDS + "torch.int16"),
        ("uint8", ids(1).byte(), TypeError, NOT_IDS + "torch.uint8"),
        ("a list", [[1, 2]], TypeError, NOT_IDS + "list"),
        ("a list of tensors", [ids(1)], TypeError, NOT_IDS + "list"),
        ("an int", 7, TypeError, NOT_IDS + "int"),
        ("a str", "Hello", TypeError, NOT_IDS + "str"),
        ("bytes", b"Hello", TypeError, NOT_IDS + "bytes"),
        ("None", None, TypeError, NOT_IDS + "NoneType"),
        ("of numpy", np.array([[1, 2]]), TypeError, NOT_IDS + "ndarray"),
        ("0-D", torch.tensor(1), ValueError, NOT_BATCH + "()"),
        ("3-D", torch.ones(1, 2, 3, dtype=torch.long), ValueError, NOT_BATCH + "(1, 2, 3)"),
        ("no token", torch.ones(1, 0, dtype=torch.long), ValueError, NOT_BATCH + "(1, 0)"),
        ("no sequence", torch.ones(0, 4, dtype=torch.long), ValueError, NOT_BATCH + "(0, 4)"),
    ],
    (check_token_ids, MODEL, simple_ids, generate_none): [
        ("1-D", torch.tensor([1, 2]), ValueError, NOT_BATCH + "(2,)"),
    ],
    (MODEL, simple_ids, generate_ids): [
        ("id 61 of 61", ids(0, 61), ValueError, OUTSIDE_61 + "0 to 61"),
        ("id -1", ids(-1, 3), ValueError, OUTSIDE_61 + "-1 to 3"),
        ("id 2**40", ids(2**40), ValueError, OUTSIDE_61 + "1099511627776 to 1099511627776"),
        ("id -100", ids(-100).int(), ValueError, OUTSIDE_61 + "-100 to -100"),
    ],
    (MODEL,): [
        ("13 tokens", ids(*range(13)), ValueError, SEQUENCE_13),
    ],
    (tie,): [
        ("a smaller V", nn.Linear(24, 60), ValueError, NOT_TIED + "(60, 24)"),
        ("a larger V", nn.Linear(24, 62), ValueError, NOT_TIED + "(62, 24)"),
        ("another D", nn.Linear(23, 61), ValueError, NOT_TIED + "(61, 23)"),
        ("no weight", nn.Identity(), AttributeError, "'Identity' object has no attribute 'weight'…"),
    ],
    (load,): [
        ("unknown weight", {"trf_blocks.0.att.other": torch.ones(1)}, RuntimeError, UNKNOWN_WEIGHT),
    ],
    (simple, generate): [
        ("new tokens -1", {"max_new_tokens": -1}, ValueError, "max_new_tokens must be at least 0, got -1"),
        ("max_new_tokens 2.0", {"max_new_tokens": 2.0}, TypeError, NOT_COUNT + "2.0"),
        ("max_new_tokens None", {"max_new_tokens": None}, TypeError, NOT_COUNT + "None"),
        ("max_new_tokens True", {"max_new_tokens": True}, TypeError, NOT_COUNT + "True"),
        ("max_new_tokens inf", {"max_new_tokens": math.inf}, TypeError, NOT_COUNT + "inf"),
        ("max_new_tokens a tensor", {"max_new_tokens": torch.tensor(2)}, TypeError, NOT_COUNT + "tensor(2)"),
        ("context_size 0", {"context_size": 0}, ValueError, "context_size must be at least 1, got 0"),
        ("context_size -12", {"context_size": -12}, ValueError, "context_size must be at least 1, got -12"),
        ("context_size a str", {"context_size": "12"}, TypeError, NOT_SIZE + "'12'"),
        ("context_size True", {"context_size": True}, TypeError, NOT_SIZE + "True"),
        ("context_size None", {"context_size": None}, TypeError, NOT_SIZE + "None"),
        ("context_size of numpy", {"context_size": np.int64(12)}, TypeError, NOT_SIZE + "np.int64(12)"),
        ("a window of 13", {"idx": ids(*range(20)), "context_size": 13}, ValueError, SEQUENCE_13),
        ("12 + 2 tokens", {"idx": ids(*range(12)), "context_size": 99}, ValueError, SEQUENCE_13),
        ("2 + 12 tokens", {"max_new_tokens": 12, "context_size": 99}, ValueError, SEQUENCE_13),
        ("no model", {"model": None}, TypeError, "'NoneType' object is not callable…"),
    ],
    (generate,): [
        ("temperature -1", {"temperature": -1}, ValueError, NOT_IN_RANGE + "-1"),
        ("temperature below 0", {"temperature": -1e-9}, ValueError, NOT_IN_RANGE + "-1e-09"),
        ("temperature nan", {"temperature": math.nan}, ValueError, NOT_IN_RANGE + "nan"),
        ("temperature inf", {"temperature": math.inf}, ValueError, NOT_IN_RANGE + "inf"),
        ("temperature -inf", {"temperature": -math.inf}, ValueError, NOT_IN_RANGE + "-inf"),
        ("temperature True", {"temperature": True}, TypeError, NOT_TEMPERATURE + "True"),
        ("temperature None", {"temperature": None}, TypeError, NOT_TEMPERATURE + "None"),
        ("temperature a str", {"temperature": "1"}, TypeError, NOT_TEMPERATURE + "'1'"),
        ("temperature complex", {"temperature": 1j}, TypeError, NOT_TEMPERATURE + "1j"),
        ("temperature a tensor", {"temperature": torch.ones(())}, TypeError, NOT_TEMPERATURE + "tensor(1.)"),
        ("top_k 0", {"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ("top_k -1", {"top_k": -1}, ValueError, "top_k must be at least 1, got -1"),
        ("top_k 1.5", {"top_k": 1.5}, TypeError, NOT_TOP_K + "1.5"),
        ("top_k True", {"top_k": True}, TypeError, NOT_TOP_K + "True"),
        ("top_k a str", {"top_k": "5"}, TypeError, NOT_TOP_K + "'5'"),
        ("top_k 0, sampling", {"top_k": 0, "temperature": 1}, ValueError, "top_k must be at least 1, got 0"),
        ("top_p 0", {"top_p": 0}, ValueError, NOT_TOP_P + "0"),
        ("top_p below 0", {"top_p": -1e-9}, ValueError, NOT_TOP_P + "-1e-09"),
        ("top_p above 1", {"top_p": 1.001}, ValueError, NOT_TOP_P + "1.001"),
        ("top_p inf", {"top_p": math.inf}, ValueError, NOT_TOP_P + "inf"),
        ("top_p nan", {"top_p": math.nan}, ValueError, NOT_TOP_P + "nan"),
        ("top_p False", {"top_p": False}, ValueError, NOT_TOP_P + "False"),
        ("top_p a str", {"top_p": "0.9"}, TypeError, "'<' not supported between instances…"),
        ("top_p 0, sampling", {"top_p": 0, "temperature": 1}, ValueError, NOT_TOP_P + "0"),
        ("logits nan", logits(math.nan), ValueError, NAN),
        ("logits nan, greedy", {**logits(math.nan), "temperature": 0}, ValueError, NAN),
        ("logits inf", logits(math.inf), ValueError, NAN),
        ("eos_id -1", {"eos_id": -1}, ValueError, "eos_id must be at least 0, got -1"),
        ("eos_id a float", {"eos_id": 1.0}, TypeError, NOT_EOS + "1.0"),
        ("eos_id False", {"eos_id": False}, TypeError, NOT_EOS + "False"),
        ("eos_id a tensor", {"eos_id": torch.tensor(1)}, TypeError, NOT_EOS + "tensor(1)"),
        ("eos_id a str", {"eos_id": "<|endoftext|>"}, TypeError, NOT_EOS + "'<|endoftext|>'"),
    ],
    (generate, stream): [
        ("generator 123", {"generator": 123, "temperature": 1.0}, TypeError, NOT_GENERATOR),
        ("generator True", {"generator": True, "temperature": 1.0}, TypeError, NOT_GENERATOR),
        ("of numpy", {"generator": np.random.default_rng(), "temperature": 1.0}, TypeError, NOT_GENERATOR),
    ],
    (encode,): [
        ("no text", "", ValueError, NOT_BATCH + "(1, 0)"),
        ("None", None, TypeError, "'None' is not an instance of 'str'…"),
        ("a number", 7, TypeError, "'int' object is not an instance of 'str'…"),
        ("bytes", b"Hello", TypeError, "'bytes' object is not an instance of 'str'…"),
        ("a list", ["Hello"], TypeError, "'list' object is not an instance of 'str'…"),
        ("token ids", ids(1, 2), TypeError, "'Tensor' object is not an instance of 'str'…"),
    ],
    (decode,): [
        ("two sequences", torch.ones(2, 3, dtype=torch.long), ValueError, NOT_ONE + "(2, 3)"),
        ("1-D, no token", torch.ones(0, dtype=torch.long), ValueError, NOT_BATCH + "(1, 0)"),
        ("1-D, float32", torch.tensor([1.0]), TypeError, NOT_IDS + "torch.float32"),
        ("id 50257", ids(50257), ValueError, OUTSIDE_GPT2 + "50257 to 50257"),
        ("1-D, id 50257", torch.tensor([50257]), ValueError, OUTSIDE_GPT2 + "50257 to 50257"),
        ("ids -1 and 2**40", ids(-1, 2**40), ValueError, OUTSIDE_GPT2 + "-1 to 1099511627776"),
    ],
}


def name(part):
    """GPTModel for the class, "a GPTModel" for a model."""
    return getattr(part, "__name__", f"a {type(part).__name__}")


CASES = {
    f"{name(part)}: {what}": (part, given, error, message)
    for parts, rows in TABLE.items()
    for what, given, error, message in rows
    for part in parts
}


def state():
    """All that a refusal could have changed: parameters, random numbers, modes and the constants."""
    tensors = {**PARTS.state_dict(), "random": torch.get_rng_state()}
    modes = [module.training for module in PARTS.modules()] + [torch.is_grad_enabled()]
    return {key: tensor.clone() for key, tensor in tensors.items()}, [modes, repr(GPT2_CONFIGS)]


@pytest.mark.parametrize("part, given, error, message", CASES.values(), ids=CASES)
def test_refusal(part, given, error, message):
    (tensors, rest), text = state(), repr(given)
    with pytest.raises(error) as caught:
        part(given)
    assert type(caught.value) is error
    beginning, own, _ = message.partition("…")
    assert str(caught.value).startswith(beginning) if own else str(caught.value) == message
    tensors_after, rest_after = state()
    assert rest == rest_after and text == repr(given)
    assert all(torch.equal(tensor, tensors_after[key]) for key, tensor in tensors.items())


def test_no_case_hides_another():
    """Two rows of the same words would be one case."""
    assert len(CASES) == sum(len(parts) * len(rows) for parts, rows in TABLE.items())
