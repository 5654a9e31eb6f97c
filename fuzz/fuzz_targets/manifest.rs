//! See `snapkeep::fuzzing::manifest` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    snapkeep::fuzzing::manifest(bytes);
});
