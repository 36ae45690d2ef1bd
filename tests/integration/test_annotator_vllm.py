"""The endpoint annotator against vLLM's own OpenAI-compatible server with a tiny random model: one server for all."""

from __future__ import annotations

import asyncio
import os
import signal
import string
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from buffers.scores import ScoreStatus
from buffers.transport import free_address
from configs.language import ModelConfig
from learners.models.load import create_model_folder
from rewards.intrinsic.annotators.endpoint import Endpoint
from rewards.intrinsic.labels import Item

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("vllm_installed")]

START_DEADLINE_S = 280.0
CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " \n"
ARCHITECTURE = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
}
OPTIONS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "8"]
CAPTIONS: list[Item] = [(f"you pick up the {colour} key",) for colour in ("red", "green", "blue", "grey")] * 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, vllm_installed: None) -> Iterator[str]:
    """Start the server; yield its address."""
    folder = tmp_path_factory.mktemp("server")
    create_model_folder(ModelConfig(architecture=ARCHITECTURE, characters=CHARACTERS), folder / "model", seed=1)
    template = folder / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    host, port = free_address().removeprefix("tcp://").split(":")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    command += ["--served-model-name", "judge", "--chat-template", str(template), "--host", host, "--port", port]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *OPTIONS],
            env={**os.environ, **ENVIRONMENT},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        asyncio.run(answers(f"http://{host}:{port}/health", process, folder / "log"))
        yield f"http://{host}:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


async def answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server is up."""
    async with asyncio.timeout(START_DEADLINE_S), aiohttp.ClientSession() as session:
        while True:
            assert process.poll() is None, log.read_text()[-4000:]
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.2)


@asynccontextmanager
async def endpoint(url: str, **arguments: Any) -> AsyncIterator[Endpoint]:
    usual = {"model": "judge", "template": "minigrid_classification", "goal": "open the door", "max_tokens": 16}
    annotator = Endpoint(url=url, **{**usual, "deadline_s": 120.0, "request_deadline_s": 100.0, **arguments})
    try:
        yield annotator
    finally:
        await annotator.close()


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_a_random_model_abstains_and_is_never_an_error(server: str, api: str):
    # A random model now and then ends before it says anything, unless it must go on.
    async with endpoint(server, api=api, extra_body={"min_tokens": 8}) as annotator:
        labels = await annotator.annotate(CAPTIONS)
    assert [label.item for label in labels] == CAPTIONS
    assert {label.status for label in labels} == {ScoreStatus.ABSTAINED}
    assert all(label.reply for label in labels)
    stats = annotator.stats()
    prompt_tokens = sum(len(label.prompt) for label in labels)  # one token per character
    assert (stats["requests"], stats["failed_requests"], stats["prompt_tokens"]) == (20, 0, prompt_tokens)
    assert 0 < stats["completion_tokens"] <= 20 * 16


async def test_where_the_server_can_constrain_replies_every_label_is_read(server: str):
    choices = ["<label>MAPLE</label>", "<label>CEDAR</label>"]
    async with endpoint(server, max_tokens=40, extra_body={"structured_outputs": {"choice": choices}}) as annotator:
        labels = await annotator.annotate(CAPTIONS)
    assert {label.reply for label in labels} <= set(choices)
    assert [label.value for label in labels] == [float("MAPLE" in label.reply) for label in labels]


async def test_a_model_that_is_not_served_is_an_error_that_names_it(server: str):
    async with endpoint(server, model="somebody-else") as annotator:
        (label,) = await annotator.annotate(CAPTIONS[:1])
    assert label.status is ScoreStatus.ERROR and "somebody-else" in label.detail
    assert annotator.stats()["requests"] == 1


async def test_a_prompt_longer_than_the_model_reads_is_an_error_of_its_item_alone(server: str):
    async with endpoint(server) as annotator:
        short, long = await annotator.annotate([CAPTIONS[0], ("key " * 2000,)])
    assert short.status is ScoreStatus.ABSTAINED
    assert long.status is ScoreStatus.ERROR and "HTTP 400" in long.detail
