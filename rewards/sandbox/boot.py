"""Entry of a zygote: `python boot.py ROOT DESCRIPTOR ORDER`, see `zygote.main`."""

import importlib
import sys
import types

if __name__ == "__main__":
    root, descriptor, order = sys.argv[1:]
    # A bare package in the place of ours, whose own imports would load what no program needs.
    package = types.ModuleType("rewards")
    package.__path__ = [f"{root}/rewards"]
    sys.modules["rewards"] = package
    importlib.import_module("rewards.sandbox.zygote").main(int(descriptor), order)
