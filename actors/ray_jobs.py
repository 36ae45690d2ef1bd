"""Jobs of a Ray cluster, through its dashboard."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import aiohttp
from ray.exceptions import AuthenticationError

from actors.ray_adapter import first_line
from configs.errors import DataError, RunError

__all__ = ["Jobs"]

TRIES = 8
"""Lost connections in a row, each after a longer pause, before a job is given up as unreachable: four minutes."""


class Jobs:
    """A connection to the job server of a cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
          DataError: nobody answers at the address, or it wants another token.
        """
        from ray.job_submission import JobSubmissionClient  # slow, and needed by nobody else

        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)  # else it speaks of every upload and close
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            remedy = "set RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with"
            raise DataError(f"the cluster at {address} refuses us: {first_line(error)}; {remedy}") from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            remedy = "give the URL of a dashboard that is reachable from here, such as http://127.0.0.1:8265"
            raise DataError(f"no cluster answers at {address}: {first_line(error)}; {remedy}") from error

    def submit(self, entrypoint: str, archive: Path) -> str:
        """Start a job in the working directory that a zip archive holds; return its name."""
        name: str = self._client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(archive)})
        return name

    async def show(self, name: str) -> None:
        """Print what a job prints, until it ends; owner of the wait: the job, which has deadlines of its own.

        Raises:
          RunError: the cluster is out of reach.
        """
        shown = failures = 0
        while True:
            passed = 0
            try:
                async for text in self._client.tail_job_logs(name):  # from the beginning, each time
                    print(text[max(0, shown - passed) :], end="", flush=True)
                    passed += len(text)
                    shown, failures = max(shown, passed), 0
                if self._client.get_job_status(name).is_terminal():
                    return
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                failures += 1
                if failures == TRIES:
                    raise RunError(f"job {name} is out of reach: {first_line(error)}; it may go on") from error
            await asyncio.sleep(2.0**failures)

    def outcome(self, name: str) -> tuple[int, str]:
        """Return the exit code of a job that ended, 1 where it had none, and the first line of Ray's word on it."""
        details = self._client.get_job_info(name)
        code = details.driver_exit_code
        said = str(details.message).partition("\n")[0]
        return (int(details.status != "SUCCEEDED") if code is None else int(code)), said
