//! See `snapkeep::fuzzing::config` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    snapkeep::fuzzing::config(bytes);
});
