//! See `snapkeep::fuzzing::journal` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    snapkeep::fuzzing::journal(bytes);
});
