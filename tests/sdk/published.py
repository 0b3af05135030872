"""Lines as they are published, of which none works with any version of the SDK alone.

Usage: published.py LINE BASE_URL    The key is in VAULT_KEY. Prints where the call went, as JSON.
"""

import json
import os
import sys

import stripe

line, base_url = sys.argv[1:]
vault_key = os.environ["VAULT_KEY"]

if line == "client":
    client = stripe.StripeClient(api_key=vault_key, base_url=base_url)
elif line == "default client":
    client = stripe.StripeClient(vault_key)
else:
    client = None
    stripe.api_key = vault_key
    if line == "module":
        stripe.base_url = base_url

if client:
    intent = client.v1.payment_intents.create({"amount": 2000, "currency": "usd"})
else:
    intent = stripe.PaymentIntent.create(amount=2000, currency="usd")
print(json.dumps({"intent": intent.amount}))
