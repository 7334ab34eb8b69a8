# SPDX-License-Identifier: Apache-2.0
"""Early stopping: the end of a run whose test accuracy no longer improves."""


class Patience:
    """Counts the evaluations since the best one."""

    def __init__(self, most: int | None):
        """Takes how many may pass without a better one; None: any number."""
        self._most, self._best, self._waited = most, -1.0, 0

    @property
    def is_over(self) -> bool:
        """Whether that many have passed."""
        return self._most is not None and self._waited >= self._most

    def add(self, accuracy: float) -> None:
        """Counts an evaluation, unless it is the best so far."""
        better = accuracy > self._best
        self._waited = 0 if better else self._waited + 1
        self._best = max(self._best, accuracy)

    def get_state(self) -> dict[str, float]:
        """Returns what a checkpoint holds."""
        return {"best": self._best, "waited": self._waited}

    def set_state(self, state: dict[str, float]) -> None:
        """Takes what a checkpoint holds."""
        self._best, self._waited = state["best"], int(state["waited"])
