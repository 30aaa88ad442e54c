//! `pillion webhook`: adds the sidecar to pods when they are created.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use pillion_model::identity::KeyPair;
use pillion_telemetry::log;
use tokio::time::{sleep, timeout};

use super::ending::asked_to_end;
use super::inject::IMAGE;
use crate::webhook::{FAREWELL, Webhook};

#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// The address to listen on, such as 0.0.0.0:8443
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The certificate chain, in PEM; a new one is used as soon as it is there
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The private key of the certificate, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The image of the sidecar, for pods that name none
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,
}

impl WebhookArgs {
    /// # Errors
    /// The certificate cannot be used, or the address is taken.
    pub fn run(self) -> anyhow::Result<()> {
        log::init(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let ends = asked_to_end()?; // before anything listens, so that no signal is missed
            let files = KeyPair { certificate: self.certificate, key: self.key };
            let webhook = Webhook::bind(self.listen, files, &self.image).await?;
            let mut stdout = std::io::stdout();
            let address = webhook.address()?;
            writeln!(stdout, "ready webhook={address}")
                .and_then(|()| stdout.flush())
                .context("standard output")?;
            webhook.serve(ends, farewell()).await;
            Ok(())
        })
    }
}

/// A second signal ends it.
async fn farewell() {
    match asked_to_end() {
        Ok(asked_again) => drop(timeout(FAREWELL, asked_again).await),
        Err(_no_signals) => sleep(FAREWELL).await,
    }
}
