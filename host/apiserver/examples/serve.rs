//! Serves the API until it is interrupted: `serve DIRECTORY ADDRESS`.

use std::error::Error;

use tholepin_apiserver::{ApiServerOptions, start};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(listen)) = (arguments.next(), arguments.next()) else {
        return Err(
            "usage: serve DIRECTORY ADDRESS, for instance: serve /tmp/api 127.0.0.1:6443".into()
        );
    };
    let server = start(ApiServerOptions::new(listen.parse()?, directory)).await?;
    let text = format!("https://{} KUBECONFIG={}\n", server.address, server.kubeconfig.display());
    tokio::io::AsyncWriteExt::write_all(&mut tokio::io::stdout(), text.as_bytes()).await?;
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
