"""rayrl: distributed actor-learner reinforcement learning whose subject is the reward."""

__version__ = "0.1.0"
