// As products.py with twilio-node.
//
// Usage: products.cjs SDK    Prints the errors' statuses, as JSON.
'use strict';
const twilio = require(process.argv[2]);

async function main() {
  const client = twilio();
  const elsewhere = twilio(process.env.TWILIO_ACCOUNT_SID, process.env.TWILIO_AUTH_TOKEN, { edge: 'sydney', region: 'au1' });
  const calls = [
    () => client.messages.create({ to: '+15551234567', from: '+15557654321', body: 'hi' }),
    () => client.verify.v2.services('VA' + '0'.repeat(32)).verifications.create({ to: '+15551234567', channel: 'sms' }),
    () => client.lookups.v2.phoneNumbers('+15551234567').fetch(),
    () => client.messaging.v1.services('MG' + '0'.repeat(32)).fetch(),
    () => elsewhere.messages('SM' + '0'.repeat(32)).fetch(),
  ];
  const errors = [];
  for (const call of calls) await call().catch((error) => errors.push(['TwilioRestException', error.status]));
  console.log(JSON.stringify(errors));
}
main();
