"""Entry point: the requests of one case, answered by rules or by a language model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from medsam3_core.agent.answers import AgentAnswer
from medsam3_core.agent.budget import Budget, Spent
from medsam3_core.agent.chat import ModelAccess
from medsam3_core.agent.conversation import Conversation
from medsam3_core.agent.replay import RecordedBudget, ReplayEndpoint
from medsam3_core.agent.rules import RuleAgent
from medsam3_core.agent.session import AgentSession
from medsam3_core.agent.trace import Trace, TraceEvent, stopwatch
from medsam3_core.errors import UsageError
from medsam3_core.settings.agent import SYNONYMS


@dataclass(frozen=True, eq=False)
class AgentRun:
    """Options of a run of the agent.

    Attributes:
        synonyms: Number of second opinions of the rules.
        access: The model; None for the rules.
        spent_by_run: Returns the spending of the run on other cases.
        on_pay: Called with the spending of this case after every reply.
        on_answer: Called with the events so far after every reply.
    """

    synonyms: int = SYNONYMS
    access: ModelAccess | None = None
    spent_by_run: Callable[[], Spent] = field(default=Spent)
    on_pay: Callable[[Spent], None] | None = None
    on_answer: Callable[[Sequence[TraceEvent]], None] | None = None


@dataclass(frozen=True, eq=False)
class AgentCase:
    """Answers of a case by structure, its trace, and the resources used."""

    answers: Mapping[str, AgentAnswer]
    events: tuple[TraceEvent, ...]
    spent: Spent

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all answers, with their structure."""
        return tuple(f"{name}:{note}" for name, answer in self.answers.items() for note in answer.notes)


class AgentInterrupted(Exception):  # noqa: N818 - it carries the events
    """An endpoint failed within a case; carries the events until then."""

    def __init__(self, cause: Exception, events: tuple[TraceEvent, ...], spent: Spent) -> None:
        super().__init__(str(cause))
        self.cause, self.events, self.spent = cause, events, spent


def answer_requests(session: AgentSession, requests: Mapping[str, str], run: AgentRun) -> AgentCase:
    """Answer the requests of one case, given in words by structure.

    Raises:
        UsageError: If a request is empty or too long, or a model is set without an endpoint.
        AgentInterrupted: If the endpoint does not answer; carries the events until then.
    """
    trace = Trace(on_answer=run.on_answer)
    settings = session.settings.agent
    seconds = stopwatch()
    if not settings.uses_model:
        answers = RuleAgent(session, trace, run.synonyms).answer(requests)
        return AgentCase(answers, tuple(trace.events), Spent(seconds=seconds()))
    if run.access is None:
        msg = f"agent_model={settings.agent_model} but no endpoint is configured; see docs/agent.md"
        raise UsageError(msg)
    endpoint = run.access.endpoint
    budget = Budget(settings, run.spent_by_run, seconds, run.on_pay)
    if isinstance(endpoint, ReplayEndpoint):
        budget = RecordedBudget(endpoint)
    answers = {}
    for structure, words in requests.items():
        try:
            answers[structure] = Conversation(session, trace, budget, run.access).answer(structure, words)
        except UsageError:
            raise
        except Exception as error:
            raise AgentInterrupted(error, tuple(trace.events), budget.spent) from error
    return AgentCase(answers, tuple(trace.events), budget.spent)
