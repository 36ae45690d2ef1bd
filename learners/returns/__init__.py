"""What turns rewards and values into advantages and value targets: frozen dataclasses around pure functions.

Dimensions here and below: B fragments, T steps.
"""

RETURNS: dict[str, str] = {
    "vtrace": "learners.returns.vtrace:VTrace",
    "gae": "learners.returns.gae:GAE",
}
