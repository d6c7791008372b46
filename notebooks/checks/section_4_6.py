"""The exercises of 4.6, on the GPT model."""

import torch
from torch import nn

# the shipped ones, whatever `use` puts in their place
from helpers import GPT2_CONFIGS, GPTModel, tie_weights

from .require import (
    SMALL,
    Dropouts,
    choice_exercise,
    describe_type,
    randomized,
    require,
    require_equal,
    require_gradients,
    require_module,
    require_number,
    require_own_forward,
    require_parts,
    require_result,
)
from .runner import NotAttempted, Wrong, describe_error, exercise

why_124m = choice_exercise(
    "4.6.1",
    right="d",
    praise="In GPT-2, one tensor of 38.6 million weights does two jobs, and counts once.",
    options={
        "a": "Dropout has no parameters and removes none: it zeroes activations, and only in training.",
        "b": "GPT-2 does have these biases, 27,648 in all. Leaving them out makes our model smaller.",
        "c": "Buffers are not parameters, and our model has none: it makes the mask when it needs it.",
    },
)


def first_on_meta():
    """The first embedding on "meta" loads much of PyTorch; that time doesn't count against an answer."""
    nn.Embedding(1, 1, device="meta")


def counts_by_part(cfg):
    """Parameters of attention and of the feed-forward networks, over all blocks."""
    D, L = cfg["emb_dim"], cfg["n_layers"]
    return L * (4 * D * D + D + (3 * D if cfg["qkv_bias"] else 0)), L * (8 * D * D + 5 * D)


def require_counts(given, result, right, tolerance, mistakes):
    """Like require_number, for what a function returns; the message begins with what it was given."""
    require(result is not None, f"It returns {describe_type(result)}; it should return two numbers.")
    try:
        require_number(result, right, tolerance, mistakes)
    except Wrong as wrong:
        raise Wrong(f"For {given} it gives {str(result)[:60]}. {wrong}") from None


ODD = {  # unlike GPT-2 in every respect
    "vocab_size": 20_001,
    "context_length": 500,
    "emb_dim": 480,
    "n_heads": 5,
    "n_layers": 3,
    "drop_rate": 0.0,
    "qkv_bias": True,
}
SIZES = {  # building more of them would take too long on a slow machine
    "gpt2-small": GPT2_CONFIGS["gpt2-small"],
    "a model with 3 blocks of width 480": ODD,
    "gpt2-xl": GPT2_CONFIGS["gpt2-xl"],
}


@exercise("4.6.2", "In every size, about two thirds of a block are feed-forward.", prepare=first_on_meta)
def part_counts(answer):
    for given, cfg in SIZES.items():
        D, L, bias = cfg["emb_dim"], cfg["n_layers"], cfg["qkv_bias"]
        att, ff = counts_by_part(cfg)
        mistakes = {
            "That is one block; count all of them": (att // L, ff // L),
            "Attention comes first, then feed-forward": (ff, att),
            "With qkv_bias False, query, key, and value have no biases": (att + (not bias) * 3 * L * D, ff),
            "With qkv_bias True, query, key, and value have biases": (att - bias * 3 * L * D, ff),
            "out_proj has a bias": (att - L * D, ff),
            "Attention has four matrices: out_proj is one of them": (att - L * (D * D + D), ff),
            "The feed-forward layers have biases, 4D and D": (att, ff - 5 * L * D),
            "A feed-forward network has two matrices": (att, L * (4 * D * D + 4 * D)),
            "Biases are parameters, too": (4 * L * D * D, 8 * L * D * D),
            "The norms belong to neither, so don't count them": (att, ff + 4 * L * D),
            "The norms belong to neither part": (att + 2 * L * D, ff + 2 * L * D),
            "That is the whole model; only its blocks have attention": (att, untied_count(cfg) - att),
        }
        require_counts(given, require_result(answer, cfg), (att, ff), 0.0, mistakes)


def untied_count(cfg):
    """Parameters of a GPTModel with a head of its own."""
    V, T, D = cfg["vocab_size"], cfg["context_length"], cfg["emb_dim"]
    return 2 * V * D + T * D + sum(counts_by_part(cfg)) + cfg["n_layers"] * 4 * D + 2 * D


@exercise("4.6.3", "Every size to the last parameter, without building a large model.", prepare=first_on_meta)
def model_size(answer):
    for given, cfg in SIZES.items():
        n, MB = untied_count(cfg), 2**20
        V, T, D, L = (cfg[key] for key in ("vocab_size", "context_length", "emb_dim", "n_layers"))
        mistakes = {
            "The head is tied to the embedding; with a head of its own, the model has V·D more": n - V * D,
            "The positional embedding is not counted": n - T * D,
            "The final norm is not counted": n - 2 * D,
            "The norms of the blocks are not counted": n - 4 * L * D,
            "Only the blocks are counted": n - 2 * V * D - T * D - 2 * D,
            "The vocabulary is cfg['vocab_size'], not always 50,257": n + 2 * (50257 - V) * D,
            "With qkv_bias True, query, key, and value have biases": n - 3 * L * D * cfg["qkv_bias"],
        }
        mistakes = {words: (wrong, wrong * 4 / MB) for words, wrong in mistakes.items()}
        mistakes |= {
            "1 MB is 2**20 bytes here, not a million": (n, n * 4 / 1e6),
            "A float32 takes 4 bytes, not 2": (n, n * 2 / MB),
            "A float32 takes 4 bytes, not 8": (n, n * 8 / MB),
            "That is in GB; we want MB": (n, n * 4 / 2**30),
            "That is in bytes; we want MB": (n, n * 4),
            "Each parameter takes 4 bytes": (n, n / MB),
            "First the parameters, then the MB": (n * 4 / MB, n),
            "Training takes 16 bytes per parameter; the weights alone take 4": (n, n * 16 / MB),
        }
        require_counts(given, require_result(answer, cfg), (n, n * 4 / MB), (0.0, 0.01), mistakes)


NAMES = ("tok_emb", "pos_emb", "drop_emb", "trf_blocks", "final_norm", "out_head")


def logits_of(model, x, blocks=None):
    """What the model's blocks, final norm, and head make of embeddings."""
    for block in model.trf_blocks if blocks is None else blocks:
        x = block(x)
    return model.out_head(model.final_norm(x))


def forward_mistakes(model, tok, pos):
    """What the classic mistakes give, for embedded tokens (B, T, D) and all positions."""
    x, blocks, norm, head = tok + pos[: tok.shape[1]], model.trf_blocks, model.final_norm, model.out_head
    right, through = logits_of(model, x), nn.Sequential(*blocks)(x)
    return {
        "The positions are missing": logits_of(model, tok),
        "The tokens are missing": logits_of(model, (x - tok).expand_as(x)),
        "The positions start at 1": logits_of(model, tok + pos[1 : 1 + tok.shape[1]]),
        "The positions run backward": logits_of(model, tok + (x - tok).flip(1)),
        "Every token gets the same position": [
            logits_of(model, tok + pos[place]) for place in (0, tok.shape[1] - 1, tok.shape[1])
        ],
        "The positional embedding is multiplied; add it": logits_of(model, tok * (x - tok)),
        "The final norm is missing": head(through),
        "The final norm comes before the blocks; it belongs after them": head(
            nn.Sequential(*blocks)(norm(x))
        ),
        "The final norm comes after every block; it belongs after the last": head(
            nn.Sequential(*(nn.Sequential(block, norm) for block in blocks))(x)
        ),
        "The output head is missing": norm(through),
        "The output head and the final norm are missing": through,
        "The blocks are missing": head(norm(x)),
        "Only the first block is used": logits_of(model, x, blocks[:1]),
        "Only the last block is used": logits_of(model, x, blocks[-1:]),
        "The last block is left out": logits_of(model, x, blocks[:-1]),
        "Every block gets the embeddings; each must get what the block before it gives": head(
            norm(sum(block(x) for block in blocks))
        ),
        "The blocks run in reverse order": logits_of(model, x, list(blocks)[::-1]),
        "There are shortcuts around the blocks; each has its own inside": logits_of(
            model, x, [lambda x, block=block: x + block(x) for block in blocks]
        ),
        "It returns probabilities; the model gives logits, without a softmax": right.softmax(dim=-1),
        "It returns log-probabilities; the model gives logits, without a softmax": right.log_softmax(dim=-1),
        "It returns the last position only; the model scores every position": [right[:, -1], right[:, -1:]],
        "The scores come from the embedding (tied); out_head is a part of its own": norm(through)
        @ model.tok_emb.weight.T,
    }


@exercise("4.6.4", "Every part in its place: these are GPT-2's logits.", write=(GPTModel,))
def gpt_model(answer):
    model, ids = require_module(answer, SMALL), torch.tensor([[3, 1, 3, 7, 0], [2, 2, 5, 30, 4]])
    require_own_forward(answer, "GPTModel")
    require_result(model, ids)
    require_parts(model, NAMES)
    randomized(model, size=0.4)
    tok, pos = model.tok_emb(ids), model.pos_emb.weight
    right = logits_of(model, tok + pos[:5])
    mistakes = forward_mistakes(model, tok, pos)
    require_equal(require_result(model, ids), right, mistakes, "With random weights", tolerance=1e-3)
    longest = torch.arange(12).flip(0)[None]
    for given, case in (
        ("For a batch of one text", ids[:1]),
        ("For a text of one token", ids[:, :1]),
        ("For a text as long as the context", longest),
    ):
        wanted = logits_of(model, model.tok_emb(case) + pos[: case.shape[1]])
        require_equal(require_result(model, case), wanted, given=given, tolerance=1e-3)

    dropping = randomized(require_module(answer, {**SMALL, "drop_rate": 0.3}), size=0.4)
    tok, pos = dropping.tok_emb(ids), dropping.pos_emb.weight[:5]
    with Dropouts() as dropouts:
        require_result(dropping, ids)
        require(not dropouts.rates, "Dropout acts in eval mode, too.")
        result = require_result(dropping.train(), ids)
        places = len(dropouts.rates)
        right = logits_of(dropping, 3 * (tok + pos))
        inside = len(dropouts.rates) - places  # the blocks'
        words = "There is one dropout too many: drop_emb acts once, on the sum of tokens and positions."
        require(places <= inside + 1, words)
        x = nn.Sequential(*dropping.trf_blocks)(tok + pos)
        late = "drop_emb comes after the blocks; it belongs before them"
        no_effect = "drop_emb has no effect in training: it belongs after the addition"
        mistakes = {
            late if places > inside else no_effect: logits_of(
                dropping, tok + pos
            ),  # a norm undoes the factor
            "Only the tokens are dropped: drop_emb belongs after the addition": logits_of(
                dropping, 3 * tok + pos
            ),
            "Only the positions are dropped: drop_emb belongs after the addition": logits_of(
                dropping, tok + 3 * pos
            ),
            late + ", not to the logits": [
                dropping.out_head(3 * dropping.final_norm(x)),
                3 * dropping.out_head(dropping.final_norm(x)),
            ],
        }
        given = "In training, where the check lets dropout multiply by 3,"
        require_equal(result, right, mistakes, given, tolerance=1e-3)
    rates = set(dropouts.rates) - {0.3}
    require(not rates, f"With a drop_rate of 0.3, there is dropout with the rate {max(rates, default=0)}.")

    result, right = model.train()(ids), logits_of(model, model.tok_emb(ids) + model.pos_emb.weight[:5])
    require_gradients(result, right, {f"self.{name}": p for name, p in model.named_parameters()})


@exercise("4.6.5", "Room for new tokens, and the old ones score as before.")
def grow_vocabulary(answer):
    for tied, cfg, more in ((False, SMALL, 6), (True, {**SMALL, "vocab_size": 20, "emb_dim": 12}, 1)):
        model, V = randomized(GPTModel(cfg), size=0.4).eval(), cfg["vocab_size"]
        if tied:
            tie_weights(model)
        old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        ids = torch.tensor([[3, 1, 3, 0]])
        logits = model(ids)
        require_grown(answer, model, tied, V, V + more)
        grown = model.state_dict()
        embedding, head = grown.pop("tok_emb.weight"), grown.pop("out_head.weight")
        for name, new in (("tok_emb", embedding), ("out_head", head)):
            before, kind = old.pop(f"{name}.weight"), "tied" if tied else "untied"
            words = f"In a model that is {kind}, the old rows of {name}"
            require(
                not torch.equal(new[more:], before), f"{words} have moved: the new ones belong at the end."
            )
            require(torch.equal(new[:V], before), f"{words} don't have their old values.")
        require(
            bool(embedding.isfinite().all() and head.isfinite().all()),
            "There is nan or infinity in the new rows.",
        )
        same = grown.keys() == old.keys() and all(torch.equal(grown[name], old[name]) for name in old)
        require(same, "Another part has changed, too; only tok_emb and out_head should.")
        require_equal(model(ids)[..., :V], logits, given="For the old tokens, after growing,")
        model(torch.tensor([[V, V + more - 1]]))  # the new ids


def require_grown(answer, model, tied, old_size, size):
    """Raise Wrong unless the answer makes layers of the right kind and shape, tied if they were tied."""
    try:
        require_result(answer, model, size)
    except NotAttempted:
        if len(model.tok_emb.weight) == old_size:
            raise  # else only the `...` was left after the right lines
    layers = model.tok_emb, model.out_head
    for name, layer, kind in zip(("tok_emb", "out_head"), layers, (nn.Embedding, nn.Linear), strict=True):
        require(
            isinstance(layer, kind),
            f"{name} is {describe_type(layer)} now; it must stay an nn.{kind.__name__}.",
        )
        rows, width = layer.weight.shape
        words = f"With a new size of {size}, {name} has {rows} rows"
        require(rows != old_size, f"{words} as before; the model itself must change.")
        require(rows == size, f"{words}.")
        require(
            layer.weight.requires_grad,
            f"{name} would no longer be trained: its weight has requires_grad=False.",
        )
    embedding, head = layers
    words = f"tok_emb.num_embeddings is still {old_size}, so the model rejects the new token ids."
    require(embedding.num_embeddings == size, words)
    require(head.bias is None, "out_head has a bias now; GPT-2's has none.")
    words = "The head was tied to the embedding, and no longer is: the two must be one nn.Parameter."
    require(not tied or head.weight is embedding.weight, words)
    shared = head.weight.data_ptr() == embedding.weight.data_ptr()
    require(tied or not shared, "The head had its own weights, and is tied to the embedding now.")


def dropped_rates(model, ids):
    """The rates of dropout in one pass in training, in order. Attention may drop head by head."""
    with Dropouts() as dropouts:
        try:
            logits = model(ids)
        except Exception as error:
            words = describe_error(error).removeprefix("The check could not use your answer. ")
            raise Wrong(f"The model that it returns can't run. {words}") from None
    require(tuple(logits.shape) == (*ids.shape, SMALL["vocab_size"]), "The model doesn't return logits.")
    T, rates = ids.shape[1], []
    for rate, shape, before in zip(dropouts.rates, dropouts.shapes, [(), *dropouts.shapes], strict=False):
        if not (shape.count(T) > 1 and before.count(T) > 1):
            rates.append(rate)
    return rates


@exercise("4.6.6", "Each of the three places drops at its own rate, in every block.")
def separate_dropout(answer):
    cfg, ids = {**SMALL, "drop_rate": 0.4}, torch.tensor([[3, 1, 3, 7, 0], [2, 2, 5, 30, 4]])
    model = require_result(answer, cfg, 0.1, 0.2, 0.3)
    require(isinstance(model, nn.Module), f"It returns {describe_type(model)}; it should return a GPTModel.")
    words = "The model is in eval mode; a model that was just made is in training mode."
    require(all(module.training for module in model.modules()), words)
    rates = dropped_rates(model, ids)
    given = (
        f"With 0.1, 0.2, 0.3 for embeddings, attention, and shortcuts, a pass in training drops at {rates}."
    )

    def places(emb, *blocks):
        """The rates of a pass, from that of the embeddings and, for each block, two."""
        return [emb, *(rate for att, shortcut in blocks for rate in (att, shortcut, shortcut))]

    right = places(0.1, *[(0.2, 0.3)] * 3)
    mistakes = {
        "The rates of attention and shortcuts are swapped": places(0.1, *[(0.3, 0.2)] * 3),
        "The embeddings keep the configuration's rate": places(0.4, *[(0.2, 0.3)] * 3),
        "The first rate is used everywhere": places(0.1, *[(0.1, 0.1)] * 3),
        "The configuration's rate is used everywhere": places(0.4, *[(0.4, 0.4)] * 3),
        "Only the embeddings get their rate": places(0.1, *[(0.4, 0.4)] * 3),
        "Only the first block gets its rates": places(0.1, (0.2, 0.3), (0.4, 0.4), (0.4, 0.4)),
        "Only the last block gets its rates": places(0.1, (0.4, 0.4), (0.4, 0.4), (0.2, 0.3)),
        "The shortcuts keep the configuration's rate": places(0.1, *[(0.2, 0.4)] * 3),
        "Attention keeps the configuration's rate": places(0.1, *[(0.4, 0.3)] * 3),
        "The rates of embeddings and attention are swapped": places(0.2, *[(0.1, 0.3)] * 3),
        "The rates of embeddings and shortcuts are swapped": places(0.3, *[(0.2, 0.1)] * 3),
    }
    for words, wrong in mistakes.items():
        require(rates != wrong, f"{words}. {given}")
    require(rates == right, given)
    left = dropped_rates(require_result(answer, cfg, 0.0, 0.0, 0.0), ids)
    require(not left, f"With three rates of 0, a pass in training still drops at {left}.")
    count, wanted = (sum(p.numel() for p in m.parameters()) for m in (model, GPTModel(cfg)))
    words = f"The model has {count} parameters; {wanted} are right. Is each block one of its own?"
    require(count == wanted, words)
