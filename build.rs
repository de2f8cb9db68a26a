//! Compiles `proto/milvus.proto` with protox, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/milvus.proto");
    let descriptors = protox::compile(["milvus.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // Milvus has an RPC named Connect, which would collide with the generated `connect`.
        .build_transport(false)
        // `bytes` fields arrive as slices of the received message instead of copies.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
