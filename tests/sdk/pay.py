"""What an agent does with Stripe's SDK; only api_base and api_key are not Stripe's own.

Usage: pay.py API_BASE API_KEY    Prints what was read back, as JSON.
"""

import json
import sys

import stripe

stripe.api_base, stripe.api_key = sys.argv[1:]

customer = stripe.Customer.create(email="agent@example.com")
method = stripe.PaymentMethod.create(
    type="card",
    card={"number": "4242424242424242", "exp_month": 12, "exp_year": 2035, "cvc": "123"},
)
stripe.PaymentMethod.attach(method.id, customer=customer.id)

intent = stripe.PaymentIntent.create(
    amount=2000, currency="usd", customer=customer.id, metadata={"crew_run_id": "run_1"}
)
charge = stripe.Charge.create(amount=1500, currency="usd", customer=customer.id, source=method.id)
refund = stripe.Refund.create(charge=charge.id, amount=500)

print(
    json.dumps(
        {
            "intent": stripe.PaymentIntent.retrieve(intent.id).amount,
            "run": stripe.PaymentIntent.retrieve(intent.id).metadata["crew_run_id"],
            "charge": stripe.Charge.retrieve(charge.id).amount,
            "refund": stripe.Refund.retrieve(refund.id).amount,
            "refunded": stripe.Charge.retrieve(charge.id).amount_refunded,
        }
    )
)
