//! The header for C says what the library has.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::path::Path;

#[test]
fn the_header_is_that_of_the_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let sources = ["src/c.rs", "core/src/memory.rs", "core/src/team.rs"].iter();
    let builder = sources
        .fold(cbindgen::Builder::new().with_config(config), |builder, source| builder.with_src(folder.join(source)));
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = folder.join("include/vincs_guest.h");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if made != kept {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vincs_guest.h");
        std::fs::write(&new, &made).unwrap();
        assert_eq!(made, kept, "the sources have changed: cp {} {}", new.display(), path.display());
    }
}
