// stripe-node as an ECMAScript module, and a request of one that imported `https` by name.
//
// Usage: esm.mjs PATH_OF_STRIPE KEY    Prints what was read back, as JSON.
import { request } from 'node:https';
import { pathToFileURL } from 'node:url';

const [path, key] = process.argv.slice(2);
const { default: Stripe } = await import(pathToFileURL(path));
const stripe = new Stripe(key);
const intent = await stripe.paymentIntents.create({ amount: 2000, currency: 'usd' });

const status = await new Promise((resolve, reject) => {
  const url = `https://api.stripe.com/v1/payment_intents/${intent.id}`;
  request(url, { headers: { authorization: `Bearer ${key}`, host: 'api.stripe.com' } }, (answer) => {
    answer.resume();
    resolve(answer.statusCode);
  }).on('error', reject).end();
});
console.log(JSON.stringify({ intent: intent.amount, status }));
