//! Compiles the kernels for NVIDIA cards, where they are asked for.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/kernels");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("ptx.rs");
    let kernels = cudaforge::KernelBuilder::new().source_dir("src/kernels").arg("-O3").arg("-std=c++17");
    Ok(kernels.build_ptx()?.write(out)?)
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
