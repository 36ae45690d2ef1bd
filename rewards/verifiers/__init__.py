"""Rule verifiers: components whose verdict needs no model.

Each is a frozen dataclass whose fields are the YAML keys. A verdict on the policy's text is a value
(wrong is 0.0); what the verifier cannot judge (no reference, a hang, a crash) is an invalid score.

What a model wrote may be hostile, and no verifier runs it in this process. Programs, SQL, and texts that some library
evaluates run in `rewards.sandbox`. Trusted code that hostile text may merely hang (a user's regular expression or
schema) runs in a `child` with a deadline per item. The rest reads text in linear time.
"""
