"""Tokenizers: one token per character for tiny models, or whatever a model folder brings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from configs.errors import ConfigError, DataError

__all__ = ["character_tokenizer", "encode", "load_tokenizer", "token_texts"]

PAD = "<pad>"
EOS = "<eos>"


def character_tokenizer(characters: str) -> Any:
    """Return a tokenizer whose tokens are <pad>, <eos> and each character; decoding concatenates exactly.

    Raises:
      ConfigError: a character occurs twice, or there is none.
    """
    repeated = sorted({c for c in characters if characters.count(c) > 1})
    if repeated or not characters:
        raise ConfigError(
            f"model.characters is {characters!r}; it must name each character once"
            f" (repeated: {repeated}); give the alphabet of your tasks"
        )
    vocabulary = {token: index for index, token in enumerate((PAD, EOS, *characters))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


@functools.lru_cache(maxsize=512)  # the samples of a group share their prompt
def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the tokens of `text` without special tokens around it.

    Raises:
      DataError: the text has a character that a character tokenizer does not know.
    """
    if tokenizer.is_fast and isinstance(tokenizer.backend_tokenizer.model, models.WordLevel):
        unknown = sorted(set(text) - tokenizer.get_vocab().keys())
        if unknown and tokenizer.unk_token is None:
            raise DataError(f"{text!r} has {unknown}, which the tokenizer does not know; add them to model.characters")
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def load_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer of a model folder.

    Raises:
      DataError: the folder is missing or has no tokenizer, or the tokenizer has no eos token.
    """
    if not Path(folder).is_dir():
        raise DataError(f"model folder {folder} does not exist; set model.path to a Hugging Face folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} has no usable tokenizer: {error}; save one there with save_pretrained") from error
    # Without tokenizer files transformers makes up a tokenizer of the model's kind, with special tokens only.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise DataError(f"{folder} has no usable tokenizer: it has no tokens; save one there with save_pretrained")
    # No pad token is asked for: packed batches and engine slots pad by position, and never look at the id.
    if tokenizer.eos_token is None:
        raise DataError(f"the tokenizer of {folder} lacks eos_token; set eos_token in its tokenizer_config.json")
    return tokenizer


def token_texts(tokenizer: Any, size: int) -> Sequence[str]:
    """Return the text of each token id below `size`, special tokens included."""
    known = min(size, len(tokenizer))
    texts: list[str] = tokenizer.batch_decode([[i] for i in range(known)], skip_special_tokens=False)
    return [*texts, *[""] * (size - known)]
