//! Widely used servers, each on a free port and in a folder of its own, ended with its process group.
//!
//! When a server is missing, its constructor reports this as [`require`] does, and returns `None`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::certs::spiffe;
use super::place::{APPLICATION, Place};
use super::tools::{printed, require};
use super::{Scratch, eventually};
use pillion_tls::identity::issue::Ca;

const DAY: Duration = Duration::from_secs(86_400);
/// The time after which a server that does not end is killed.
const FAREWELL: Duration = Duration::from_secs(5);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    /// The signal after which the server ends cleanly.
    ends_by: &'static str,
    scratch: Scratch,
}

/// The user of the databases.
pub(crate) const USER: &str = "caller";
pub(crate) const PASSWORD: &str = "open sesame";

/// The name in the certificate of [`Server::nginx`].
pub(crate) const SHOP: &str = "shop.test";

impl Server {
    pub(crate) async fn redis() -> Option<Self> {
        Self::redis_at(Place::here()).await
    }

    pub(crate) async fn redis_at(place: Place) -> Option<Self> {
        let (mut redis, scratch) = (find("redis-server")?, Scratch::new());
        let bind: &[&str] = if place.is_pod() { &["0.0.0.0", "::"] } else { &["127.0.0.1"] };
        redis.args(["--port", &port(&place), "--save", "", "--appendonly", "no", "--protected-mode", "no"]);
        redis.arg("--dir").arg(scratch.path()).arg("--bind").args(bind);
        Some(Self::start(humbled(redis, &place, &scratch).await, place, scratch, "KILL").await)
    }

    /// A Prometheus that scrapes these addresses, a list as YAML has it, twice a second.
    pub(crate) async fn prometheus(targets: &str) -> Option<Self> {
        let (mut prometheus, scratch, place) = (find("prometheus")?, Scratch::new(), Place::here());
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}\n\
             scrape_configs: [{{ job_name: pillion, static_configs: [{{ targets: [{targets}] }}] }}]\n"
        );
        prometheus.arg(option("--config.file=", &scratch.write("prometheus.yml", config)));
        prometheus.arg(option("--storage.tsdb.path=", &scratch.path().join("data")));
        prometheus.arg(format!("--web.listen-address={}", place.address));
        Some(Self::start(prometheus, place, scratch, "TERM").await)
    }

    pub(crate) async fn mariadb() -> Option<Self> {
        Self::mariadb_at(Place::here()).await
    }

    pub(crate) async fn mariadb_at(place: Place) -> Option<Self> {
        let (mut install, mut mariadb) = (find("mariadb-install-db")?, find("mariadbd")?);
        let scratch = Scratch::new();
        let data = option("--datadir=", &scratch.path().join("data"));
        let as_root: &[&str] = if is_root() { &["--user=root"] } else { &[] };
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        printed({
            install.arg(&data).args(as_root);
            install
        })
        .await;
        let users = format!(
            "CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO '{USER}'@'%';\n"
        );
        // The host `localhost` would match the anonymous user of a fresh installation first.
        mariadb.args([
            "--no-defaults",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--innodb-buffer-pool-size=8M",
        ]);
        let bind = if place.is_pod() { "--bind-address=*" } else { "--bind-address=127.0.0.1" };
        mariadb.args([&*format!("--port={}", port(&place)), bind]);
        if !place.is_pod() {
            mariadb.args(as_root);
        }
        mariadb.arg(option("--init-file=", &scratch.write("users.sql", users)));
        mariadb.arg(option("--socket=", &scratch.path().join("socket"))).arg(data);
        Some(Self::start(humbled(mariadb, &place, &scratch).await, place, scratch, "KILL").await)
    }

    /// Has a certificate, so that clients may ask for TLS after they have connected.
    pub(crate) async fn postgres() -> Option<Self> {
        Self::postgres_at(Place::here()).await
    }

    pub(crate) async fn postgres_at(place: Place) -> Option<Self> {
        let (mut initdb, mut postgres) = (find("initdb")?, find("postgres")?);
        let scratch = Scratch::new();
        let password = scratch.write("password", PASSWORD);
        let certificate = certify(&scratch);
        give(&scratch, "postgres").await;
        let data = scratch.path().join("data");
        initdb.args([
            "--no-sync",
            "--auth=scram-sha-256",
            "--username",
            USER,
            "--encoding=UTF8",
            "--no-locale",
        ]);
        initdb.arg(option("--pwfile=", &password)).arg("-D").arg(&data);
        printed(as_user("postgres", &initdb)).await;
        allow_everybody(&data);
        let listen = if place.is_pod() { "listen_addresses=*" } else { "listen_addresses=127.0.0.1" };
        postgres.arg("-D").arg(data).args(["-p", &port(&place)]);
        postgres.args(["-c", listen, "-c", "unix_socket_directories="]);
        postgres.args(["-c", "fsync=off", "-c", "ssl=on"]);
        postgres.arg("-c").arg(option("ssl_cert_file=", &certificate.chain));
        postgres.arg("-c").arg(option("ssl_key_file=", &certificate.key));
        let server = Self::start(as_user("postgres", &postgres), place, scratch, "QUIT").await;
        server.has_logged("database system is ready to accept connections").await; // it listens before
        Some(server)
    }

    pub(crate) async fn sshd() -> Option<Self> {
        let (sshd, mut keygen) = (find("sshd")?, find("ssh-keygen")?);
        let (scratch, place) = (Scratch::new(), Place::here());
        let (key, address) = (scratch.path().join("host_key"), place.address);
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        printed(keygen).await;
        let config = format!("HostKey {}\nListenAddress {address}\nPidFile none\nUsePAM no\n", key.display());
        let config = scratch.write("sshd_config", config);
        give(&scratch, "nobody").await;
        let mut alone = Command::new(sshd.get_program());
        alone.args(["-D", "-e", "-f"]).arg(config);
        Some(Self::start(as_user("nobody", &alone), place, scratch, "KILL").await)
    }

    /// A web server with its own TLS for the name [`SHOP`]. [`Self::authority`] is the CA of its certificate.
    ///
    /// `/` answers with the version of HTTP and the host; `/file` answers with `file`.
    pub(crate) async fn nginx(file: &[u8]) -> Option<Self> {
        Self::nginx_at(Place::here(), file).await
    }

    pub(crate) async fn nginx_at(place: Place, file: &[u8]) -> Option<Self> {
        let (mut nginx, scratch) = (find("nginx")?, Scratch::new());
        let listen = match place.is_pod() {
            true => format!("listen 0.0.0.0:{0} ssl http2; listen [::]:{0} ssl http2;", port(&place)),
            false => format!("listen {} ssl http2;", place.address),
        };
        let certificate = certify(&scratch);
        scratch.write("file", file);
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr;\n\
             events {{ }}\n\
             http {{ access_log off; {paths}\n\
             server {{ {listen} root {at};\n\
             ssl_certificate {chain}; ssl_certificate_key {key};\n\
             location = / {{ return 200 \"$server_protocol $ssl_server_name $host\"; }} }} }}\n",
            at = scratch.path().display(),
            paths = temporary_paths(&scratch),
            chain = certificate.chain.display(),
            key = certificate.key.display(),
        );
        let config = scratch.write("nginx.conf", config);
        nginx.arg("-e").arg("stderr").arg("-c").arg(config);
        Some(Self::start(humbled(nginx, &place, &scratch).await, place, scratch, "KILL").await)
    }

    /// The four HTTP servers that show how leniently requests may be read. Each answers every request with a line that
    /// says what it read: method, target, the header `x-forwarded-client-cert`, except for nginx the length of the body,
    /// and the path as the server's own tools decode it.
    pub(crate) async fn lenient() -> Option<[(&'static str, Self); 4]> {
        Some([
            ("nginx", Self::lenient_nginx().await?),
            ("Node", Self::script("node", "lenient_server.js").await?),
            ("Python", Self::script("python3", "lenient_server.py").await?),
            ("Go", Self::lenient_go().await?),
        ])
    }

    async fn lenient_nginx() -> Option<Self> {
        let (mut nginx, scratch, place) = (find("nginx")?, Scratch::new(), Place::here());
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr;\n\
             events {{ }}\n\
             http {{ access_log off; {paths}\n\
             ignore_invalid_headers off; underscores_in_headers on;\n\
             server {{ listen {listen};\n\
             return 200 \"served $request_method $request_uri xfcc=[$http_x_forwarded_client_cert] path=[$uri]\\n\"; }} }}\n",
            at = scratch.path().display(),
            paths = temporary_paths(&scratch),
            listen = place.address,
        );
        let config = scratch.write("nginx.conf", config);
        nginx.arg("-e").arg("stderr").arg("-c").arg(config);
        Some(Self::start(nginx, place, scratch, "KILL").await)
    }

    async fn script(interpreter: &str, name: &str) -> Option<Self> {
        let (mut server, place) = (find(interpreter)?, Place::here());
        server.arg(support(name)).args(host_and_port(&place));
        Some(Self::start(server, place, Scratch::new(), "KILL").await)
    }

    async fn lenient_go() -> Option<Self> {
        let (mut build, scratch, place) = (find("go")?, Scratch::new(), Place::here());
        let program = scratch.path().join("server");
        build.args(["build", "-o"]).arg(&program).arg(support("lenient_server.go"));
        build
            .env("GOCACHE", scratch.path().join("cache"))
            .env("GOFLAGS", "-mod=mod")
            .env("GO111MODULE", "off");
        printed(build).await;
        let mut server = Command::new(program);
        server.args(host_and_port(&place));
        Some(Self::start(server, place, scratch, "KILL").await)
    }

    /// The CA of the server's certificate, as a PEM file.
    pub(crate) fn authority(&self) -> PathBuf {
        self.scratch.path().join("ca.crt")
    }

    async fn start(command: Command, place: Place, scratch: Scratch, ends_by: &'static str) -> Self {
        let mut command = place.entered(&command);
        let log = File::create(scratch.path().join("log")).expect("a file of our own");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| unreachable!("{command:?}: {error}"));
        let mut server = Self { address: place.address, child, ends_by, scratch };
        let what = format!("{command:?} listens");
        eventually(&what, async || {
            let exited = server.child.try_wait().expect("a child of ours");
            assert!(exited.is_none(), "{command:?}: {exited:?}");
            place.answers().await.then_some(())
        })
        .await;
        server
    }

    async fn has_logged(&self, text: &str) {
        let log = self.scratch.path().join("log");
        let has = async || fs::read_to_string(&log).is_ok_and(|log| log.contains(text)).then_some(());
        eventually(text, has).await;
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} -- -{}", self.child.id());
        drop(Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status()); // it may be gone already
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(self.ends_by);
        let deadline = Instant::now() + FAREWELL;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                self.signal("KILL");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default());
        }
    }
}

/// Finds a program. Servers are often not in the PATH of ordinary users, and those of PostgreSQL never are.
fn find(program: &str) -> Option<Command> {
    let look = r#"PATH="$PATH:/usr/sbin:/usr/local/sbin"
        for bin in /usr/lib/postgresql/*/bin; do PATH="$PATH:$bin"; done
        command -v "$0""#;
    let found = Command::new("sh").args(["-c", look, program]).output().expect("sh starts");
    match String::from_utf8_lossy(&found.stdout).trim_end() {
        "" => {
            require(program);
            None
        }
        path => Some(Command::new(path)),
    }
}

/// The paths where nginx keeps data that does not fit its memory.
fn temporary_paths(scratch: &Scratch) -> String {
    let path = |kind| format!("{kind}_temp_path {}/{kind};", scratch.path().display());
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(path).concat()
}

fn support(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

fn host_and_port(place: &Place) -> [String; 2] {
    [place.address.ip().to_string(), port(place)]
}

fn port(place: &Place) -> String {
    place.address.port().to_string()
}

/// Lets every address log in: a sidecar connects from an address of its own, which PostgreSQL does not know.
fn allow_everybody(data: &Path) {
    let mut rules =
        fs::OpenOptions::new().append(true).open(data.join("pg_hba.conf")).expect("rules to add to");
    rules.write_all(b"host all all all scram-sha-256\n").expect("rules to add to");
}

/// The command as it runs in the place: in a pod, as a user without privileges, to which its files then belong.
async fn humbled(command: Command, place: &Place, scratch: &Scratch) -> Command {
    if !place.is_pod() {
        return command;
    }
    give(scratch, APPLICATION).await;
    as_user(APPLICATION, &command)
}

fn option(name: &str, value: &Path) -> String {
    format!("{name}{}", value.display())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// The command under another account, if the tests run as root: PostgreSQL refuses root, and sshd would use more of the
/// machine.
fn as_user(user: &str, command: &Command) -> Command {
    let words = || std::iter::once(command.get_program()).chain(command.get_args());
    if !is_root() {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        return same;
    }
    let become_user =
        r#"user="$0"; cd /; exec setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups -- "$@""#;
    let mut other = Command::new("sh");
    other.args([OsStr::new("-c"), OsStr::new(become_user), OsStr::new(user)]).args(words());
    other
}

async fn give(scratch: &Scratch, user: &str) {
    if is_root() {
        let mut chown = Command::new("chown");
        chown.args(["-R", user]).arg(scratch.path());
        printed(chown).await;
    }
}

struct Certificate {
    chain: PathBuf,
    key: PathBuf,
}

/// Makes a certificate for [`SHOP`] from a CA that no other test uses. The CA's certificate is `ca.crt`.
fn certify(scratch: &Scratch) -> Certificate {
    use std::os::unix::fs::PermissionsExt as _;
    let ca = Ca::generate("shop.test").expect("a CA");
    let id = spiffe("nginx").replace("cluster.local", "shop.test").parse().expect("an identity");
    let issued = ca.issue(&id, &[SHOP.to_owned()], DAY).expect("a certificate");
    scratch.write("ca.crt", issued.bundle);
    let key = scratch.write("tls.key", issued.key);
    // PostgreSQL refuses a key that others may read.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a file of our own");
    Certificate { chain: scratch.write("tls.crt", issued.certificate), key }
}
