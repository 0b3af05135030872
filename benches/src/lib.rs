//! Benchmarks of keybrake's decisions; see `benches/`. Run them with `make bench`.

#![forbid(unsafe_code)]
