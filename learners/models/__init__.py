"""Networks, tokenizers and log-probability maths: the leaf that actors, rewards and learners share.

It owns what both sides of the stream must compute alike: the network, its checkpoint names (always
Hugging Face's), the tokenizer and the log-probability of a token. It never knows about requests,
batches, optimisers or processes. To add an architecture natively, extend `decoder.unsupported` and
the two switches beside it (biases, per-head norms); everything else runs as `TransformersNetwork`.
"""
