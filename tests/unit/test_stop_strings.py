"""Stop strings are found where, and only where, the last sampled token completes them."""

from __future__ import annotations

import numpy as np
from engine_models import tokenizer

from actors.engines.stopping import StopStrings
from learners.models.tokenizer import encode

VOCABULARY = 25


def completed(text: str, *stop: str) -> bool:
    tokens = np.array(encode(tokenizer(), text), np.int32)
    return StopStrings(tokenizer(), VOCABULARY).completed(tokens, stop)


def test_a_stop_string_spread_over_tokens_is_found() -> None:
    assert completed("12+34", "+34")
    assert completed("12+34", "99", "+34")
    assert not completed("12+34", "+35")


def test_text_before_the_window_cannot_end_a_completion_again() -> None:
    assert not completed("5=" + "1" * 20, "5=")


def test_only_tokens_with_the_last_character_may_complete_a_stop_string() -> None:
    table = StopStrings(tokenizer(), VOCABULARY).may_complete(("+3", "<eos>"))
    assert len(table) == VOCABULARY
    names = {tokenizer().convert_ids_to_tokens(int(i)) for i in np.flatnonzero(table)}
    # ">" is the last character of the special tokens' text.
    assert names == {"3", "<pad>", "<eos>"}


def test_the_table_of_a_stop_tuple_is_made_once() -> None:
    strings = StopStrings(tokenizer(), VOCABULARY)
    assert strings.may_complete(("1",)) is strings.may_complete(("1",))
