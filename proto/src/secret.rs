//! Bytes that must not be shown.

use std::fmt;
use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A secret: wiped when dropped, and neither `Debug` nor `Display` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; the caller's copy is this one.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A secret that is sent between keybrake's own processes, as a text. Only a frame of the control socket has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretText(pub Secret);

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = str::from_utf8(self.0.expose())
            .map_err(|_| serde::ser::Error::custom("a secret that is no text"))?;
        serializer.serialize_str(text)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretText, D::Error> {
        String::deserialize(deserializer).map(|text| SecretText(Secret::new(text.into_bytes())))
    }
}

/// Where serializers write what may hold a secret: a buffer that has to grow is wiped before it is given back, which
/// a `Vec` does not do.
#[derive(Default)]
pub struct SecretWriter(Zeroizing<Vec<u8>>);

/// The first length of a [`SecretWriter`]: most of what is written fits.
const WRITER_BYTES: usize = 1024;

impl SecretWriter {
    /// A buffer that begins with `head`.
    pub fn new(head: &[u8]) -> SecretWriter {
        let mut writer = SecretWriter(Zeroizing::new(Vec::with_capacity(WRITER_BYTES.max(head.len()))));
        writer.append(head);
        writer
    }

    /// What was written.
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    fn append(&mut self, bytes: &[u8]) {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.saturating_mul(2));
            larger.extend_from_slice(&self.0);
            // The old one is wiped here.
            self.0 = Zeroizing::new(larger);
        }
        self.0.extend_from_slice(bytes);
    }
}

impl io::Write for SecretWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use io::Write as _;

    use super::*;

    #[test]
    fn s1_a_writer_keeps_what_it_was_given_over_every_growth() {
        let mut writer = SecretWriter::new(b"head");
        let mut expected = b"head".to_vec();
        for length in 0..200_usize {
            let bytes = vec![u8::try_from(length % 251).unwrap(); length];
            writer.write_all(&bytes).unwrap();
            expected.extend_from_slice(&bytes);
        }
        assert_eq!(*writer.finish(), expected);
    }

    #[test]
    fn debug_output_hides_the_secret() {
        assert_eq!(format!("{:?}", Secret::new(b"sk_live_1".to_vec())), "[secret]");
    }
}
