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
    # ---- 4.6
    # ---- 4.7
    # ---- Beyond the chapter
}
given = collections.Counter()  # how many hints this kernel has printed for each exercise


def hint(number):
    """Print the next hint for an exercise: `checks.hint("4.5.3")`. After the last one it is repeated."""
    if number not in HINTS:
        print(f"There is no exercise {number!r}; ask by number, as in checks.hint('4.2.3').")
        return
    hints = HINTS[number]
    given[number] = min(given[number] + 1, len(hints))
    print(f"Exercise {number}, hint {given[number]} of {len(hints)}: {hints[given[number] - 1]}")
    if given[number] == len(hints):
        print("That was the last hint. The solution is folded below the check.")
