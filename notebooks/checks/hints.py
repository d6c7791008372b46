"""Hints for the exercises, by number: two or three each, from a nudge to nearly the solution."""

import collections

HINTS = {
    # ---- 4.1
    # ---- 4.2
    # ---- 4.3
    # ---- 4.4
    # ---- 4.5
    "4.5.1": (
        "Which tokens must the model learn to predict?",
        "Look at the table of weights in the lesson: which cells are hatched? Is the diagonal among them?",
    ),
    "4.5.2": (
        "How many weights are open in the first row of the table? How many in the second, and in the last?",
        "Add them up: 1 + 2 + ... + 1024. There is a formula for that sum.",
        "The sum of 1 to T is T * (T + 1) // 2.",
    ),
    "4.5.3": (
        "Four steps: scores, mask, softmax, weighted average of the values. In which order?",
        "The scores are q @ k.transpose(-2, -1) / Dh**0.5. The mask is True above the diagonal: "
        "torch.ones(T, T, dtype=torch.bool).triu(diagonal=1).",
        "Write -inf where the mask is True, with scores.masked_fill(mask, float('-inf')). Then "
        ".softmax(dim=-1) @ v.",
    ),
    "4.5.4": (
        "Both sublayers follow one pattern: norm, sublayer, dropout, and then the shortcut.",
        "The second sublayer starts from the result of the first, for its norm and for its shortcut.",
        "x = x + self.drop_shortcut(self.att(self.norm1(x))), and then the same with ff and norm2.",
    ),
    "4.5.5": (
        "First get q, k, and v in shape (B, H, T, Dh). From there on it is one head, for all heads at once.",
        "self.W_query(x).view(B, T, self.num_heads, self.head_dim).transpose(1, 2) gives (B, H, T, Dh). "
        "After the softmax, self.dropout acts on the weights.",
        "At the end, (weights @ v).transpose(1, 2).reshape(B, T, -1) puts the heads side by side again, and "
        "self.out_proj mixes them.",
    ),
    # ---- 4.6
    "4.6.1": (
        "Which tensors of our model have about 163 - 124 = 39 million parameters?",
        "Look at the picture of the model: two of its parts have 38,597,376 each.",
    ),
    "4.6.2": (
        "All blocks are alike: count one, and multiply.",
        "Attention has four matrices of D x D; the feed-forward network has one of D x 4D and one of 4D x D. "
        "Which of their layers have biases?",
        "You can also build a TransformerBlock(cfg) inside `with torch.device('meta'):`, and take "
        "count_parameters of its att and its ff.",
    ),
    "4.6.3": (
        "The lesson has a formula for all parameters. Or let PyTorch count, on a device without any memory.",
        "Inside `with torch.device('meta'):`, GPTModel(cfg) takes no memory and no time.",
        "Return n and n * 4 / 2**20, with n = count_parameters(model).",
    ),
    "4.6.4": (
        "Two embeddings are added: one looks up the ids, the other the positions.",
        "The positions are torch.arange(T, device=in_idx.device). After the addition comes drop_emb.",
        "self.trf_blocks can be called as a whole; then final_norm, then out_head. No softmax.",
    ),
    "4.6.5": (
        "Make new layers of the new size, and copy the old rows into them. What do you have to know before "
        "you replace the old layers?",
        "Whether they are tied: model.out_head.weight is model.tok_emb.weight. Copy under torch.no_grad().",
        "model.tok_emb = nn.Embedding(new_size, D), then model.tok_emb.weight[:old_size] = old_embedding; "
        "the same for nn.Linear(D, new_size, bias=False). At the end, tie_weights(model) if it was tied.",
    ),
    "4.6.6": (
        "Which modules of the model drop something? print(model) shows them.",
        "Build the model from a changed copy, {**cfg, 'drop_rate': ...}. Then set what differs: the rate of "
        "an nn.Dropout is its attribute p.",
        "model.drop_emb.p = emb_rate, and for each block in model.trf_blocks: "
        "block.att.dropout.p = att_rate.",
    ),
    # ---- 4.7
    "4.7.1": (
        "Which of our modules behave differently in training?",
        "Run the model twice on the same input, in train() and in eval() mode. What differs?",
    ),
    "4.7.2": (
        "How many tokens does the model read in the first step? And in the second?",
        "The last step makes the 110th token. How many tokens has it read by then?",
        "Add up 10, 11, ..., 109.",
    ),
    "4.7.3": (
        "Each step has three lines: logits of what fits the window, best token, append.",
        "idx[:, -context_size:] is what the model sees. Of its logits you need the last position, [:, -1].",
        "best = logits[:, -1].argmax(dim=-1, keepdim=True) has shape (B, 1), so that "
        "torch.cat([idx, best], dim=1) works.",
    ),
    "4.7.4": (
        "Generate one token at a time, and look at each new one.",
        "generate_text_simple(model, idx, 1, context_size) appends a single token.",
        "After each step: if idx[0, -1] == eos_id, break. Compare after "
        "appending, so that the stop token stays.",
    ),
    "4.7.5": (
        "First decide which logits stay, then divide by the temperature, then softmax.",
        "logits.topk(top_k, dim=-1).values[:, -1:] is the lowest logit that stays, for each row.",
        "Give all lower ones -inf: logits.masked_fill(logits < lowest, float('-inf')). softmax makes them 0.",
    ),
    "4.7.6": (
        "You need the probabilities before you can cut. What do their rows sum to after the cut?",
        "The limit has one value per row: min_p * probabilities.max(dim=-1, keepdim=True).values.",
        "Set what is below the limit to 0 with masked_fill, and divide by the sum of each row, "
        "with keepdim=True.",
    ),
    # ---- Beyond the chapter
    "beyond 3.1": (
        "How many numbers does a single token leave behind, in a single block?",
        "A key and a value of 1,600 numbers each. Multiply by the blocks, the tokens, and the texts.",
        "2 * 48 * 1600 * 1024 * 8 numbers, at 2 bytes each; and an MB has 2**20 bytes.",
    ),
}
given = collections.Counter()  # how many hints this kernel has printed for each exercise


def hint(number):
    """Print the next hint for an exercise: `checks.hint("4.5.3")`. The last one is repeated."""
    if number not in HINTS:
        print(f"There is no exercise {number!r}; ask by number, as in checks.hint('4.2.3').")
        return
    hints = HINTS[number]
    given[number] = min(given[number] + 1, len(hints))
    print(f"Exercise {number}, hint {given[number]} of {len(hints)}: {hints[given[number] - 1]}")
    if given[number] == len(hints):
        print("That was the last hint. The solution is folded below the check.")
