"""All verifier components of a run as one `protocols.RewardScorer`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rayrl.config.schema import RewardComponent, RewardsConfig
from rayrl.rewards.pool import Call, Outcome, VerifierPool
from rayrl.rewards.registry import EXTRAS
from rayrl.types import RewardRecord, RewardStatus, Trajectory


class VerifierScorer:
    """Scores trajectories with every configured verifier, in a pool of processes.

    A component that is limited to other tasks scores 0.0 and its verifier is not called. Raises `ConfigError` when a verifier
    cannot be loaded or called as configured.
    """

    def __init__(self, components: Mapping[str, RewardComponent], config: RewardsConfig) -> None:
        self._specs = dict(components)
        self._pool = VerifierPool(self._specs, workers=config.workers, timeout_s=config.timeout_s, memory_mib=config.memory_mib)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components, in the order of the records."""
        return tuple(self._specs)

    def score(self, trajectories: Sequence[Trajectory]) -> list[list[RewardRecord]]:
        """One list of records per trajectory, one record per component in the order of `components`."""
        asked = [(t, name) for t in trajectories for name, spec in self._specs.items() if spec.tasks is None or t.task in spec.tasks]
        outcomes = self._pool.run([self._call(t, name) for t, name in asked])
        found = {(id(t), name): outcome for (t, name), outcome in zip(asked, outcomes, strict=True)}
        return [[self._record(name, found.get((id(t), name), _NOT_APPLICABLE)) for name in self._specs] for t in trajectories]

    def close(self) -> None:
        """Ends the processes."""
        self._pool.close()

    def _call(self, trajectory: Trajectory, name: str) -> Call:
        return Call(name, trajectory.text, trajectory.ground_truth, {e: EXTRAS[e](trajectory) for e in self._pool.extras[name]})

    def _record(self, name: str, outcome: Outcome) -> RewardRecord:
        steps = outcome.value if isinstance(outcome.value, tuple) else None
        value = math.fsum(steps) if steps is not None else outcome.value
        return RewardRecord(
            component=name,
            status=RewardStatus.SCORED if value is not None else RewardStatus.FAILED,
            value=value,
            step_values=steps,
            producer=self._specs[name].verifier,
            latency_s=outcome.latency_s,
            error=outcome.error,
        )


_NOT_APPLICABLE = Outcome(0.0, "", 0.0)
