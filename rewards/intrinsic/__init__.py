"""Rewards that are learned online from what agents just did."""
