"""Rewards made of other rewards: components that read what those named in their `after` said of the same samples.

A part that is wanted only here has weight 0 in the section of the run. Where one of the scores that are read is
invalid, so is the reward: nothing stands in for it.
"""
