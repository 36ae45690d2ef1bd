"""Rule verifiers: components whose verdict needs no model.

Each is a frozen dataclass whose fields are the YAML keys. A verdict on the policy's text is a value
(wrong is 0.0); what the verifier cannot judge (no reference, a hang, a crash) is an invalid score.

Code that may hang or eat memory on hostile text (computer algebra, user regexes, `eval` inside task
libraries) runs in a `child` process with a deadline per item. That contains hangs and crashes; it is
no security sandbox, so do not feed it text from strangers.
"""
