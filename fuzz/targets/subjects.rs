#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| natter_shared::fuzz::subjects(data));
