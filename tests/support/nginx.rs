//! An nginx with a configuration of its own, which ends with the test.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::{Scratch, eventually};

pub(crate) struct Nginx {
    child: Child,
    scratch: Scratch,
}

impl Nginx {
    /// `http` is what stands in the block of that name. It listens at `address` when this returns. Its files, and those
    /// that are in `scratch` already, stay until it ends.
    pub(crate) async fn start(scratch: Scratch, http: &str, address: SocketAddr) -> Self {
        let folder = scratch.path().display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log stderr;\n\
             events {{ }}\n\
             http {{ access_log off; {paths}\n{http} }}\n"
        );
        let config = scratch.write("nginx.conf", config);
        let mut nginx = Command::new("nginx");
        nginx.arg("-e").arg("stderr").arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = Self { child: nginx.spawn().expect("nginx starts"), scratch };
        eventually("nginx listens", async || tokio::net::TcpStream::connect(address).await.ok()).await;
        nginx
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
