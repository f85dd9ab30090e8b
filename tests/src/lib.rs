//! Package of the integration tests in `it/`.
