"""SmolLM2's file is read right: the weights, the tokenizer, and what the model says.

What needs the file is skipped where nobody has downloaded it.
"""

import copy
import os
import random
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from support import ROOT, TEXTS

import llama
from helpers import count_parameters, generate
from llama import SMOLLM2_FILE, CachedLlama, chat, load_smollm2, smollm2_tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: it must not look for anything online

NAME = SMOLLM2_FILE.name
FETCH = 'run: python -c "import llama; llama.download_smollm2()"'
needs_file = pytest.mark.skipif(not SMOLLM2_FILE.exists(), reason=f"there is no {NAME}; {FETCH}")
QUESTION = "Hi, what is your name?"
SENTENCES = (
    "The capital of France is",
    "def add(a, b):\n    return a + b\n\n\nprint(add(2, 3))\n",
    "Every effort moves you " * 40,
    chat(QUESTION),
)


@needs_file
def test_the_readmes_code_prints_what_the_readme_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(import torch\n.+?)^```$", readme, re.M | re.S)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (answer,) = re.findall(rf"\(Beyond 4\) \| {re.escape(QUESTION)} \| (.+) \|$", readme, re.M)
    assert run.stdout.startswith(answer)


@pytest.fixture(scope="module")
def smollm2():
    return load_smollm2()


@pytest.fixture(scope="module")
def tokenizer():
    return smollm2_tokenizer()


@pytest.fixture(scope="module")
def parsed():
    """Hugging Face's Llama and, as `transformers` itself takes them out of the file, settings and weights."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            max_position_embeddings=8192,
            hidden_size=576,
            num_attention_heads=9,
            num_key_value_heads=3,
            num_hidden_layers=30,
            intermediate_size=1536,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        )
    )
    file = load_gguf_checkpoint(SMOLLM2_FILE, return_tensors=True, model_to_load=model)
    file["tensors"]["lm_head.weight"] = file["tensors"]["model.embed_tokens.weight"]  # tied
    model.load_state_dict(file["tensors"])
    return model.eval(), file["config"]


@pytest.fixture(scope="module")
def theirs(parsed):
    return parsed[0]


@pytest.fixture(scope="module")
def their_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SMOLLM2_FILE.parent, gguf_file=NAME)


def encoded(text, tokenizer):
    return torch.tensor([tokenizer.encode(text, allowed_special="all")])


@needs_file
@torch.no_grad()
def test_same_logits_as_hugging_faces_own_loading(smollm2, theirs, tokenizer):
    assert count_parameters(smollm2) == theirs.num_parameters() == 134_515_008
    assert all(p.dtype == torch.float32 and p.requires_grad for p in smollm2.parameters())
    assert smollm2.out_head.weight is smollm2.tok_emb.weight and not smollm2.training
    for text in SENTENCES:
        ids = encoded(text, tokenizer)
        expected = theirs(ids).logits
        assert expected.max() > 15
        torch.testing.assert_close(smollm2(ids), expected, atol=2e-3, rtol=0)


@needs_file
def test_configuration_is_the_files(parsed):
    names = {
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "emb_dim": "hidden_size",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "n_layers": "num_hidden_layers",
        "hidden_dim": "intermediate_size",
        "rope_base": "rope_theta",
        "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings",
    }
    file = {ours: parsed[1][theirs] for ours, theirs in names.items()}
    assert llama.SMOLLM2_135M == pytest.approx(file, rel=1e-6)


@needs_file
@torch.no_grad()
def test_paris(smollm2, tokenizer):
    best = smollm2(encoded("The capital of France is", tokenizer))[0, -1].topk(2)
    assert tokenizer.decode(best.indices[:1].tolist()) == " Paris"
    assert best.values[0] - best.values[1] > 0.02


@needs_file
@torch.no_grad()
def test_it_answers_with_its_name(smollm2, tokenizer):
    """Each token leads clearly, so other processors write the same; the plain model agrees with the cache."""
    ids = encoded(chat(QUESTION), tokenizer)
    cached = generate(CachedLlama(smollm2), ids, 100, 8192, eos_id=2)
    answer = tokenizer.decode(cached[0, ids.shape[1] :].tolist())
    assert answer == (
        "My name is Elena, and I'm a skilled and dedicated AI assistant. "
        "I'm here to help with any kind of assistance you need."
    )
    values, best = smollm2(cached)[0, ids.shape[1] - 1 :].topk(2)
    assert best[:, 0].tolist() == [*cached[0, ids.shape[1] :].tolist(), 2]
    assert (values[:, 0] - values[:, 1]).min() > 0.02


@needs_file
@torch.no_grad()
def test_a_hundred_tokens_with_a_cache_are_the_plain_models(smollm2, tokenizer):
    ids = encoded("Once upon a time", tokenizer)
    cached = generate(CachedLlama(smollm2), ids, 100, 8192)
    values, best = smollm2(cached[:, :-1])[0, ids.shape[1] - 1 :].topk(2)
    assert best[:, 0].tolist() == cached[0, ids.shape[1] :].tolist() and len(best) == 100
    assert (values[:, 0] - values[:, 1]).min() > 0.02


AWKWARD = [
    "",
    " ",
    "   ",
    "\n\n\n \n",
    "\t\tx\t y",
    "line one\r\nline two\r\n\r\n",
    "1234567890",
    "In 1984, 3.14159 and -273.15; 10,000 or 1e-5.",
    "a  1   22    333 x 4\n5\n\n6 \n 7\t8",
    "x1y22z333 v2.0.1 0x1F 50%",
    "١٢٣ and ५६ and ½ and Ⅷ and x² and ①②",
    "I'll, you've, we're, he'd, she's, can't, I'm; 'tis the dogs' O'Neill'S",
    "Ünïcödé é e\u0301 ﬁ ß İ ı",
    "مرحبا بالعالم، كيف حالك؟",
    "שלום עולם",
    "你好，世界。こんにちは 세계",
    "🙂🙃 👩‍👩‍👧‍👦 🇫🇷 ❤️ a🙂b 🙂 1",
    "\u200b\u200d\ufeff\xa0\u3000x\u2028y",
    "def f(x):\n    if x > 0:\n\treturn {'a': [1, 2]}  # a comment\n",
    '{"key": "va\\"lue", "n": null}</div><br/>&nbsp;',
    "https://example.com/a?b=1&c=%20#d",
    "!!!???...---___***+++===",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_start|><|im_end|><|endoftext|><repo_name><filename>x",
    "<|im_start <|im_end |> <|endoftext| <|IM_START|> < |im_start|>",
    "a\x00b\x01c\x7f\x80\x1f",
    "Antidisestablishmentarianism Donaudampfschifffahrtsgesellschaft aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "# Title\n\n- **bold** _it_ `code`\n\n| a | b |\n|---|---|\n$x^2 \\frac{1}{2}$",
]
PIECES = [
    "  ",
    "\r\n",
    " 1",
    "12",
    " ",
    "\n",
    "a",
    " b",
    "'s",
    "'",
    "!",
    "?!",
    "é",
    "🙂",
    "\t",
    "½",
    "\xa0",
    "م",
]
PIECES += ["\u2028", "<|im_start|>", "<|im_end|", "word", " Word", "The", "\x00", "=="]
LOST = "\x04\x06\x13\x14\x16\x1d"
# transformers' loader of GGUF files splits as GPT-2 does, whatever the file says; the model's own tokenizer
# takes digits out first. These are the texts of the above in which that makes a difference.
SPLIT_AT_DIGITS = [AWKWARD[8], AWKWARD[10]]


@pytest.fixture(scope="module")
def with_digits(their_tokenizer):
    """Hugging Face's tokenizer, and then with single digits, as the file asks for."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    with_digits = copy.deepcopy(their_tokenizer)
    splits = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    with_digits.backend_tokenizer.pre_tokenizer = splits
    return with_digits


@needs_file
@pytest.mark.parametrize("text", AWKWARD)
def test_tokens_are_hugging_faces(text, tokenizer, their_tokenizer, with_digits):
    tokens = tokenizer.encode(text, allowed_special="all")
    assert tokens == with_digits.encode(text)
    assert (tokens == their_tokenizer.encode(text)) == (text not in SPLIT_AT_DIGITS)
    assert tokenizer.decode(tokens) == text  # nothing is lost
    ordinary = tokenizer.encode_ordinary(text)
    assert ordinary == with_digits.encode(text, split_special_tokens=True)
    assert not any(token < 17 for token in ordinary)  # what a user types never ends a turn


@needs_file
def test_tokens_of_random_texts_are_hugging_faces(tokenizer, with_digits):
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(PIECES, k=draw.randint(1, 8)))
        assert tokenizer.encode(text, allowed_special="all") == with_digits.encode(text), repr(text)


@needs_file
@given(TEXTS)
def test_tokens_give_the_text_back(tokenizer, text):
    kept = "".join(sign for sign in text if sign not in LOST and not "\U00040000" <= sign <= "\U000bffff")
    assert tokenizer.decode(tokenizer.encode(text, allowed_special="all")) == kept


@needs_file
def test_characters_without_tokens_are_left_out(tokenizer):
    for sign in (*LOST, "\U00040000", "\U000bffff"):
        assert tokenizer.decode(tokenizer.encode(f"a{sign}b {sign} !{sign}")) == "ab  !"
    for sign in ("\x03", "\x05", "\x07", "\x12", "\x15", "\x17", "\x1c", "\x1e", "\U0003ffff", "\U000c0000"):
        assert tokenizer.decode(tokenizer.encode(f"a{sign}b")) == f"a{sign}b"


@needs_file
def test_vocabulary_is_the_files(tokenizer, their_tokenizer):
    from gguf import GGUFReader

    fields = GGUFReader(SMOLLM2_FILE).fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    assert tokenizer.n_vocab == len(their_tokenizer) == llama.SMOLLM2_135M["vocab_size"]
    special = their_tokenizer.convert_ids_to_tokens(range(17))
    assert tokenizer.special_tokens_set == set(special)
    assert tokenizer.encode("".join(special), allowed_special="all") == [*range(17)]
    # tiktoken merges by the numbers of tokens; the file's own list of merges has the same order
    merges, tokens = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("merges", "tokens"))
    assert [merge.replace(" ", "") for merge in merges] == tokens[-len(merges) :]


@needs_file
def test_chat_is_the_files_own_template(tokenizer, their_tokenizer):
    for turns in ([("user", QUESTION)], [("system", "Be brief."), ("user", "Why?\n\nReally")]):
        messages = [{"role": role, "content": content} for role, content in turns]
        expected = their_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        given = dict(turns)
        assert chat(given.pop("user"), **given) == expected
        assert tokenizer.encode(expected, allowed_special="all") == their_tokenizer.encode(expected)
