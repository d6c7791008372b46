"""Answers to the exercises of 4.6, on the GPT model."""

import torch
from torch import nn
from torch.nn import functional as F

from helpers import GPTModel, TransformerBlock, count_parameters
from notebooks.checks.require import SMALL

from .variants import forward, init

RIGHT, WRONG = {}, {}

RIGHT["why_124m"] = ["d"]
WRONG["why_124m"] = [
    (None, "Choose one of"),
]


def by_formula(cfg):
    D, L = cfg["emb_dim"], cfg["n_layers"]
    return L * (4 * D * D + D + 3 * D * cfg["qkv_bias"]), L * (8 * D * D + 5 * D)


def by_building(cfg):
    with torch.device("meta"):
        blocks = [TransformerBlock(cfg) for _ in range(cfg["n_layers"])]
    return [sum(count_parameters(getattr(b, part)) for b in blocks) for part in ("att", "ff")]


def parts(attention=lambda cfg: 0, feed_forward=lambda cfg: 0):
    """The right counts, less what the two functions say for one block."""

    def function(cfg):
        att, ff = by_formula(cfg)
        return att - cfg["n_layers"] * attention(cfg), ff - cfg["n_layers"] * feed_forward(cfg)

    return function


def count_in_place(cfg):
    cfg["qkv_bias"] = True
    return by_formula(cfg)


RIGHT["part_counts"] = [by_formula, by_building]
WRONG["part_counts"] = [
    (lambda cfg: tuple(n // cfg["n_layers"] for n in by_formula(cfg)), "That is one block"),
    (lambda cfg: by_formula(cfg)[::-1], "Attention first"),
    (parts(lambda cfg: -3 * cfg["emb_dim"] * (not cfg["qkv_bias"])), "With qkv_bias False"),
    (parts(lambda cfg: 3 * cfg["emb_dim"] * cfg["qkv_bias"]), "With qkv_bias True, query"),
    (parts(lambda cfg: cfg["emb_dim"]), "out_proj has a bias"),
    (parts(lambda cfg: cfg["emb_dim"] ** 2 + cfg["emb_dim"]), "out_proj is one of them"),
    (parts(feed_forward=lambda cfg: 5 * cfg["emb_dim"]), "have biases, 4D and D"),
    (
        lambda cfg: (4 * cfg["n_layers"] * cfg["emb_dim"] ** 2, 8 * cfg["n_layers"] * cfg["emb_dim"] ** 2),
        "Biases",
    ),
    (parts(feed_forward=lambda cfg: -4 * cfg["emb_dim"]), "they belong to neither"),
    (lambda cfg: None, "is a `return` missing?"),
    (lambda cfg: sum(by_formula(cfg)), "A tuple of 2 numbers is wanted"),
    (count_in_place, "It changes cfg; work on a copy"),
]
MB = 2**20


def size(cfg):
    with torch.device("meta"):
        n = count_parameters(GPTModel(cfg))
    return n, n * 4 / MB


def size_by_formula(cfg):
    V, T, D, L = (cfg[key] for key in ("vocab_size", "context_length", "emb_dim", "n_layers"))
    n = (2 * V + T + 2) * D + L * (12 * D * D + (10 + 3 * cfg["qkv_bias"]) * D)
    return [n, round(n / 262_144, 2)]


def smaller(difference):
    """The size of a model in which difference(V, T, D, L) parameters are forgotten."""

    def function(cfg):
        n = size(cfg)[0] - difference(
            cfg["vocab_size"], cfg["context_length"], cfg["emb_dim"], cfg["n_layers"]
        )
        return n, n * 4 / MB

    return function


def other_unit(factor):
    return lambda cfg: (size(cfg)[0], size(cfg)[0] * factor)


RIGHT["model_size"] = [size, size_by_formula]
WRONG["model_size"] = [
    (smaller(lambda V, T, D, L: V * D), "The head is tied"),
    (smaller(lambda V, T, D, L: T * D), "The positional embedding is not counted"),
    (smaller(lambda V, T, D, L: 2 * D), "The final norm is not counted"),
    (smaller(lambda V, T, D, L: 4 * L * D), "The norms of the blocks"),
    (smaller(lambda V, T, D, L: (2 * V + T + 2) * D), "Only the blocks are counted"),
    (other_unit(4 / 1e6), "not a million"),
    (other_unit(2 / MB), "4 bytes, not 2"),
    (other_unit(4 / 2**30), "That is GB"),
    (other_unit(4), "the number of bytes"),
    (other_unit(1 / MB), "Each parameter takes 4 bytes"),
    (lambda cfg: size(cfg)[::-1], "First the parameters"),
    (other_unit(16 / MB), "16 bytes are for training"),
    (lambda cfg: None, "where two numbers are wanted"),
    (lambda cfg: size(cfg)[0], "A tuple of 2 numbers is wanted, not 1"),
    (lambda cfg: size({**cfg, "qkv_bias": False}), "For a smaller configuration it gives"),
]


def gpt(function):
    """A model whose forward pass is function(self, tokens, positions), both embedded."""

    def run(self, ids):
        return function(self, self.tok_emb(ids), self.pos_emb(torch.arange(ids.shape[1])))

    return forward(GPTModel, run)


def rest(self, x):
    return self.out_head(self.final_norm(self.trf_blocks(self.drop_emb(x))))


class GPTInOtherStyle(GPTModel):
    """The blocks in a loop, the positions written out, the head by F.linear."""

    def forward(self, in_idx):
        batch, length = in_idx.shape
        positions = torch.arange(length).unsqueeze(0).expand(batch, length)
        hidden = self.drop_emb(torch.add(self.pos_emb(positions), self.tok_emb(in_idx)))
        for layer in self.trf_blocks:
            hidden = layer(hidden)
        return F.linear(self.final_norm(hidden), self.out_head.weight)


class GPTOfLists(GPTModel):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.trf_blocks = nn.ModuleList(self.trf_blocks)

    forward = GPTInOtherStyle.forward


def reverse(self, t, p):
    x = t + p
    for layer in reversed(self.trf_blocks):
        x = layer(x)
    return self.out_head(self.final_norm(x))


def shifted(self, ids):
    return rest(self, self.tok_emb(ids) + self.pos_emb(torch.arange(1, ids.shape[1] + 1)))


def last_position_row(self, ids):
    return rest(self, self.tok_emb(ids) + self.pos_emb(torch.tensor(ids.shape[1])))


def undropped(self, x):
    return self.out_head(self.final_norm(self.trf_blocks(x)))


def late_dropout(self, x):
    return self.out_head(self.final_norm(self.drop_emb(self.trf_blocks(x))))


RIGHT["gpt_model"] = [GPTModel, GPTInOtherStyle, GPTOfLists]
WRONG["gpt_model"] = [
    (gpt(lambda self, t, p: rest(self, t)), "The positions are missing"),
    (forward(GPTModel, shifted), "The positions start at 1"),
    (forward(GPTModel, last_position_row), "Every token gets the same position"),
    (gpt(lambda self, t, p: rest(self, t * p)), "is multiplied; add it"),
    (gpt(lambda self, t, p: self.out_head(self.trf_blocks(t + p))), "The final norm is missing"),
    (gpt(lambda self, t, p: self.out_head(self.trf_blocks(self.final_norm(t + p)))), "before the blocks"),
    (gpt(lambda self, t, p: self.final_norm(self.trf_blocks(t + p))), "The output head is missing"),
    (gpt(lambda self, t, p: self.trf_blocks(t + p)), "The output head and the final norm are missing"),
    (gpt(lambda self, t, p: self.out_head(self.final_norm(t + p))), "The blocks are missing"),
    (
        gpt(lambda self, t, p: self.out_head(self.final_norm(self.trf_blocks[0](t + p)))),
        "Only the first block",
    ),
    (
        gpt(lambda self, t, p: self.out_head(self.final_norm(self.trf_blocks[-1](t + p)))),
        "Only the last block",
    ),
    (gpt(reverse), "in reverse order"),
    (gpt(lambda self, t, p: rest(self, t + p).softmax(-1)), "It returns probabilities"),
    (gpt(lambda self, t, p: rest(self, t + p).log_softmax(-1)), "It returns log-probabilities"),
    (gpt(lambda self, t, p: rest(self, t + p)[:, -1]), "the last position only"),
    (gpt(lambda self, t, p: rest(self, t + p)[:, -1:]), "the last position only"),
    (
        gpt(lambda self, t, p: self.final_norm(self.trf_blocks(t + p)) @ self.tok_emb.weight.T),
        "The scores come from the embedding",
    ),
    (
        gpt(lambda self, t, p: self.out_head(self.final_norm(self.trf_blocks(t + p)))),
        "Dropout on the embeddings",
    ),
    (init(lambda self, cfg: None, lambda self, ids: torch.zeros(2, 5, 31)), "missing: tok_emb, pos_emb"),
    (gpt(lambda self, t, p: 2 * rest(self, t + p)), "With random weights it gives"),
    (type("Misspelt", (GPTModel,), {"foward": GPTModel.forward}), "is the name misspelled?"),
    (
        gpt(lambda self, t, p: rest(self, t + p).squeeze(0)),
        "For a batch of one text it gives the shape (5, 31)",
    ),
    (gpt(lambda self, t, p: late_dropout(self, t + p)), "drop_emb comes after the blocks"),
    (gpt(lambda self, t, p: undropped(self, self.drop_emb(t) + p)), "Only the tokens are dropped"),
    (gpt(lambda self, t, p: undropped(self, t + self.drop_emb(p))), "Only the positions are dropped"),
    (forward(GPTModel, torch.no_grad()(GPTInOtherStyle.forward)), "no gradient flows back"),
    (gpt(lambda self, t, p: undropped(self, F.dropout(t + p, self.drop_emb.p))), "Dropout acts in eval mode"),
]


def tie(model):
    model.out_head.weight = model.tok_emb.weight


def tie_by_register(gpt):
    gpt.out_head.register_parameter("weight", gpt.tok_emb.weight)
    return gpt


def tie_data(model):
    model.out_head.weight.data = model.tok_emb.weight.data


def tie_copy(model):
    with torch.no_grad():
        model.out_head.weight.copy_(model.tok_emb.weight)


def tie_backwards(model):
    model.tok_emb.weight = model.out_head.weight


def tie_scaled(model):
    tie(model)
    model.tok_emb.weight.data.mul_(0.02)


def tie_another(model):
    return tie(GPTModel(SMALL))


def tie_random(model):
    nn.init.normal_(model.out_head.weight)


def tie_and_extend(model):
    tie(model)
    model.extra = nn.Parameter(torch.zeros(3))


RIGHT["tie_weights"] = [tie, tie_by_register, lambda model: (tie(model), ...)[1]]
WRONG["tie_weights"] = [
    (tie_data, "They share memory, but are still two parameters"),
    (tie_copy, "The numbers are copied"),
    (tie_backwards, "Tied the wrong way round"),
    (tie_another, "The head still has its own weight"),
    (tie_random, "out_head.weight is not tok_emb.weight"),
    (tie_scaled, "The numbers of the embedding have changed"),
    (tie_and_extend, "The model has"),
    (None, "Hand over the function"),
    (lambda model: setattr(model, "out_head", model.tok_emb), "out_head is no longer a linear layer"),
]


def with_rates(emb=None, att=None, shortcut=None, blocks=slice(None)):
    """Builds a model and sets its rates: each an index into the three given ones, or None to leave it."""

    def function(cfg, *rates):
        model = GPTModel(cfg)
        if emb is not None:
            model.drop_emb.p = rates[emb]
        for one in model.trf_blocks[blocks]:
            if att is not None:
                one.att.dropout.p = rates[att]
            if shortcut is not None:
                one.drop_shortcut.p = rates[shortcut]
        return model

    return function


def new_dropouts(cfg, emb, att, shortcut):
    """In another style: new modules in place of the old ones."""
    model = GPTModel({**cfg, "drop_rate": shortcut})
    model.drop_emb = nn.Dropout(emb)
    for one in model.trf_blocks.children():
        one.att.dropout = nn.Dropout(att)
    return model


def without_blocks(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    model.trf_blocks = model.trf_blocks[:2]
    return model


def without_shortcut_dropout(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    del model.trf_blocks[1].drop_shortcut
    return model


def without_head(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    model.out_head = nn.Identity()
    return model


def rates_in_place(cfg, *rates):
    cfg["drop_rate"] = rates[2]
    return with_rates(0, 1)(cfg, *rates)


def one_block(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    model.trf_blocks = nn.Sequential(*[model.trf_blocks[0]] * cfg["n_layers"])
    return model


RIGHT["separate_dropout"] = [with_rates(0, 1, 2), new_dropouts]
WRONG["separate_dropout"] = [
    (with_rates(0, 2, 1), "attention and shortcut are swapped"),
    (with_rates(None, 1, 2), "The embedding keeps"),
    (with_rates(0, 0, 0), "The first rate is used everywhere"),
    (with_rates(), "The configuration's rate is used everywhere"),
    (with_rates(0), "Only the embedding gets its rate"),
    (with_rates(0, 1, 2, slice(0, 1)), "Only the first block"),
    (with_rates(0, 1, 2, slice(-1, None)), "Only the last block"),
    (with_rates(0, 1, None), "The shortcuts keep"),
    (with_rates(0, None, 2), "Attention keeps"),
    (with_rates(1, 0, 2), "Embedding and attention are swapped"),
    (with_rates(2, 1, 0), "Embedding and shortcut are swapped"),
    (with_rates(1, 1, 1), "With 0.1, 0.2, 0.3"),
    (lambda *a: None, "where a GPTModel is wanted"),
    (without_blocks, "The model has 2 blocks"),
    (without_shortcut_dropout, "A part is missing"),
    (without_head, "The model has 2976 parameters; 3224 are right"),
    (rates_in_place, "It changes cfg; work on a copy"),
    (one_block, "Is each block one of its own?"),
]
