"""Language models behind HTTP: what annotators and judges share.

`settings` holds the keys of a section that names a model, `client` sends requests and gives up in time, `routes`
chooses among equal servers and leaves broken ones alone, `http` is one server at an address, `models` one that the run
starts itself; `pace` keeps to a rate, `replies` reads what an OpenAI-compatible server answers. Nothing in here knows
what is asked, and nothing raises for what the other side does: whoever asks gets an answer or a `Failure` that says why
not.
"""
