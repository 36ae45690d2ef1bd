"""Engines: requests stream in, completions stream out; `base.py` is the contract.

`torch_engine.py` is the built-in engine, in parts: `admission.py` says which requests can run,
`slots.py` holds what is in flight as arrays,
`prefix.py` prefills each distinct prompt once, `sampling.py` draws tokens, `stopping.py` finds stop
strings, `scoring.py` scores whole sequences. No engine knows tasks, rewards or groups.

`vllm_engine.py` is vLLM, in parts: `vllm_session.py` holds the requests in flight, in the event loop of
`background.py`; `vllm_start.py` starts its processes, `vllm_worker.py` runs inside them, `vllm_weights.py`
is how weights get there, and `vllm_messages.py` translates. vLLM is imported only when it is asked for.

What makes a request's tokens independent of its company in the built-in engine: every call of the network has a fixed
shape (all slots, full cache length, idle rows padded), and random numbers are keyed by request and
token. To add an engine, implement `base.Engine` and add it to the fixtures of
`tests/unit/test_engine_conformance.py`.
"""

from __future__ import annotations

__all__ = ["CHECKS", "ENGINES"]

ENGINES: dict[str, str] = {
    "torch": "actors.engines.factory:torch_engine",
    "vllm": "actors.engines.factory:vllm_engine",
}

CHECKS: dict[str, str] = {
    "vllm": "actors.engines.factory:check_vllm",
}
"""What `launch.py check` calls with the options of an engine that is more than its import."""
