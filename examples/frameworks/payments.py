"""What the agents of these examples share: the tool, and who they are.

Each agent has a vault key of its own, from the environment. The key is bound to the tool and is no argument of it, so
no model can choose to pay with another agent's.
"""

import os

from stripe import StripeClient

BASE_URL = os.environ.get("KEYBRAKE_STRIPE_URL", "http://127.0.0.1:8080/stripe")


class Agent:
    """One agent, its key, and the charges that its scripted model asks for."""

    def __init__(self, name, cents):
        self.name = name
        self.cents = cents
        self.client = StripeClient(os.environ[name.upper() + "_KEY"], base_addresses={"api": BASE_URL})

    def charge(self, cents: int) -> str:
        """Charge a customer's card this many cents."""
        charge = self.client.v1.charges.create({"amount": cents, "currency": "usd", "source": "tok_visa"})
        # A full cap is stripe.RateLimitError, a missing right stripe.PermissionError, a revoked key
        # stripe.AuthenticationError. They are left to the framework: it tells the model.
        return f"charged {charge.amount} cents"


def agents():
    """With caps of $50 and $10 each one's last charge is refused, and the other's are not touched by it."""
    return [Agent("billing", [2000, 2500, 3000]), Agent("supplies", [500, 2000])]
