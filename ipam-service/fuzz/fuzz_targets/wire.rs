#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ipam_service::fuzzing::wire(bytes));
