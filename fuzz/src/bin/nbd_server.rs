//! libFuzzer over [`fuzz::nbd_server`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nbd_server(data));
