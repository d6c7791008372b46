"""Checks of a reader's own answers to the exercises: each prints one line, and raises nothing.

    from notebooks import checks
    checks.layer_norm(MyLayerNorm)        # Exercise 4.2.3: not attempted yet.
    checks.use(LayerNorm=MyLayerNorm)     # from here on, this kernel builds on your class ...
    checks.use_shipped()                  # ... and now on the shipped one again

A check asks an answer for its results on small inputs, chosen so that the classic mistakes give different
results. It knows what each mistake would give there, and names the one it meets. What is right comes from
PyTorch's own parts.

Each notebook has a module with its checks. It builds on `require` (comparing, naming the mistake) and on
`runner` (running an answer safely), never on the module of another notebook.
"""

# ruff: noqa: F401  (what is imported here is what a notebook calls)

from .hints import hint
from .own_parts import use, use_shipped
from .section_4_1 import average_block, embed, logits_shape, longer_context, same_length
from .section_4_2 import fold_norm, layer_norm, mean_and_variance, rms_norm, tiny_token
from .section_4_3 import collapsed_layers, feed_forward, gelu, hidden_memory, in_pieces
from .section_4_4 import gradient_through_twelve, pre_norm, residual, stochastic_depth, sum_or_product
from .section_4_5 import (
    attention_head,
    multi_head_attention,
    open_pairs,
    transformer_block,
    what_the_mask_hides,
)
from .section_4_6 import gpt_model, grow_vocabulary, model_size, part_counts, separate_dropout, why_124m
from .section_4_7 import greedy, min_p, stop_token, tokens_processed, top_k, what_eval_changes
from .section_beyond_1 import analogy, checkpoint, one_head, tensors_in_file
from .section_beyond_2 import accumulate, bits_per_character, the_leak, trapezoid
from .section_beyond_3 import append_to_cache, cache_memory, cached_loop, mended_cache
from .section_beyond_4 import decode_block, llama_cache, llama_parameters, rotate_neighbors
from .section_beyond_5 import even_head, mean_ablation, repeats, settled
