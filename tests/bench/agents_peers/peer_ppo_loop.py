"""Recurrent PPO in one process and one file: what one would write without a framework. torch, no Ray.

    python tests/bench/agents_peers/run.py ppo_loop --size oni --seconds 60

32 games of NetHackScore side by side, 32 steps, one update on the 1,024 frames; generalised advantages, clipped ratios and values.
Prints one JSON line with the trained frames per second.
"""

from __future__ import annotations

import numpy as np
import torch
from network import Net
from outcome import FRAMES_PER_UPDATE, ROLLOUT, Meter, arguments
from torch.distributions import Categorical

from rayrl.envs.nethack.tasks import Score
from rayrl.envs.nethack.view import OBSERVATIONS

ENVS = FRAMES_PER_UPDATE // ROLLOUT
GAMMA, LAMBDA, CLIP, ENTROPY, GRAD_NORM, RATE = 0.99, 0.95, 0.1, 0.003, 4.0, 1e-4


def main() -> None:
    asked = arguments(__doc__)
    torch.manual_seed(0)
    net = Net(asked.size, OBSERVATIONS["stats"].scale)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, eps=1e-6)
    envs = [Score() for _ in range(ENVS)]
    now = {name: np.zeros((ENVS, *spec.shape), spec.dtype) for name, spec in OBSERVATIONS.items()}
    for k, env in enumerate(envs):
        env.view.bind({name: array[k] for name, array in now.items()})
        env.reset(seed=k)
    seen = {name: torch.from_numpy(np.zeros((ROLLOUT, *array.shape), array.dtype)) for name, array in now.items()}
    shape = (ROLLOUT, ENVS)
    actions, old_logprobs, values = torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.zeros(ROLLOUT + 1, ENVS)
    rewards, starts = torch.zeros(shape), torch.zeros(ROLLOUT + 1, ENVS, dtype=torch.bool)
    starts[0] = True
    state = torch.zeros(ENVS, net.hidden)
    meter, frames = Meter("ppo_loop", asked), 0
    while not meter.update(frames):
        first = state
        with torch.no_grad():
            for t in range(ROLLOUT):
                for name, array in now.items():
                    seen[name][t] = torch.from_numpy(array)
                logits, values[t], state = net.step({n: a[t] for n, a in seen.items()}, state * (~starts[t]).unsqueeze(-1))
                choice = Categorical(logits=logits)
                actions[t] = choice.sample()
                old_logprobs[t] = choice.log_prob(actions[t])
                for k, action in enumerate(actions[t].tolist()):
                    _, rewards[t, k], terminated, truncated, _ = envs[k].step(action)
                    starts[t + 1, k] = terminated or truncated
                    if terminated or truncated:
                        envs[k].reset()
            last = {name: torch.from_numpy(array) for name, array in now.items()}
            _, values[ROLLOUT], _ = net.step(last, state * (~starts[ROLLOUT]).unsqueeze(-1))
            goes_on = (~starts[1:]).float()
            advantages, carried = torch.zeros(shape), torch.zeros(ENVS)
            for t in reversed(range(ROLLOUT)):
                delta = rewards[t].clamp(-10, 10) + GAMMA * values[t + 1] * goes_on[t] - values[t]
                advantages[t] = carried = delta + GAMMA * LAMBDA * goes_on[t] * carried
            targets = advantages + values[:ROLLOUT]
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-5)
        logits, new_values = net.unroll(seen, first, starts[:ROLLOUT])
        choice = Categorical(logits=logits)
        ratio = (choice.log_prob(actions) - old_logprobs).exp()
        policy_loss = -torch.min(ratio * advantages, ratio.clamp(1 / (1 + CLIP), 1 + CLIP) * advantages).mean()
        clipped = values[:ROLLOUT] + (new_values - values[:ROLLOUT]).clamp(-1, 1)
        value_loss = torch.max((new_values - targets) ** 2, (clipped - targets) ** 2).mean()
        loss = policy_loss + 0.5 * value_loss - ENTROPY * choice.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), GRAD_NORM)
        optimizer.step()
        starts[0] = starts[ROLLOUT]
        frames += FRAMES_PER_UPDATE
    meter.report(sum(p.numel() for p in net.parameters()), threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
