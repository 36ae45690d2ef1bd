"""The keys of a section that names a language model: a pool of the run, or an OpenAI-compatible server.

Such servers are vLLM, SGLang, llama.cpp, Ollama, or a paid one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from configs.errors import ConfigError, one_of, require
from rewards.answers import Failure
from rewards.endpoints.client import Client, Limits
from rewards.endpoints.http import HttpServer
from rewards.endpoints.models import NO_MODELS, Models, model_routes
from rewards.endpoints.routes import Routes

__all__ = ["EndpointSettings"]

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
OURS = frozenset({"model", "messages", "prompt", "temperature", "max_tokens", "n", "stream"})
LEAST = {"concurrency": 1, "max_tokens": 1, "retries": 0, "backoff_s": 0, "temperature": 0, "breaker_failures": 1}
POSITIVE = ("requests_per_s", "request_deadline_s", "breaker_reset_s")


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Where a model is served, how it samples, and what it is spared."""

    model_pool: str = ""
    """A pool of `rewards.models`, whose members the run starts itself; instead of a url."""
    url: str | Sequence[str] = ""
    """Up to and with the version, for example http://127.0.0.1:8000/v1; redirects are not followed. Several serve the
    same model: each request goes to the one with the least to do."""
    model: str = ""
    """Its name at the url."""
    api: str = "chat"
    """chat: /chat/completions, needs a model with a chat template. completions: /completions."""
    key_variable: str | None = None
    """Environment variable that holds the server's key; None: the server wants none."""
    plain_key: bool = False
    """Send the key although the url is not https and not on this host."""
    temperature: float = 0.1
    max_tokens: int = 512
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of a request, such as {structured_outputs: {choice: [...]}} for vLLM, or {seed: 1}."""
    concurrency: int = 8
    """Requests at a time, of each member of the pool."""
    requests_per_s: float | None = None
    """Of each member of the pool; None: no limit."""
    request_deadline_s: float = 30.0
    """Of one try."""
    retries: int = 3
    """Further tries of a request that failed, as far as the call's deadline allows."""
    backoff_s: float = 0.5
    """Pause before the first retry; doubles with each, times a random factor in [0.5, 1.5]."""
    breaker_failures: int = 10
    """Requests that fail in a row after which a server is left alone."""
    breaker_reset_s: float = 5.0
    """Until it is probed again; requests wait that long for it, or twice that, then they are refused."""

    def check(self, place: str) -> None:
        """Refuse values that cannot work; `place` is the section's key.

        Raises:
          ConfigError: a value breaks its rule.
        """
        one_of(f"{place}.api", self.api, tuple(PATHS))
        for name, least in LEAST.items():
            value = getattr(self, name)
            require(value >= least, f"{place}.{name}", value, f"be >= {least}", "leave it out for the default")
        for name in POSITIVE:
            value = getattr(self, name)
            require(value is None or value > 0, f"{place}.{name}", value, "be > 0", "leave it out for the default")
        taken = sorted(OURS & set(self.extra_body))
        require(not taken, f"{place}.extra_body", taken, "leave these fields alone", "they have keys of their own")
        if self.model_pool:
            require(not self.url, f"{place}.url", self.url, "be left out where model_pool is given", "remove one")
            return
        require(bool(self.url), f"{place}.url", self.url, "say where the model is", "or give model_pool")
        require(bool(self.model), f"{place}.model", self.model, "be the model's name there", "see its /v1/models")
        for url in self.urls:
            _check_url(f"{place}.url", url, has_key=self.key_variable is not None and not self.plain_key)

    @property
    def urls(self) -> tuple[str, ...]:
        """Return all addresses."""
        return (self.url,) if isinstance(self.url, str) else tuple(self.url)

    @property
    def served(self) -> str:
        """Return the model's name where it is served."""
        return self.model or self.model_pool

    @property
    def source(self) -> str:
        """Return what messages and caches call the model: its pool or its addresses."""
        return self.model_pool or " ".join(self.urls)

    def client(
        self, place: str, models: Models = NO_MODELS, gate: Callable[[], Failure | None] = lambda: None
    ) -> Client:
        """Return a client; opens nothing yet.

        Args:
          models: the pools of the run.
          gate: asked before each try; a failure ends the request.

        Raises:
          ConfigError: the variable of the key is not set, or there is no such pool.
        """
        limits = Limits(
            concurrency=self.concurrency,
            requests_per_s=self.requests_per_s,
            request_deadline_s=self.request_deadline_s,
            retries=self.retries,
            backoff_s=self.backoff_s,
        )
        return Client(self._routes(place, models), limits, gate)

    def body(self, prompt: str) -> dict[str, Any]:
        """Return the JSON of a request about one prompt."""
        text = {"messages": [{"role": "user", "content": prompt}]} if self.api == "chat" else {"prompt": prompt}
        fixed = {"model": self.served, "temperature": self.temperature, "max_tokens": self.max_tokens}
        return {**self.extra_body, **fixed, **text}

    def _routes(self, place: str, models: Models) -> Routes:
        routes = Routes(self.source, failures=self.breaker_failures, reset_s=self.breaker_reset_s)
        if self.model_pool:
            return model_routes(routes, self.model_pool, PATHS[self.api], models, f"{place}.model_pool")
        key = _key(place, self.key_variable)
        for url in self.urls:
            routes.join(HttpServer(url.rstrip("/") + PATHS[self.api], key, self.concurrency))
        return routes


def _check_url(key: str, url: str, *, has_key: bool) -> None:
    parts = urlsplit(url)
    is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
    require(is_http, key, url, "begin with http:// or https:// and a host", "try http://127.0.0.1:8000/v1")
    is_safe = not has_key or parts.scheme == "https" or _is_local(parts.hostname or "")
    require(is_safe, key, url, "be https: anybody on the way could read the key", "or set plain_key: true")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(place: str, variable: str | None) -> str:
    if variable is None:
        return ""
    if not (key := os.environ.get(variable, "").strip()):
        raise ConfigError(
            f"{place}.key_variable is {variable!r}, an environment variable that is not set here; "
            f"export {variable}=... before the start, or leave key_variable out if the server wants no key"
        )
    return key
