//! Compiles `pharos/v1/*.proto` without protoc, and keeps the descriptor for server reflection.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=pharos");
    let mut files: Vec<PathBuf> = std::fs::read_dir("pharos/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "proto")
    });
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(&files)?;

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("pharos_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    let descriptors = compiler.file_descriptor_set();
    debug_assert!(descriptors.encoded_len() > 0);
    tonic_prost_build::configure()
        // Equal claims have equal bytes: the store recognises those it has decoded before.
        .btree_map(".pharos.v1.Claim")
        .compile_fds(descriptors)?;
    Ok(())
}
