"""What a run is told: the schema, the loader, the presets and the errors.

Imports nothing of ours. `schema.py` is a run; each of its sections is a class in a file of its own, which
holds every default once. `load.py` reads YAML and overrides into it and refuses what it does not know,
with the closest key, or our name of another system's key (`foreign.py`); `registry.py` builds the
components that a section names; the `*.yaml` files are presets, one per runnable experiment, each opening
with a comment on what it is for. To add a setting, add a field with a docstring to its section; to forbid
a combination, add a rule to `rules.py`.
"""
