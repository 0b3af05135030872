// As pay.py with stripe-node.
//
// Usage: pay.cjs SDK WAY BASE KEY    Prints what was read back, as JSON.
'use strict';
const [sdk, way, base, key] = process.argv.slice(2);
const stripe = require('./stripe_client.cjs').client(sdk, way, base, key);

async function main() {
  const customer = await stripe.customers.create({ email: 'agent@example.com' });
  const method = await stripe.paymentMethods.create({
    type: 'card',
    card: { number: '4242424242424242', exp_month: 12, exp_year: 2035, cvc: '123' },
  });
  await stripe.paymentMethods.attach(method.id, { customer: customer.id });

  const intent = await stripe.paymentIntents.create({
    amount: 2000, currency: 'usd', customer: customer.id, metadata: { crew_run_id: 'run_1' },
  });
  const charge = await stripe.charges.create({
    amount: 1500, currency: 'usd', customer: customer.id, source: method.id,
  });
  const refund = await stripe.refunds.create({ charge: charge.id, amount: 500 });

  const read = await stripe.paymentIntents.retrieve(intent.id);
  const refunded = (await stripe.charges.retrieve(charge.id)).amount_refunded;
  console.log(JSON.stringify({
    intent: read.amount, run: read.metadata.crew_run_id, charge: charge.amount, refund: refund.amount, refunded,
  }));
}
main();
