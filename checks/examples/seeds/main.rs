//! Writes the seeds of `fuzz/corpus`: `cargo run -p keybrake-checks --example seeds`. It removes nothing, so that what
//! fuzzing found stays.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a tool of developers: a panic is how it reports"
)]

mod stored;
mod texts;

use std::path::Path;

/// A target, the seed's name and its bytes.
type Seed = (&'static str, String, Vec<u8>);

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz/corpus");
    for (target, name, bytes) in texts::seeds().into_iter().chain(stored::seeds()) {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
