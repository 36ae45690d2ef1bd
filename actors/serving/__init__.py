"""Language models that a run serves to its own judges and annotators: `rewards.models`.

    judge -> client --handle--> ModelMember -> vLLM's OpenAI-compatible application | the built-in engine

A member answers as an OpenAI-compatible endpoint does, but through its handle: there is no port that others of the
network could use, and a member on another host needs no address. To the supervisor it is a member like any other:
it has heartbeats, is replaced when it dies, and `launch.py scale RUN model.NAME=2` adds more.
"""

from __future__ import annotations

__all__ = ["CHECKS", "SERVERS"]

SERVERS: dict[str, str] = {
    "torch": "actors.serving.factory:torch_server",
    "vllm": "actors.serving.factory:vllm_server",
}
"""Engine -> (settings, name, folder for logs) -> an object with `complete`, `check` and `close`."""

CHECKS: dict[str, str] = {
    "vllm": "actors.serving.factory:check_vllm_options",
}
"""What `launch.py check` calls with the settings of an engine that is more than its import."""
