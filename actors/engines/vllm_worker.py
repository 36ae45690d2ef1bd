"""What runs inside vLLM's worker processes: taking new weights, and ending when the owner of the engine ends.

vLLM imports this module in each worker (`worker_extension_cls`) before it loads the model, with the
variable below set by `vllm_start.py`; imported elsewhere, it does nothing.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import select
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np

from learners.models.weights import Layout

__all__ = ["OWNER", "WorkerExtension"]

OWNER = "HEADRACE_ENGINE_OWNER"
"""Process id of the engine's owner."""
NAMES_OF_PYTHON = ("/dev/shm/psm_", "/dev/shm/sem.mp-")
"""How `multiprocessing` names shared memory and semaphores."""


class WorkerExtension:
    """Mixed into vLLM's worker class; its methods are called by name on every worker."""

    model_runner: Any

    def take_published_weights(self, path: str, layout: str) -> None:
        """Replace the weights in place by those that the owner has laid out in a file of shared memory."""
        parts = Layout.from_json(layout)
        with open(path, "rb", buffering=0) as file:
            # A private mapping: writable, as torch asks for, and nothing is written.
            access = mmap.PROT_READ | mmap.PROT_WRITE
            buffer = np.frombuffer(mmap.mmap(file.fileno(), parts.size, mmap.MAP_PRIVATE, access), np.uint8)
        self.model_runner.reload_weights(weights_iterator=iter(parts.views(buffer).items()))
        self._repack_tied_head()

    def forget_shared_names(self) -> None:
        """Leave nothing behind in case all processes are killed at once, as Ray does with an actor's.

        Python's resource tracker, whose task that would be, is killed with them.
        """
        unlink_shared_memory()

    def _repack_tied_head(self) -> None:
        """Give a head that shares the embedding its new weights on CPUs, where it holds a packed copy of them.

        vLLM 0.32 repacks every layer that it loads; a tied head is loaded by nobody.
        """
        model = self.model_runner.get_model()
        config = self.model_runner.model_config.hf_text_config
        if self.model_runner.device.type == "cpu" and getattr(config, "tie_word_embeddings", False):
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)


def end_with(owner: int) -> None:
    """Kill this process, and vLLM's between it and the owner, as soon as the owner is gone.

    vLLM ends its processes when it is shut down; when its owner is killed, they would stay forever.
    """
    parent = multiprocessing.parent_process()
    try:
        gone = os.pidfd_open(owner)
    except ProcessLookupError:
        gone = None

    def watch() -> None:
        if gone is not None:
            select.select([gone], [], [])  # the one wait without a deadline: it lasts as long as the engine
        unlink_shared_memory()
        # With several workers each may be first; a process that is gone already is left alone.
        if parent is not None and parent.pid not in (None, owner) and parent.is_alive():
            os.kill(int(parent.pid or 0), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-owner", daemon=True).start()


def unlink_shared_memory() -> None:
    """Remove the names of the message queues and locks that this process maps; the memory goes with its last user."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        if path.startswith(NAMES_OF_PYTHON):
            Path(path).unlink(missing_ok=True)


if OWNER in os.environ:
    end_with(int(os.environ[OWNER]))
