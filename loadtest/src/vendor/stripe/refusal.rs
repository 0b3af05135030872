//! Stripe's error answers: `{"error": {…}}`, in the shapes its API reference gives.

use serde::Serialize;

use super::objects::PaymentIntent;

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Box<ErrorBody>,
}

/// The body of an error answer.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody {
    error: Details,
}

#[derive(Debug, Default, Serialize)]
struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    charge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decline_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doc_url: Option<String>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_intent: Option<PaymentIntent>,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl Refusal {
    fn new(status: u16, kind: &'static str, code: Option<&'static str>, message: String) -> Refusal {
        let doc_url =
            code.map(|code| format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")));
        let error = Details { code, doc_url, message, kind, ..Details::default() };
        Refusal { status, body: Box::new(ErrorBody { error }) }
    }

    fn invalid(status: u16, code: Option<&'static str>, message: String) -> Refusal {
        Refusal::new(status, "invalid_request_error", code, message)
    }

    fn about(mut self, param: &'static str) -> Refusal {
        self.body.error.param = Some(param);
        self
    }

    /// No Authorization field, or none that holds a key.
    pub(crate) fn no_key() -> Refusal {
        let message = "You did not provide an API key. You need to provide your API key in the Authorization \
                       header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See \
                       https://stripe.com/docs/api#authentication for details.";
        Refusal::invalid(401, None, message.to_owned())
    }

    /// A key that is not let in, already masked.
    pub(crate) fn wrong_key(masked: &str) -> Refusal {
        Refusal::invalid(401, None, format!("Invalid API Key provided: {masked}"))
    }

    /// A path or method that does not exist.
    pub(crate) fn unrecognized_url(method: &str, path: &str) -> Refusal {
        let message = format!(
            "Unrecognized request URL ({method}: {path}). If you are trying to list objects, remove the trailing \
             slash. If you are trying to retrieve an object, make sure you passed a valid (non-empty) identifier \
             in your code. Please see https://stripe.com/docs or we can help at https://support.stripe.com/."
        );
        Refusal::invalid(404, None, message)
    }

    /// An id that names nothing; `param` is where it stood.
    pub(crate) fn no_such(kind: &str, id: &str, param: &'static str) -> Refusal {
        let name = kind.replace('_', " ");
        Refusal::invalid(404, Some("resource_missing"), format!("No such {name}: '{id}'")).about(param)
    }

    /// A parameter that must be there.
    pub(crate) fn missing(param: &'static str) -> Refusal {
        Refusal::invalid(400, Some("parameter_missing"), format!("Missing required param: {param}."))
            .about(param)
    }

    /// A parameter that cannot be read.
    pub(crate) fn bad_integer(param: &'static str, value: &str) -> Refusal {
        Refusal::invalid(400, Some("parameter_invalid_integer"), format!("Invalid integer: {value}"))
            .about(param)
    }

    /// A currency that is none.
    pub(crate) fn bad_currency(value: &str) -> Refusal {
        Refusal::invalid(400, None, format!("Invalid currency: {value}")).about("currency")
    }

    /// More money than there is to move.
    pub(crate) fn too_much(message: String) -> Refusal {
        Refusal::invalid(400, None, message).about("amount")
    }

    /// An outflow over what the account holds.
    pub(crate) fn balance_insufficient() -> Refusal {
        let message = "You have insufficient available funds in your Stripe account.";
        Refusal::invalid(400, Some("balance_insufficient"), message.to_owned())
    }

    /// A refund of a charge without money left.
    pub(crate) fn already_refunded(charge: &str) -> Refusal {
        let message = format!("Charge {charge} has already been refunded.");
        Refusal::invalid(400, Some("charge_already_refunded"), message)
    }

    /// An action that the object's status does not allow.
    pub(crate) fn unexpected_state(code: &'static str, message: String) -> Refusal {
        Refusal::invalid(400, Some(code), message)
    }

    /// An idempotency key that was used for something else.
    pub(crate) fn key_reused(key: &str) -> Refusal {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try \
             using a key other than '{key}' if you meant to execute a different request."
        );
        Refusal::new(400, "idempotency_error", None, message)
    }

    /// A declined card.
    pub(crate) fn declined(
        decline_code: &'static str,
        charge: String,
        intent: Option<PaymentIntent>,
    ) -> Refusal {
        let message = match decline_code {
            "insufficient_funds" => "Your card has insufficient funds.",
            _ => "Your card was declined.",
        };
        let mut refusal = Refusal::new(402, "card_error", Some("card_declined"), message.to_owned());
        let error = &mut refusal.body.error;
        error.decline_code = Some(decline_code);
        error.charge = Some(charge);
        error.payment_intent = intent;
        refusal
    }

    /// Too many requests.
    pub(crate) fn rate_limited() -> Refusal {
        let message = "Request rate limit exceeded. Learn more about rate limits here \
                       https://stripe.com/docs/rate-limits.";
        Refusal::invalid(429, Some("rate_limit"), message.to_owned())
    }

    /// Another request holds the object.
    pub(crate) fn locked() -> Refusal {
        let message = "This object cannot be accessed right now because another API request or Stripe process is \
                       currently accessing it.";
        Refusal::invalid(409, Some("lock_timeout"), message.to_owned())
    }

    /// Stripe broke; what it did before is not said.
    pub(crate) fn broken() -> Refusal {
        let message = "An unknown error occurred";
        Refusal::new(500, "api_error", None, message.to_owned())
    }

    /// A message that is not HTTP as this stand-in reads it.
    pub(crate) fn malformed(status: u16, why: &str) -> Refusal {
        Refusal::invalid(status, None, format!("Malformed request: {why}"))
    }
}
