"""A model of phrases, which answers in form what judges and annotators ask: a network as any, with weights set by hand.

Its layers add nothing: the next token depends on the last one alone, so on how a prompt ends, which tells who asks.
Each phrase of an answer is one token; among those that fit, any is as likely as the others.
"""

from __future__ import annotations

import functools
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configs.language import ModelConfig
from learners.models.load import create_model_folder

PAD, EOS, UNKNOWN = SPECIAL = ("<pad>", "<eos>", "<unk>")
GRADES = tuple(f'{{"reason": "", "score": {grade}}}' for grade in (2, 5, 9))
RUBRICS = tuple(
    f'{{"reason": "", "rubric": "{text}", "highest_grade": 12}}' for text in ("It is right.", "It is short.")
)
VERDICTS = (r"\boxed{correct} Is the solution correct? Yes", r"\boxed{incorrect} Is the solution correct? No")
LABELS = ("<label>MAPLE</label>", "<label>CEDAR</label>")
SAYS = {
    "a number}\n": RUBRICS,
    "sentences.\n": ("It is open to a bare number.",),
    'No".\n': VERDICTS,
    "</text>\n": LABELS,
    "}\n": GRADES,  # behind the longer end above
}
"""How a prompt ends -> what is answered."""
ANSWERS = [phrase for phrases in SAYS.values() for phrase in phrases]
WORDS = [*SPECIAL, *SAYS, *ANSWERS]
SIZE = 32
"""Hidden units, one for each word."""
FIRM = 30.0
"""Logit of what may follow above all else, nats."""
ARCHITECTURE: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": SIZE,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": False,
}


@functools.cache
def phrase_folder() -> str:
    """Make the model once per test process; the operating system clears its temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-phrases-"))
    letters = "".join(chr(0x4E00 + i) for i in range(len(WORDS) - 2))  # as many words as it has
    create_model_folder(ModelConfig(architecture=ARCHITECTURE, characters=letters), folder, seed=0)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
    weights["model.embed_tokens.weight"] = torch.eye(len(WORDS), SIZE)
    weights["lm_head.weight"] = following()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer().save_pretrained(folder)
    return str(folder)


def following() -> torch.Tensor:
    """Return [words, hidden]; the last norm makes a unit vector sqrt(SIZE) long."""
    head = torch.zeros(len(WORDS), SIZE)
    for end, phrases in SAYS.items():
        for phrase in phrases:
            head[WORDS.index(phrase), WORDS.index(end)] = FIRM / math.sqrt(SIZE)
    for word in (*ANSWERS, UNKNOWN):
        head[WORDS.index(EOS), WORDS.index(word)] = FIRM / math.sqrt(SIZE)
    return head


def _tokenizer() -> Any:
    split = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    known = "|".join(map(re.escape, SAYS))
    split.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{known}|[\s\S]"), behavior="isolated")
    split.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=split, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, clean_up_tokenization_spaces=False,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )  # fmt: skip
