//! Trying what two directories can do between them.
