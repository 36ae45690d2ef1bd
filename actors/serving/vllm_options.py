"""Options of a pool that vLLM serves: arguments of its engine, and of its OpenAI-compatible application."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from configs.errors import ConfigError, nearest
from configs.model_pool import ModelPoolConfig

__all__ = ["application_arguments", "check", "engine_options"]


def engine_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that are arguments of the engine."""
    names = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    return {name: value for name, value in options.items() if name in names}


def application_arguments(config: ModelPoolConfig, name: str) -> Namespace:
    """Return what the application is made with: defaults of `vllm serve`, and the options.

    Raises:
      ConfigError: an option is neither's.
    """
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    for key, value in config.options.items():
        if not hasattr(arguments, key):
            place = f"rewards.models.{name}.options.{key}"
            raise ConfigError(f"{place} is no argument of `vllm serve`{nearest(key, vars(arguments))}")
        setattr(arguments, key, value)
    arguments.model, arguments.served_model_name = config.path, [name]
    return arguments


def check(config: ModelPoolConfig, name: str) -> None:
    """Refuse options that vLLM does not know.

    Raises:
      ConfigError: names the option.
    """
    application_arguments(config, name)
