"""Two Agno agents, each with a vault key of its own, and a scripted model.

BILLING_KEY=… SUPPLIES_KEY=… python agno_agents.py    Prints what each model was told, as JSON.
"""

import json
from dataclasses import dataclass, field

from agno.agent import Agent
from agno.models.base import Model
from agno.models.response import ModelResponse

from payments import agents


@dataclass
class Scripted(Model):
    """Asks for one charge after the other, and keeps what it is told."""

    id: str = "scripted"
    cents: list = field(default_factory=list)
    told: list = field(default_factory=list)

    def invoke(self, messages, *arguments, **named):
        self.told = [message.content for message in messages if message.role == "tool"]
        done = len(self.told)
        if done == len(self.cents):
            return ModelResponse(role="assistant", content="done")
        function = {"name": "charge", "arguments": json.dumps({"cents": self.cents[done]})}
        call = {"id": f"call_{done}", "type": "function", "function": function}
        return ModelResponse(role="assistant", tool_calls=[call])

    async def ainvoke(self, *arguments, **named):
        raise NotImplementedError

    def invoke_stream(self, *arguments, **named):
        raise NotImplementedError

    def ainvoke_stream(self, *arguments, **named):
        raise NotImplementedError

    def _parse_provider_response(self, response, **named):
        return response

    def _parse_provider_response_delta(self, response):
        return response


told = {}
for agent in agents():
    model = Scripted(cents=agent.cents)
    # The bound method is the tool: its key is not among its arguments.
    Agent(model=model, tools=[agent.charge], telemetry=False).run("charge them")
    told[agent.name] = model.told
print(json.dumps(told))
