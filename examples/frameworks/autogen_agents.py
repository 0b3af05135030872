"""Two pairs of AutoGen agents, each with a vault key of its own, and a scripted model.

BILLING_KEY=… SUPPLIES_KEY=… python autogen_agents.py    Prints what each model was told, as JSON.
"""

import json
from types import SimpleNamespace

from autogen import ConversableAgent, register_function

from payments import agents


class Scripted:
    """Asks for one charge after the other, and keeps what it is told."""

    def __init__(self, config, cents, told):
        self.cents, self.told = cents, told

    def create(self, params):
        self.told[:] = [message["content"] for message in params["messages"] if message.get("role") == "tool"]
        done = len(self.told)
        call = None
        if done < len(self.cents):
            function = SimpleNamespace(name="charge", arguments=json.dumps({"cents": self.cents[done]}))
            call = SimpleNamespace(id=f"call_{done}", type="function", function=function)
        message = SimpleNamespace(
            content="TERMINATE" if call is None else "", tool_calls=call and [call], function_call=None, role="assistant"
        )
        choices = [SimpleNamespace(message=message)]
        # AutoGen finds `message_retrieval` again by the id.
        return SimpleNamespace(id=f"response_{done}", choices=choices, model="scripted", usage=None, cost=0)

    def message_retrieval(self, response):
        message = response.choices[0].message
        if not message.tool_calls:
            return [message.content]
        calls = [
            {"id": call.id, "type": call.type, "function": vars(call.function)} for call in message.tool_calls
        ]
        return [{"role": "assistant", "content": "", "tool_calls": calls}]

    def cost(self, response):
        return 0

    @staticmethod
    def get_usage(response):
        return {}


def chat(agent):
    """Lets the agent charge until its script is done; answers what its model was told."""

    def charge(cents: int) -> str:
        return agent.charge(cents)

    told = []
    config = {"config_list": [{"model": "scripted", "model_client_cls": "Scripted", "api_key": "none"}]}
    clerk = ConversableAgent(agent.name, llm_config=config, human_input_mode="NEVER")
    till = ConversableAgent(
        "till",
        llm_config=False,
        human_input_mode="NEVER",
        is_termination_msg=lambda message: "TERMINATE" in (message.get("content") or ""),
    )
    register_function(charge, caller=clerk, executor=till, description="Charge a customer's card this many cents.")
    # Behind the tools: to register one drops the client.
    clerk.register_model_client(model_client_cls=Scripted, cents=agent.cents, told=told)
    till.initiate_chat(clerk, message="charge them", max_turns=10, silent=True)
    return told


print(json.dumps({agent.name: chat(agent) for agent in agents()}))
