"""Judges: rewards that ask a language model, over any OpenAI-compatible endpoint.

A judge is an ordinary component of the reward graph: one file here with the judge, one in `templates/` with its
prompt, one line in REWARDS. `base` fills in templates and asks, `prompts` keeps what the policy wrote apart from
what we wrote, `verdicts` reads replies, `asking` caches, meters and keeps to a budget, `attacks` tries to fool
judges. A server of one's own pool is named by its URL, like any other:

    vllm serve MODEL --served-model-name judge --port 8000

    rewards:
      components:
        quality:
          component:
            target: judge_pointwise
            rubric: The answer is correct, and its steps follow from each other.
            endpoint:
              url: http://127.0.0.1:8000/v1
              model: judge
              structured: true         # the server holds replies to a JSON schema; vLLM does
              concurrency: 32
              token_budget: 5_000_000  # then scores are abstained, with the reason
          deadline_s: 60
          replicas: 2
"""
