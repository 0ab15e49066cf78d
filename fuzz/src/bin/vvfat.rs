//! libFuzzer over [`fuzz::vvfat`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vvfat(data));
