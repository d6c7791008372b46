"""Hints for the exercises, by number: two or three each, from a nudge to nearly the solution."""

import collections

HINTS = {
    # ---- 4.1
    "4.1.1": (
        "What does the last part of the model, the output head, do to the vector of each token?",
        "Texts, then positions, then a score for each token that could come next. How many are there?",
        "The width, 1,024, no longer shows. It is (3, 7, vocab_size), with GPT-2's vocab_size.",
    ),
    "4.1.2": (
        "Which of the model's tables has a row for each position?",
        "The positional embedding grows from 1,024 rows to 2,048. How long is a row in gpt2-small?",
        "1,024 new rows of emb_dim weights: 1024 * 768.",
    ),
    "4.1.3": (
        "Make one list of exactly `length` ids for each text, then a tensor of all the lists.",
        "text[:length] is a new list that is never too long. How many fillers does it lack?",
        "Its row is text[:length] + [filler] * (length - len(text)). A negative factor gives an empty list.",
    ),
    "4.1.4": (
        "Two lookups and a sum. What do you look up in `pos_emb`?",
        "The positions 0 to T - 1, the same for every text: torch.arange(ids.shape[1]).",
        "return tok_emb(ids) + pos_emb(torch.arange(ids.shape[1], device=ids.device))",
    ),
    "4.1.5": (
        "An average is a sum divided by a count. What are the sum and the count at position t?",
        "x.cumsum(dim=1) has the sums. The counts are 1, 2, ..., T, along the tokens, in each text.",
        "torch.arange(1, x.shape[1] + 1)[:, None] has the shape (T, 1), so it divides token by token.",
    ),
    # ---- 4.2
    "4.2.1": (
        "Before scale and shift, the mean is 0 and the variance 1. Multiply first, then add.",
        "A factor of 2 doubles all distances to the mean. The variance averages their squares.",
    ),
    "4.2.2": (
        "Put the token into the formula: what are its mean and its variance?",
        "The mean is 0, and each squared feature is 4e-6. Now add eps and take the root.",
        "Each feature becomes 0.002 / (4e-6 + 1e-5) ** 0.5, with its sign.",
    ),
    "4.2.3": (
        "In __init__, two parameters: ones and zeros. In forward: mean, variance, normalize, scale, shift.",
        "Average over dim=-1 with keepdim=True, so that the results stretch over the features. The variance "
        "divides by D.",
        "variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True), and eps belongs under the root: "
        "torch.sqrt(variance + 1e-5).",
    ),
    "4.2.4": (
        "Start from your LayerNorm and take away the mean and the shift.",
        "Under the root stands the mean of x.square() over dim=-1, plus eps.",
        "return self.scale * x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + 1e-5)",
    ),
    "4.2.5": (
        "Multiply out: which terms contain the normalized x, and which don't?",
        "W(γ ⊙ x̂) scales the columns of W, which belong to the inputs. Wβ + b doesn't contain x̂ at all.",
        "Inside torch.no_grad(), copy linear.weight * norm.scale into the new weight and "
        "linear.bias + linear.weight @ norm.shift into the new bias.",
    ),
    # ---- 4.3
    "4.3.1": (
        "What do two linear layers in a row amount to? And a third?",
        "One matrix, from 768 to 768, and one bias.",
    ),
    "4.3.2": (
        "How many tokens are there, and how many features does each have in the middle?",
        "4 * 1024 tokens with 3,072 features each. How many bytes does a float32 take?",
        "4 * 1024 * 3072 * 4 bytes, divided by 2**20.",
    ),
    "4.3.3": (
        "x times a soft gate, and the gate is half of 1 + tanh(...).",
        "Inside the tanh: sqrt(2/π) times the bracket x + 0.044715 x³.",
        "The root is (2 / torch.pi) ** 0.5. Then 0.5 * x * (1 + torch.tanh(root * (x + 0.044715 * x**3))).",
    ),
    "4.3.4": (
        "Three parts in a row, and only the two linear layers have weights.",
        "nn.Sequential(nn.Linear(...), GELU(), nn.Linear(...)), kept as self.layers.",
        "The first goes from cfg['emb_dim'] to 4 * cfg['emb_dim'], the other one back; forward returns "
        "self.layers(x).",
    ),
    "4.3.5": (
        "For this network it makes no difference which text a token belongs to. So join the texts first.",
        "x.flatten(0, 1) has a row for each token, (B*T, D), and .split(size) cuts it into pieces.",
        "torch.cat([ff(piece) for piece in x.flatten(0, 1).split(size)]), and then give it the shape of x.",
    ),
    # ---- 4.4
    "4.4.1": (
        "Write down both derivatives. Which term survives when f and its derivative are tiny?",
        "The derivative of x + f(x) is I + J. What happens to I when J shrinks?",
    ),
    "4.4.2": (
        "What is the derivative of x + 0.1 x, for one layer?",
        "Each layer multiplies by 1 + 0.1, and there are twelve.",
    ),
    "4.4.3": (
        "Keep the layer as an attribute, so that PyTorch finds its parameters. Run it once; keep the output.",
        "Compare output.shape with x.shape before you add; shapes compare like tuples.",
        "if output.shape != x.shape: raise ValueError(...). Then return x + output, a new tensor.",
    ),
    "4.4.4": (
        "Two attributes: the layer that you're given, and a LayerNorm that you make.",
        "The layer reads self.norm(x). What does the shortcut carry?",
        "return x + self.layer(self.norm(x))",
    ),
    "4.4.5": (
        "In eval mode, and whenever self.training is False, it is the plain shortcut, x + f(x).",
        "Draw one random number for each text, not for each value: a mask with B entries, whose other "
        "dimensions are 1.",
        "mask = (torch.rand(len(x), *[1] * (x.ndim - 1)) >= self.rate), and then x + mask * f(x) / (1 - "
        "self.rate).",
    ),
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
    "beyond 1.1": (
        "Which layers does the figure show inside a block? Which ones outside?",
        "Six layers in each block, and each has a weight and a bias. The embeddings have no bias.",
        "12 tensors in each of the 48 blocks, and four outside: two embeddings, and two for the final norm.",
    ),
    "beyond 1.2": (
        "First cut c_attn into queries, keys, and values. Then cut each of the three into heads.",
        "c_attn.chunk(3, dim=1) gives the three. Each has D columns, and head 0 has the first Dh of them.",
        "From each of the three, take [:, head * Dh : (head + 1) * Dh], with Dh = D // n_heads.",
    ),
    "beyond 1.3": (
        "Compute the vector that the answer should be close to. Then compare it with every row.",
        "torch.cosine_similarity(embedding, target[None], dim=-1) has one value for each token.",
        "Set the similarities of a, b, and c to -2, which no cosine reaches, and take the argmax.",
    ),
    "beyond 1.4": (
        "Read `fill` backward: where it cuts and transposes, you join and transpose.",
        "Each layer of the model gives its parameters in order, the weight first: layer.parameters().",
        "torch.cat([att.W_query.weight, att.W_key.weight, att.W_value.weight]).t().contiguous() is "
        "c_attn's weight; its bias is joined the same way.",
    ),
    "beyond 2.1": (
        "How many nats does the model spend on each character?",
        "3.2 / 4 nats. One bit is ln 2 = 0.693 nats, so there are more bits than nats.",
    ),
    "beyond 2.2": (
        "For each way: how many of the held-out tokens were in a window that the model trained on?",
        "Windows i and i + 1 share nearly all their tokens. What if only one of them is held out?",
    ),
    "beyond 2.3": (
        "Sketch the three pieces as lines over all steps. Which of the three holds at each step?",
        "The lines are (step + 1) / warmup, 1, and (steps - step) / decay, each times peak.",
        "The lowest of the three counts: min(...).",
    ),
    "beyond 2.4": (
        "By which number must the sum of all tokens' losses be divided? You know it before the first part.",
        "cross_entropy(..., reduction='sum') gives the sum over a part's tokens.",
        "For each part: loss = sum of the part / number of all tokens; loss.backward(); add up loss.item().",
    ),
    "beyond 3.1": (
        "How many numbers does a single token leave behind, in a single block?",
        "A key and a value of 1,600 numbers each. Multiply by the blocks, the tokens, and the texts.",
        "2 * 48 * 1600 * 1024 * 8 numbers, at 2 bytes each; and an MB has 2**20 bytes.",
    ),
    "beyond 3.2": (
        "Compute the new length first. Does it fit into buffer.shape[2] places?",
        "If not: buffer.new_empty(B, H, room, Dh) has the type of the old one. How much room does it need?",
        "max(2 * old room, new length). Copy [:, :, :length], then write to [:, :, length : length + T].",
    ),
    "beyond 3.3": (
        "What hasn't been read yet? First the prompt, then the token that you've just chosen.",
        "Keep two things between passes: the ids to read next, and how many tokens came before them.",
        "logits = read(new, start); start += new.shape[1]; new = logits.argmax(dim=-1), of shape (B, 1).",
    ),
    "beyond 3.4": (
        "The first call is right, the second isn't. What should differ between them, and doesn't?",
        "Which line would give the same result for the token after 4 others and after 400?",
        "The token after 400 others has position 400. The keys in the cache know how many there are.",
    ),
    "beyond 4.1": (
        "Which heads are kept in a cache: those of the queries, or those of keys and values?",
        "A token leaves a key and a value of 128 features behind, for each of 8 heads, in each of 32 blocks.",
        "2 * 32 * 8 * 128 * 8192 values, at 2 bytes each; and an MB has 2**20 bytes.",
    ),
    "beyond 4.2": (
        "List the shapes of all matrices and norms in a block. Which ones are square?",
        "Four matrices in attention; two have n_kv_heads heads of emb_dim // n_heads. Three in SwiGLU.",
        "Don't forget two norms in each block, one at the end, and the head, where it isn't tied.",
    ),
    "beyond 4.3": (
        "x[0::2] has the first feature of each plane, and x[1::2] the second.",
        "The angles are position * base ** (-torch.arange(0, Dh, 2) / Dh), one for each plane.",
        "a * cos - b * sin and a * sin + b * cos, stacked in dim 1 and flattened.",
    ),
    "beyond 4.4": (
        "list(block[4:]) has 16 numbers from 0 to 255. Each has two codes.",
        "byte & 15 is the lower half, byte >> 4 the upper half. All the lower halves come first.",
        "A weight is lowest + step * code; torch.cat puts the two sets of 16 codes together.",
    ),
    "beyond 5.1": (
        "How many tokens does token 1 see, itself included? And token 2? What share goes to each of them?",
        "Token i gives each of i + 1 tokens the share 1 / (i + 1), also the previous one.",
        "The mean of 1/2, 1/3, and so on to 1/15. There are 14 of them.",
    ),
    "beyond 5.2": (
        "First make a table of bools, (T, T): is token j the same as token i, and earlier?",
        "(ids[:, None] == ids).tril(-1) is that table. Which of its rows have any True?",
        "Multiply the weights by the table, sum over the last dimension, and keep the positions that repeat.",
    ),
    "beyond 5.3": (
        "The guess has settled in the row after the last one that differs from the final guess.",
        "different = best != best[-1]. What is the largest row number at which it is True, plus 1?",
        "Multiply `different` by a column of 1, 2, ..., N, and take the maximum over the rows.",
    ),
    "beyond 5.4": (
        "Which module gets the outputs of all heads side by side? A forward pre-hook can replace its input.",
        "In the hook, clone args[0], change the features [head * Dh : (head + 1) * Dh], and return (x,).",
        "x[..., part] = x[..., part].mean(dim=1, keepdim=True). Then call the model, and remove the hook.",
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
