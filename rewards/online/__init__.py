"""Rewards that learn while they are served: what their actors share.

    buffer --score--> member (scoring server) --what it met--> learner --version, on disk--> publication --> members

`base.OnlineComponent` is a reward component that also learns; `learner` trains one, `member` serves one, and
neither waits for the other. Versions are numbered from 0, which has learned nothing, and are on disk
(`archive`) before any member is given them: a number is never used for two models. Intrinsic rewards
(`rewards.intrinsic`) are made of the same parts, with labels as what they learn from.
"""
