// As refused.py with stripe-node.
//
// Usage: refused.cjs SDK BASE CALL KEY    CALL is "charge" or "payout". Prints the error as JSON.
'use strict';
const [sdk, base, call, key] = process.argv.slice(2);
const stripe = require('./stripe_client.cjs').client(sdk, 'host', base, key);

const called = call === 'payout'
  ? stripe.payouts.create({ amount: 1500, currency: 'usd' })
  : stripe.charges.create({ amount: 1500, currency: 'usd', source: 'tok_visa' });
called.then(
  () => console.log('{"type": null}'),
  (error) => console.log(JSON.stringify({
    type: error.type.replace(/^Stripe/, ''),
    status: error.statusCode,
    message: error.message,
    code: error.code,
    retry_after: error.headers['retry-after'] || null,
    request_id: error.requestId,
  })),
);
