//! The tests of the suite as its users see it are in `it/`.
