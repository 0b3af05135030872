"""As pay.py with StripeClient, which stripe-python has since version 8.

Usage: pay_with_client.py API_BASE API_KEY    Prints what was read back, as JSON.
"""

import json
import sys

from stripe import StripeClient

api_base, api_key = sys.argv[1:]
client = StripeClient(api_key, base_addresses={"api": api_base})

intent = client.v1.payment_intents.create({"amount": 2000, "currency": "usd"})
print(json.dumps({"intent": client.v1.payment_intents.retrieve(intent.id).amount}))
