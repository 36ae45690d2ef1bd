"""Engines: requests stream in, completions stream out; `base.py` is the contract.

`torch_engine.py` is the built-in engine, in parts: `admission.py` says which requests can run,
`slots.py` holds what is in flight as arrays,
`prefix.py` prefills each distinct prompt once, `sampling.py` draws tokens, `stopping.py` finds stop
strings, `scoring.py` scores whole sequences. No engine knows tasks, rewards, groups or processes.

What makes a request's tokens independent of its company: every call of the network has a fixed
shape (all slots, full cache length, idle rows padded), and random numbers are keyed by request and
token. To add an engine, implement `base.Engine` and add it to the fixtures of
`tests/unit/test_engine_conformance.py`.
"""

from __future__ import annotations

__all__ = ["ENGINES"]

ENGINES: dict[str, str] = {
    "torch": "actors.engines.factory:torch_engine",
}
