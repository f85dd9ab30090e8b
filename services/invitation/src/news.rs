//! Events that somebody may have to be told of, until they were: a reaction only keeps them, an editor works
//! out who is told by which way, and tries again until it is done. A failure delays nothing else (NO-12).

pub(crate) mod editor;
pub(crate) mod store;
