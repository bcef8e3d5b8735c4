//! Tells the crate which quinn-proto it stands on: users read it in `quictunnel --version` and in logs.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=Cargo.lock");
    let lock =
        Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("Cargo.lock");
    let lock = fs::read_to_string(lock).expect("Cargo.lock is part of the crate");
    let version = lock
        .split_once("name = \"quinn-proto\"\nversion = \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .expect("Cargo.lock names quinn-proto")
        .0;
    println!("cargo:rustc-env=QUINN_PROTO_VERSION={version}");
}
