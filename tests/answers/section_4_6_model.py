"""Answers to the exercises of 4.6 that build or change a model."""

import copy
import functools
import math

import torch
from torch import nn
from torch.nn import functional as F

from helpers import GPTModel, TransformerBlock, tie_weights
from notebooks.checks.require import SMALL

from .variants import forward, init

RIGHT, WRONG = {}, {}


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


class GPTOfTheBook(GPTModel):
    def forward(self, in_idx: torch.Tensor) -> torch.Tensor:
        batch_size, seq_len = in_idx.shape
        tok_embeds = self.tok_emb(in_idx)
        pos_embeds = self.pos_emb(torch.arange(seq_len, device=in_idx.device))
        x = tok_embeds + pos_embeds
        x = self.drop_emb(x)
        x = self.trf_blocks(x)
        x = self.final_norm(x)
        logits = self.out_head(x)
        return logits


class GPTOfSlices(GPTModel):
    """The first rows of the positions, dropout by function, and everything folded into one."""

    def forward(self, idx, targets=None):
        rows = self.pos_emb.weight[: idx.size(-1)]
        x = F.dropout(F.embedding(idx, self.tok_emb.weight) + rows, self.drop_emb.p, self.training)
        return self.out_head(
            functools.reduce(lambda x, layer: layer(x), [*self.trf_blocks, self.final_norm], x)
        )


class GPTOfMethods(GPTModel):
    def embed(self, ids):
        return self.drop_emb(self.tok_emb(ids).add_(self.pos_emb.weight[None, : ids.shape[1], :]))

    def unembed(self, x):
        return self.final_norm(x) @ self.out_head.weight.mT

    def forward(self, in_idx):
        return self.unembed(self.trf_blocks.forward(self.embed(in_idx)))


def reverse(self, t, p):
    x = t + p
    for layer in reversed(self.trf_blocks):
        x = layer(x)
    return self.out_head(self.final_norm(x))


def unembed(self, x):
    return self.out_head(self.final_norm(x))


def norm_in_between(self, t, p):
    x = t + p
    for layer in self.trf_blocks:
        x = self.final_norm(layer(x))
    return self.out_head(x)


def blocks_side_by_side(self, t, p):
    return unembed(self, sum(layer(t + p) for layer in self.trf_blocks))


def with_shortcuts(self, t, p):
    x = t + p
    for layer in self.trf_blocks:
        x = x + layer(x)
    return unembed(self, x)


def shifted(self, ids):
    return rest(self, self.tok_emb(ids) + self.pos_emb(torch.arange(1, ids.shape[1] + 1)))


def last_position_row(self, ids):
    return rest(self, self.tok_emb(ids) + self.pos_emb(torch.tensor(ids.shape[1])))


def undropped(self, x):
    return self.out_head(self.final_norm(self.trf_blocks(x)))


def late_dropout(self, x):
    return self.out_head(self.final_norm(self.drop_emb(self.trf_blocks(x))))


RIGHT["gpt_model"] = [GPTInOtherStyle, GPTOfLists, GPTOfTheBook, GPTOfSlices, GPTOfMethods]
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
        "drop_emb has no effect in training",
    ),
    (GPTModel, "Write it yourself: the course's GPTModel.forward is out of reach"),
    (type("Inherited", (GPTModel,), {}), "is the name misspelled?"),
    (forward(GPTModel, lambda self, ids: GPTModel.forward(self, ids)), "Write it yourself"),
    (gpt(lambda self, t, p: rest(self, p.expand_as(t))), "The tokens are missing"),
    (gpt(lambda self, t, p: rest(self, t + p.flip(0))), "The positions run backward"),
    (gpt(lambda self, t, p: rest(self, t + p[:1])), "Every token gets the same position"),
    (gpt(norm_in_between), "The final norm comes after every block"),
    (gpt(blocks_side_by_side), "Every block gets the embeddings"),
    (gpt(with_shortcuts), "There are shortcuts around the blocks"),
    (gpt(lambda self, t, p: unembed(self, self.trf_blocks[:-1](t + p))), "The last block is left out"),
    (gpt(lambda self, t, p: rest(self, t + p[:5])), "For a text as long as the context"),
    (
        gpt(lambda self, t, p: rest(self, t + p).squeeze(1)),
        "For a text of one token it gives the shape (2, 31)",
    ),
    (gpt(lambda self, t, p: undropped(self, self.drop_emb(t) + self.drop_emb(p))), "one dropout too many"),
    (gpt(lambda self, t, p: rest(self, self.drop_emb(t + p))), "one dropout too many"),
    (gpt(lambda self, t, p: self.drop_emb(rest(self, t + p))), "one dropout too many"),
    (gpt(lambda self, t, p: self.drop_emb(undropped(self, t + p))), "drop_emb comes after the blocks"),
    (gpt(lambda self, t, p: undropped(self, F.dropout(t + p, 0.1, self.training))), "rate 0.1"),
    (gpt(lambda self, t, p: rest(self, t + p).mT), "With random weights it gives the shape (2, 31, 5)"),
    (gpt(lambda self, t, p: rest(self, t + p).argmax(-1)), "the right type is torch.float32"),
    (gpt(lambda self, t, p: (rest(self, t + p), None)), "It returns a tuple"),
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


@torch.no_grad()
def grow(model, new_size, embedding=True, head=True, tie=True, at=0):
    """New layers into which the old rows are copied; each step can be left out."""
    tied = model.out_head.weight is model.tok_emb.weight
    old_embedding, old_head = model.tok_emb.weight, model.out_head.weight
    old_size, D = old_embedding.shape
    start = at * (new_size - old_size)
    if embedding:
        model.tok_emb = nn.Embedding(new_size, D)
        model.tok_emb.weight[start : start + old_size] = old_embedding
    if head:
        model.out_head = nn.Linear(D, new_size, bias=False)
        model.out_head.weight[start : start + old_size] = old_head
    if tied and tie:
        model.out_head.weight = model.tok_emb.weight


def grow_in_place(gpt, size):
    """The layers stay and get other weights, one for both if they are tied."""
    layers = [gpt.tok_emb, gpt.out_head]
    parameters = {}
    for layer in layers:
        weight = layer.weight
        if id(weight) not in parameters:
            new_rows = 0.02 * torch.randn(size - len(weight), weight.shape[1])
            parameters[id(weight)] = nn.Parameter(torch.cat([weight.detach(), new_rows]))
        layer.weight = parameters[id(weight)]
    gpt.tok_emb.num_embeddings = gpt.out_head.out_features = size
    return gpt


def grow_by_lists(model: GPTModel, new_size: int) -> None:
    more = new_size - model.tok_emb.num_embeddings
    mean = model.tok_emb.weight.data.mean(0, keepdim=True)
    rows = torch.vstack([*model.tok_emb.weight.data, *[mean] * more])
    if model.out_head.weight is model.tok_emb.weight:
        model.tok_emb = nn.Embedding.from_pretrained(rows, freeze=False)
        model.out_head = nn.Linear(rows.shape[1], new_size, bias=False)
        tie_weights(model)
    else:
        columns = F.pad(model.out_head.weight.data, (0, 0, 0, more))
        model.tok_emb = nn.Embedding(*rows.shape, _weight=rows)
        model.out_head = nn.Linear(rows.shape[1], new_size, False)
        model.out_head.load_state_dict({"weight": columns})


class Grow:
    """A callable object that takes the new layers from another model."""

    def __call__(self, model, size):
        tied = model.tok_emb.weight is model.out_head.weight
        cfg = {**SMALL, "vocab_size": size, "emb_dim": model.tok_emb.embedding_dim}
        other = GPTModel(cfg)
        with torch.no_grad():
            for old, new in ((model.tok_emb, other.tok_emb), (model.out_head, other.out_head)):
                new.weight[: len(old.weight)].copy_(old.weight)
        model.tok_emb, model.out_head = other.tok_emb, other.out_head
        if tied:
            tie_weights(model)


def grow_without_size(model, size):
    grow_in_place(model, size)
    model.tok_emb.num_embeddings = len(model.tok_emb.weight) - (6 if size == 37 else 1)


def grow_with(change):
    """The right way, and then a change too many, given the model."""

    def function(model, size):
        grow(model, size)
        change(model)

    return function


def grow_another(model, size):
    return grow(copy.deepcopy(model), size)


def grow_from_scratch(model, size):
    tied = model.out_head.weight is model.tok_emb.weight
    model.tok_emb, model.out_head = nn.Embedding(size, 8), nn.Linear(8, size, bias=False)
    if tied:
        tie_weights(model)


def grow_biased(model, size):
    grow(model, size)
    weight = model.out_head.weight
    model.out_head = nn.Linear(weight.shape[1], size)
    model.out_head.weight = weight


RIGHT["grow_vocabulary"] = [
    grow,
    grow_in_place,
    grow_by_lists,
    Grow(),
    functools.partial(grow, tie=True),
    lambda model, new_size: (grow(model, new_size), ...)[1],
]
WRONG["grow_vocabulary"] = [
    (lambda model, size: None, "tok_emb has 31 rows as before; the model itself must change"),
    (grow_another, "tok_emb has 31 rows as before; the model itself must change"),
    (functools.partial(grow, head=False), "out_head has 31 rows as before"),
    (functools.partial(grow, embedding=False), "tok_emb has 31 rows as before"),
    (lambda model, size: grow(model, 31 + size), "With a new size of 37, tok_emb has 68 rows."),
    (functools.partial(grow, tie=False), "The head was tied to the embedding, and no longer is"),
    (grow_with(tie_weights), "The head had its own weights, and is tied to the embedding now"),
    (functools.partial(grow, at=1), "In a model that is untied, the old rows of tok_emb have moved"),
    (grow_from_scratch, "the old rows of tok_emb don't have their old values"),
    (grow_with(lambda model: model.tok_emb.weight.data.mul_(2)), "old rows of tok_emb don't have"),
    (grow_with(lambda model: model.out_head.weight.data.mul_(2)), "old rows of out_head don't have"),
    (grow_with(lambda model: model.pos_emb.weight.data.mul_(2)), "Another part has changed, too"),
    (
        grow_with(lambda model: model.out_head.weight.requires_grad_(False)),
        "out_head would no longer be trained",
    ),
    (
        grow_with(lambda model: model.tok_emb.weight.data[-1:].fill_(math.nan)),
        "nan or infinity in the new rows",
    ),
    (grow_with(lambda model: setattr(model, "out_head", model.tok_emb)), "out_head is an Embedding now"),
    (grow_without_size, "tok_emb.num_embeddings is still 31"),
    (grow_biased, "out_head has a bias now"),
    (
        grow_with(lambda model: model.tok_emb.register_forward_hook(lambda *a: 2 * a[-1])),
        "For the old tokens, after",
    ),
    (None, "Hand over the function"),
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


class GPTWithRates(GPTModel):
    """A model of its own, made with all of the rates."""

    def __init__(self, cfg, emb, att, shortcut):
        super().__init__({**cfg, "drop_rate": emb})
        for one in self.trf_blocks:
            for module, rate in ((one.att.dropout, att), (one.drop_shortcut, shortcut)):
                module.p = rate


def by_module(cfg: dict, emb_rate: float, att_rate: float, shortcut_rate: float) -> GPTModel:
    model = GPTModel(dict(cfg, drop_rate=att_rate))
    for name, module in model.named_modules():
        if name == "drop_emb":
            module.p = emb_rate
        if name.endswith("drop_shortcut"):
            module.p = shortcut_rate
    return model


def by_new_blocks(cfg, emb, att, shortcut):
    model = GPTModel({**cfg, "n_layers": 1, "drop_rate": emb})
    blocks = [TransformerBlock({**cfg, "drop_rate": att}) for _ in range(cfg["n_layers"])]
    for one in blocks:
        one.drop_shortcut = nn.Dropout(shortcut)
    model.trf_blocks = nn.Sequential(*blocks)
    return model.train()


def or_the_configurations(cfg, *rates):
    return with_rates(0, 1, 2)(cfg, *(rate or cfg["drop_rate"] for rate in rates))


def without_dropout_in_attention(cfg, *rates):
    model = with_rates(0, 1, 2)(cfg, *rates)
    for one in model.trf_blocks:
        one.att.dropout.p = 0
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


RIGHT["separate_dropout"] = [with_rates(0, 1, 2), new_dropouts, GPTWithRates, by_module, by_new_blocks]
WRONG["separate_dropout"] = [
    (with_rates(0, 2, 1), "attention and shortcuts are swapped"),
    (with_rates(None, 1, 2), "The embeddings keep"),
    (with_rates(0, 0, 0), "The first rate is used everywhere"),
    (with_rates(), "The configuration's rate is used everywhere"),
    (with_rates(0), "Only the embeddings get their rate"),
    (with_rates(0, 1, 2, slice(0, 1)), "Only the first block"),
    (with_rates(0, 1, 2, slice(-1, None)), "Only the last block"),
    (with_rates(0, 1, None), "The shortcuts keep"),
    (with_rates(0, None, 2), "Attention keeps"),
    (with_rates(1, 0, 2), "rates of embeddings and attention are swapped"),
    (with_rates(2, 1, 0), "rates of embeddings and shortcuts are swapped"),
    (with_rates(1, 1, 1), "With 0.1, 0.2, 0.3"),
    (lambda *a: None, "it should return a GPTModel"),
    (without_blocks, "a pass in training drops at [0.1, 0.2, 0.3, 0.3, 0.2, 0.3, 0.3]"),
    (without_shortcut_dropout, "The model that it returns can't run"),
    (without_head, "The model doesn't return logits"),
    (lambda *a: with_rates(0, 1, 2)(*a).eval(), "The model is in eval mode"),
    (or_the_configurations, "With three rates of 0, a pass in training still drops"),
    (without_dropout_in_attention, "a pass in training drops at [0.1, 0.3, 0.3, 0.3"),
    (rates_in_place, "It changes cfg; work on a copy"),
    (one_block, "Is each block one of its own?"),
]
