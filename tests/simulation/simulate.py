"""Run seeds: `python tests/simulation/simulate.py SEED [LAST_SEED]`; one line each, the first failure stops."""

from __future__ import annotations

import sys

from sim_run import prove

if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[-1])
    for seed in range(first, last + 1):
        outcome = prove(seed)
        faults = ", ".join(f"{count} {what}" for what, count in sorted(outcome.faults.items()))
        lived = f"{outcome.lives} lives, {outcome.virtual_s:.0f} s"
        print(f"seed={seed} hash={outcome.hash} {lived}, faults: {faults}", flush=True)
