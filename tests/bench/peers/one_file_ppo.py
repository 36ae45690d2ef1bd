"""Synchronous PPO as a careful user writes it in one file, one thread: act, learn, act, in the manner of CleanRL.

python tests/bench/peers/one_file_ppo.py --env minigrid [--seconds 60]
"""

from __future__ import annotations

import gymnasium
import torch
from environments import HIDDEN, make
from torch import Tensor, nn
from window import LANES, LEARNING_RATE, STEPS, Window, parse

GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, MAX_GRAD_NORM = 0.99, 0.95, 0.2, 0.01, 0.5, 0.5


class Network(nn.Module):
    """Two tanh layers under a policy and a value head."""

    def __init__(self, inputs: int, hidden: tuple[int, int], actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, hidden[0]), nn.Tanh(), nn.Linear(*hidden), nn.Tanh())
        self.policy, self.value = nn.Linear(hidden[1], actions), nn.Linear(hidden[1], 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [..., A] and values [...]."""
        features = self.body(observations)
        return self.policy(features).log_softmax(-1), self.value(features).squeeze(-1)


class Rollout:
    """Tensors [T, N, ...] of one batch."""

    def __init__(self, inputs: int) -> None:
        self.observations = torch.zeros(STEPS, LANES, inputs)
        self.actions = torch.zeros(STEPS, LANES, dtype=torch.long)
        self.logprobs, self.rewards, self.ended = (torch.zeros(STEPS, LANES) for _ in range(3))
        self.values = torch.zeros(STEPS + 1, LANES)


@torch.no_grad()
def act(network: Network, environments: gymnasium.vector.VectorEnv, now: Tensor, batch: Rollout) -> Tensor:
    """Fill a batch; return the observations [N, D] after it."""
    for step in range(STEPS):
        logits, batch.values[step] = network(now)
        action = logits.exp().multinomial(1)
        batch.observations[step], batch.actions[step] = now, action[:, 0]
        batch.logprobs[step] = logits.gather(1, action)[:, 0]
        after, rewards, terminated, truncated, _ = environments.step(action[:, 0].numpy())
        batch.rewards[step] = torch.as_tensor(rewards)
        batch.ended[step] = torch.as_tensor(terminated | truncated)
        now = torch.as_tensor(after, dtype=torch.float32)
    batch.values[STEPS] = network(now)[1]
    return now


def generalised_advantages(batch: Rollout) -> Tensor:
    """Return [T, N] (arXiv:1506.02438, eq. 16)."""
    advantages, later = torch.zeros(STEPS, LANES), torch.zeros(LANES)
    for step in reversed(range(STEPS)):
        going = 1 - batch.ended[step]
        delta = batch.rewards[step] + GAMMA * going * batch.values[step + 1] - batch.values[step]
        advantages[step] = later = delta + GAMMA * LAMBDA * going * later
    return advantages


def learn(network: Network, optimiser: torch.optim.Optimizer, batch: Rollout) -> None:
    """Take one step of the clipped surrogate on the whole batch."""
    advantages = generalised_advantages(batch)
    targets = advantages + batch.values[:STEPS]
    logits, values = network(batch.observations)
    ratio = (logits.gather(2, batch.actions[..., None])[..., 0] - batch.logprobs).exp()
    weight = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy = -torch.minimum(ratio * weight, ratio.clamp(1 - CLIP, 1 + CLIP) * weight).mean()
    entropy = -(logits.exp() * logits).sum(-1).mean()
    optimiser.zero_grad()
    (policy + VALUE * 0.5 * (values - targets).square().mean() - ENTROPY * entropy).backward()
    nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
    optimiser.step()


def main() -> None:
    options = parse(__doc__, sorted(HIDDEN), workers=1)
    torch.set_num_threads(1)
    environments = gymnasium.vector.SyncVectorEnv([lambda: make(options.env)] * LANES)
    inputs = environments.single_observation_space.shape[0]  # type: ignore[index]
    network = Network(inputs, HIDDEN[options.env], int(environments.single_action_space.n))  # type: ignore[attr-defined]
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, eps=1e-5)
    batch, window, frames = Rollout(inputs), Window("one_file_ppo", options), 0
    now = torch.as_tensor(environments.reset(seed=0)[0], dtype=torch.float32)
    while not window.closed(frames):
        now = act(network, environments, now, batch)
        learn(network, optimiser, batch)
        frames += STEPS * LANES
    window.report()
    environments.close()


if __name__ == "__main__":
    main()
