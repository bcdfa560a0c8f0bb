"""Caps on turns, tokens, seconds and money, of a case and of a run."""

from collections.abc import Callable
from dataclasses import dataclass

from medsam3_core.settings.agent import AgentSettings


@dataclass(frozen=True, slots=True)
class Spent:
    """What has been used up."""

    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.tokens + other.tokens, self.seconds + other.seconds, self.cost + other.cost)


class Budget:
    """The caps of one case, and of the run that it belongs to.

    Args:
        settings: The caps.
        of_run: Gives what the run has spent so far, this case not counted.
        clock: Seconds since the case began.
        on_pay: Told what this case has spent, whenever something is paid.
    """

    def __init__(
        self,
        settings: AgentSettings,
        of_run: Callable[[], Spent],
        clock: Callable[[], float],
        on_pay: Callable[[Spent], None] | None = None,
    ) -> None:
        self._settings, self._of_run, self._clock, self._on_pay = settings, of_run, clock, on_pay
        self._tokens, self._cost = 0, 0.0

    def pay(self, tokens: int, cost: float | None) -> None:
        """Count one answer of a model."""
        self._tokens += tokens
        self._cost += cost or 0.0
        if self._on_pay is not None:
            self._on_pay(self.spent)

    @property
    def turns(self) -> int:
        """Answers of the model per request."""
        return self._settings.agent_turns

    @property
    def spent(self) -> Spent:
        """What this case has used up."""
        return Spent(self._tokens, self._clock(), self._cost)

    @property
    def seconds_left(self) -> float | None:
        """Until the cap of the case; None where there is none."""
        cap = self._settings.agent_seconds
        return max(0.0, cap - self._clock()) if cap else None

    def hit(self) -> str | None:
        """The first cap that is reached, as `tokens=1200>=1000`; None while there is room."""
        case, settings = self.spent, self._settings
        bound = settings.agent_run_tokens or settings.agent_run_seconds or settings.agent_run_cost
        run = case + self._of_run() if bound else case  # reads a file per case of the run
        caps: list[tuple[str, float, float]] = [
            ("agent_tokens", case.tokens, settings.agent_tokens),
            ("agent_seconds", case.seconds, settings.agent_seconds),
            ("agent_cost", case.cost, settings.agent_cost),
            ("agent_run_tokens", run.tokens, settings.agent_run_tokens),
            ("agent_run_seconds", run.seconds, settings.agent_run_seconds),
            ("agent_run_cost", run.cost, settings.agent_run_cost),
        ]
        for name, used, cap in caps:
            if cap and used >= cap:
                return f"{name}: {used:.6g} of {cap:g}"
        return None
