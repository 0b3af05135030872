// As charge.py with stripe-node.
//
// Usage: charge.cjs SDK BASE SOURCE IDEMPOTENCY_KEY RETRIES KEY    Prints the charge or the error as JSON.
'use strict';
const [sdk, base, source, idempotencyKey, retries, key] = process.argv.slice(2);
const stripe = require('./stripe_client.cjs').client(sdk, 'host', base, key);

stripe.charges
  .create({ amount: 1500, currency: 'usd', source }, { idempotencyKey, maxNetworkRetries: Number(retries) })
  .then(
    (charge) => console.log(JSON.stringify({ id: charge.id })),
    (error) => console.log(JSON.stringify({
      type: error.type.replace(/^Stripe/, ''), status: error.statusCode, message: error.message,
    })),
  )
  // The SDK leaves the reply of a try that it repeats unread, and with it a connection open.
  .then(() => process.exit());
