//! All that an operator says of money's worth: currencies' rates and vendors' prices.
//!
//! The files are the operator's, read at the start; reading them is the caller's. Prices that keybrake comes with are in
//! the binary.

use std::fmt;
use std::path::{Path, PathBuf};

use super::currency::Rates;
use super::tariff::resend::ResendPrices;
use super::tariff::twilio::TwilioPrices;
use crate::config::Prices;

/// What currencies and units are worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBook {
    /// What currencies are worth in USD.
    pub rates: Rates,
    /// What Twilio's units cost.
    pub twilio: TwilioPrices,
    /// What Resend's units cost.
    pub resend: ResendPrices,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookError {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, in one line.
    pub problem: String,
}

impl fmt::Display for BookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.key, self.path.display(), self.problem)
    }
}

impl std::error::Error for BookError {}

impl PriceBook {
    /// The book that keybrake comes with: no rates, and the shipped prices.
    ///
    /// # Panics
    /// If a shipped file cannot be read, which a test rules out.
    pub fn shipped() -> PriceBook {
        let prices = (TwilioPrices::parse(TwilioPrices::SHIPPED), ResendPrices::parse(ResendPrices::SHIPPED));
        match prices {
            (Ok(twilio), Ok(resend)) => PriceBook { rates: Rates::default(), twilio, resend },
            (Err(problem), _) | (_, Err(problem)) => panic!("a shipped price file cannot be read: {problem}"),
        }
    }

    /// The book of a configuration; `read` reads a file as text.
    ///
    /// # Errors
    /// [`BookError`] names the file and what to change.
    pub fn load<E: fmt::Display>(
        prices: &Prices,
        read: impl Fn(&Path) -> Result<String, E>,
    ) -> Result<PriceBook, BookError> {
        let mut book = PriceBook::shipped();
        let text = |key: &'static str, path: &PathBuf| {
            read(path).map_err(|error| BookError { key, path: path.clone(), problem: error.to_string() })
        };
        let refuse = |key: &'static str, path: &PathBuf| {
            let path = path.clone();
            move |problem: String| BookError { key, path, problem }
        };
        if let Some(path) = &prices.rates_file {
            let key = "prices.rates_file";
            book.rates = Rates::parse(&text(key, path)?).map_err(refuse(key, path))?;
        }
        if let Some(path) = &prices.twilio_file {
            let key = "prices.twilio_file";
            book.twilio = TwilioPrices::parse(&text(key, path)?).map_err(refuse(key, path))?;
        }
        if let Some(path) = &prices.resend_file {
            let key = "prices.resend_file";
            book.resend = ResendPrices::parse(&text(key, path)?).map_err(refuse(key, path))?;
        }
        Ok(book)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(twilio: Result<String, String>) -> Result<PriceBook, String> {
        let prices = Prices { twilio_file: Some(PathBuf::from("t.toml")), ..Prices::default() };
        PriceBook::load(&prices, |_| twilio.clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn without_files_the_shipped_prices_hold_and_only_usd_has_a_worth() {
        let book = PriceBook::load(&Prices::default(), |_| Err::<String, _>("not read")).unwrap();
        assert_eq!(book, PriceBook::shipped());
        assert_eq!(book.rates, Rates::default());
    }

    #[test]
    fn a_file_replaces_the_shipped_one_whole() {
        let text = TwilioPrices::SHIPPED.replace("0.0145", "0.02");
        assert_ne!(load(Ok(text)).unwrap().twilio, PriceBook::shipped().twilio);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_key() {
        assert_eq!(
            load(Err("no such file".to_owned())).unwrap_err(),
            "prices.twilio_file t.toml: no such file"
        );
        let error = load(Ok("source = 1".to_owned())).unwrap_err();
        assert!(error.starts_with("prices.twilio_file t.toml: line 1: invalid type"), "{error}");
    }
}
