"""A tiny random model whose tokenizer knows Yes and No as words, so that it has log-odds; and what serves it."""

from __future__ import annotations

import functools
import string
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from configs.language import ModelConfig
from configs.model_pool import ModelPoolConfig
from learners.models.load import create_model_folder

WORDS = ("<pad>", "<eos>", "<unk>", "Yes", "No", *string.digits, *string.ascii_letters, *string.punctuation, " ", "\n")
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ARCHITECTURE: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


@functools.cache
def judge_folder() -> str:
    """Make the model once per test process; the operating system clears its temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-judge-"))
    # Its alphabet has as many entries as ours, so that the network fits.
    letters = "".join(chr(0x4E00 + i) for i in range(len(WORDS) - 2))
    create_model_folder(ModelConfig(architecture=ARCHITECTURE, characters=letters), folder, seed=3)
    split = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.Split(Regex(r"Yes|No|[\s\S]"), behavior="isolated")
    split.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=split, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False, chat_template=TEMPLATE,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return str(folder)


def pool(**settings: Any) -> ModelPoolConfig:
    return ModelPoolConfig(**{"path": judge_folder(), "engine": "torch", "context_length": 1024, **settings})


@functools.cache
def hugging_face() -> tuple[Any, Any]:
    folder = judge_folder()
    return AutoModelForCausalLM.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def log_odds(prompt: str) -> float:
    """Return log p(Yes) - log p(No) of the token after a prompt, nats, by Hugging Face's own forward pass."""
    model, tokenizer = hugging_face()
    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])).logits[0, -1]
    return float(logits[WORDS.index("Yes")] - logits[WORDS.index("No")])
