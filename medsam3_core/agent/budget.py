"""Caps on turns, tokens, seconds and money, per case and per run."""

from collections.abc import Callable
from dataclasses import dataclass

from medsam3_core.settings.agent import AgentSettings


@dataclass(frozen=True, slots=True)
class Spent:
    """Resources used."""

    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.tokens + other.tokens, self.seconds + other.seconds, self.cost + other.cost)


class Budget:
    """The caps of one case and of its run.

    Args:
        settings: The caps.
        of_run: Returns the spending of the run so far, without this case.
        clock: Seconds since the case began.
        on_pay: Called with the spending of this case after every payment.
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
        """Add the tokens and cost of one reply."""
        self._tokens += tokens
        self._cost += cost or 0.0
        if self._on_pay is not None:
            self._on_pay(self.spent)

    @property
    def turns(self) -> int:
        """Maximum replies of the model per request."""
        return self._settings.agent_turns

    @property
    def spent(self) -> Spent:
        """Spending of this case."""
        return Spent(self._tokens, self._clock(), self._cost)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the cap of the case; None without a cap."""
        cap = self._settings.agent_seconds
        return max(0.0, cap - self._clock()) if cap else None

    def hit(self) -> str | None:
        """The first cap reached, as `agent_tokens: 1200 of 1000`; None if there is none."""
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
