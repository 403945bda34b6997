#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| dshield_fuzz::evidence::check(input));
