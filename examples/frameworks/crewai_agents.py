"""A CrewAI crew of two agents, each with a vault key of its own, and scripted models.

BILLING_KEY=… SUPPLIES_KEY=… python crewai_agents.py    Prints what each model was told, as JSON.
"""

import json
import os

# Before the import, which reads them.
os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

from typing import Any

from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import BaseTool
from pydantic import PrivateAttr
from stripe import StripeError

from payments import agents


class Scripted(BaseLLM):
    """Asks for one charge after the other, in the words of ReAct, and keeps what it is told."""

    _cents: list[int] = PrivateAttr(default_factory=list)
    _told: list[str] = PrivateAttr(default_factory=list)

    def call(self, messages, *arguments: Any, **named: Any) -> str:
        # What a tool answered stands behind the words with which the model asked for it.
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        self._told = [text.partition("Observation:")[2].strip() for text in said if "Observation:" in text]
        if not self._cents:
            return "Thought: I now know the final answer\nFinal Answer: done"
        return "Thought: next\nAction: charge\nAction Input: " + json.dumps({"cents": self._cents.pop(0)})

    def supports_function_calling(self) -> bool:
        return False


class Charge(BaseTool):
    # Both need their annotation: without it pydantic refuses the class.
    name: str = "charge"
    description: str = "Charge a customer's card this many cents."
    _agent: Any = PrivateAttr()

    def _run(self, cents: int) -> str:
        # CrewAI calls a tool that raises several times before it tells the model; each try would be a denial.
        try:
            return self._agent.charge(cents)
        except StripeError as error:
            return f"refused: {error.user_message}"


members, tasks, models = [], [], {}
for agent in agents():
    model = Scripted(model="scripted")
    model._cents = list(agent.cents)
    models[agent.name] = model
    tool = Charge()
    tool._agent = agent
    member = Agent(role=agent.name, goal="charge customers", backstory="a careful clerk", llm=model, tools=[tool])
    members.append(member)
    tasks.append(Task(description="charge them", expected_output="done", agent=member))
Crew(agents=members, tasks=tasks, memory=False).kickoff()
print(json.dumps({name: model._told for name, model in models.items()}))
