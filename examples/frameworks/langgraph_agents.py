"""Two LangGraph agents, each with a vault key of its own, and a scripted model.

BILLING_KEY=… SUPPLIES_KEY=… python langgraph_agents.py    Prints what each model was told, as JSON.
"""

import json

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from payments import agents


def graph_of(agent):
    @tool
    def charge(cents: int) -> str:
        """Charge a customer's card this many cents."""
        return agent.charge(cents)

    def model(state: MessagesState):
        done = sum(isinstance(message, ToolMessage) for message in state["messages"])
        if done == len(agent.cents):
            return {"messages": [AIMessage("done")]}
        call = {"name": "charge", "args": {"cents": agent.cents[done]}, "id": f"call_{done}"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    # Without handle_tool_errors a denial ends the graph: ToolNode raises it.
    graph.add_node("tools", ToolNode([charge], handle_tool_errors=True))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "model")
    return graph.compile()


told = {}
for agent in agents():
    messages = graph_of(agent).invoke({"messages": [("user", "charge them")]})["messages"]
    told[agent.name] = [message.content for message in messages if isinstance(message, ToolMessage)]
print(json.dumps(told))
