//! Common clients, run as an application in a pod, each with its output.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;

use crate::support::Scratch;
use crate::support::pod::Pod;
use crate::support::program::Program;
use crate::support::servers::{PASSWORD, USER};
use crate::support::tools::printed;

/// The output of a client in this pod for a server at this address.
pub(super) type Client = fn(&Pod, SocketAddr) -> Pin<Box<dyn Future<Output = String> + '_>>;

/// A GET with further arguments for curl: status and body.
pub(super) async fn get(host: Command, to: SocketAddr, words: &[&str]) -> (u16, String) {
    get_path(host, to, "/plainly?x=plainly", words).await
}

pub(super) async fn get_path(mut host: Command, to: SocketAddr, path: &str, words: &[&str]) -> (u16, String) {
    host.args(["curl", "--disable", "--silent", "--show-error", "--max-time", "25", "--noproxy", "*"]);
    host.args(words).args(["--write-out", "\n%{http_code}", &format!("http://{to}{path}")]);
    let printed = printed(host).await;
    let (body, status) = printed.rsplit_once('\n').expect("a body and a status");
    (status.parse().expect("a status"), body.to_owned())
}

pub(super) fn curl(pod: &Pod, to: SocketAddr) -> Pin<Box<dyn Future<Output = String> + '_>> {
    Box::pin(async move {
        let (status, body) = get(pod.enter(), to, &["--header", "x-plainly: plainly"]).await;
        format!("{status} {body}")
    })
}

/// The output of an interactive session, with an answer of one mebibyte.
pub(super) fn redis(pod: &Pod, to: SocketAddr) -> Pin<Box<dyn Future<Output = String> + '_>> {
    let input = "FLUSHALL\nPING\nGET greeting\nSET greeting plainly\nGET greeting\nNO SUCH COMMAND\n\
                 EVAL \"return string.rep('plainly', 149797)\" 0\nDBSIZE\n";
    let scratch = Scratch::new();
    let commands = scratch.write("commands", input);
    let mut sh = pod.enter();
    sh.args(["sh", "-c", &format!(r#"exec redis-cli -h {} -p {} < "$0""#, to.ip(), to.port())]).arg(commands);
    Box::pin(async move {
        let _kept = scratch;
        printed(sh).await
    })
}

pub(super) fn mariadb(pod: &Pod, to: SocketAddr) -> Pin<Box<dyn Future<Output = String> + '_>> {
    let query = "SELECT 'plainly' AS one; SELECT seq, MD5(seq) FROM mysql.seq_1_to_25000; \
                 SELECT REPEAT('plainly', 149797)";
    let mut client = pod.enter();
    client.args(["mariadb", "--no-defaults", "--protocol=tcp", "--host", &to.ip().to_string()]);
    client.args(["--port", &to.port().to_string(), "--user", USER, "--connect-timeout=20", "--skip-ssl"]);
    client.args([&*format!("--password={PASSWORD}"), "--batch", "--execute", query]);
    Box::pin(printed(client))
}

/// Without TLS, and with PostgreSQL's own TLS inside the TLS of the mesh.
pub(super) fn psql(pod: &Pod, to: SocketAddr) -> Pin<Box<dyn Future<Output = String> + '_>> {
    let query = "SELECT 'plainly', ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid(); \
                 SELECT i, md5(i::text) FROM generate_series(1, 30000) AS i";
    let client = |mode: &str| {
        let mut psql = pod.enter();
        psql.env("PGPASSWORD", PASSWORD).env("PGSSLMODE", mode).env("PGCONNECT_TIMEOUT", "20");
        psql.args(["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname", "postgres"]);
        psql.args(["--username", USER, "--host", &to.ip().to_string()]);
        psql.args(["--port", &to.port().to_string(), "--command", query]);
        psql
    };
    let clients = ["disable", "require"].map(client);
    Box::pin(async move {
        let mut output = String::new();
        for client in clients {
            output += &printed(client).await;
        }
        output
    })
}

/// Unary calls, both kinds of streaming, and both at once, message by message.
pub(super) fn grpc(pod: &Pod, to: SocketAddr) -> Pin<Box<dyn Future<Output = String> + '_>> {
    let client = Program::script(pod.enter(), "grpc_client.py", &[&to.to_string(), "briefly"]);
    Box::pin(async move { format!("plainly\n{}", printed(client).await) })
}
