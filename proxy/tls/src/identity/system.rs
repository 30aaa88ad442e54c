//! The certificate authorities that the system trusts, which vouch for servers outside the mesh.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` name them, as for OpenSSL. Without both variables, the first file or folder is
//! read of those in which distributions keep them. Deliberately absent: a list of authorities in the binary, which
//! would be out of date after some months.

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::credentials::Bundle;

/// Where distributions keep the file with all authorities.
const FILES: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",   // older Fedora and RHEL, Amazon Linux
    "/var/lib/ca-certificates/ca-bundle.pem", // SUSE
    "/etc/ssl/ca-bundle.pem",             // older SUSE
    "/etc/ssl/cert.pem",                  // Alpine, the BSDs
    "/etc/pki/tls/cacert.pem",            // OpenELEC
];

/// Folders with a file for each authority, for systems without such a file.
const FOLDERS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// 8 MiB: more than thirty times the size of all public authorities together.
pub(crate) const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The entries that are read of a folder. Debian has about 150 authorities, each with one or two links.
const MOST_ENTRIES: usize = 4096;

/// Why no authority of the system can be used.
#[derive(Debug, thiserror::Error)]
pub enum NoSystemRoots {
    #[error(
        "the system has no certificate authorities: {places} holds none; install the package ca-certificates, name a PEM \
         file in SSL_CERT_FILE, or write tls.trust_bundle"
    )]
    None { places: String },
    #[error("cannot read {}, which {variable} names: {source}; correct the variable, or write tls.trust_bundle", path.display())]
    Named { variable: &'static str, path: PathBuf, source: io::Error },
}

/// Where the authorities of the system are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Whether the environment names them. Then all of them are read, and each must be readable; otherwise the first
    /// is read that has certificates.
    are_named: bool,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Places {
    pub fn of_this_system() -> Self {
        Self::of(env::var_os("SSL_CERT_FILE"), env::var_os("SSL_CERT_DIR"))
    }

    /// The places by the values of `SSL_CERT_FILE` and `SSL_CERT_DIR`. An empty value counts as absent.
    fn of(file: Option<OsString>, folders: Option<OsString>) -> Self {
        let file = file.filter(|value| !value.is_empty());
        let folders = folders.filter(|value| !value.is_empty());
        if file.is_none() && folders.is_none() {
            let all = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
            return Self { are_named: false, files: all(&FILES), folders: all(&FOLDERS) };
        }
        let folders = folders.iter().flat_map(env::split_paths).filter(|path| !path.as_os_str().is_empty());
        Self {
            are_named: true,
            files: file.into_iter().map(Into::into).collect(),
            folders: folders.collect(),
        }
    }

    /// All paths, so that a change of them can be noticed.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().chain(&self.folders).map(PathBuf::as_path)
    }

    /// Reads the authorities. One that cannot be used is left out, because the operator of the sidecar did not choose
    /// them one by one. Blocks on file IO.
    ///
    /// # Errors
    /// There is none, or a place that the environment names cannot be read.
    pub fn load(&self) -> Result<Bundle, NoSystemRoots> {
        let found = if self.are_named { self.all()? } else { self.first() };
        let mut roots = RootCertStore::empty();
        let (added, left_out) = roots.add_parsable_certificates(found);
        if left_out > 0 {
            tracing::debug!(added, left_out, "some certificate authorities of the system cannot be used");
        }
        match added {
            0 => Err(NoSystemRoots::None { places: self.text() }),
            _ => Ok(Bundle { certificates: Vec::new(), roots: Arc::new(roots) }),
        }
    }

    fn all(&self) -> Result<HashSet<CertificateDer<'static>>, NoSystemRoots> {
        let mut all = HashSet::new();
        for (variable, paths, read) in [
            ("SSL_CERT_FILE", &self.files, of_file as fn(&Path) -> _),
            ("SSL_CERT_DIR", &self.folders, of_folder),
        ] {
            for path in paths {
                let named = |source| NoSystemRoots::Named { variable, path: path.clone(), source };
                all.extend(read(path).map_err(named)?);
            }
        }
        Ok(all)
    }

    fn first(&self) -> HashSet<CertificateDer<'static>> {
        let files = self.files.iter().map(|path| of_file(path));
        let folders = self.folders.iter().map(|path| of_folder(path));
        let mut read = files.chain(folders).filter_map(Result::ok).filter(|found| !found.is_empty());
        read.next().map(HashSet::from_iter).unwrap_or_default()
    }

    fn text(&self) -> String {
        self.paths().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// The certificates of a PEM file. A block that is no certificate is left out.
fn of_file(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let mut pem = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB"));
    }
    Ok(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect())
}

/// The certificates of the files in a folder. A file that cannot be read is left out: such folders hold links to files
/// that were removed, and other files than certificates.
fn of_folder(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let (mut all, mut bytes) = (HashSet::new(), 0);
    for entry in fs::read_dir(path)?.take(MOST_ENTRIES) {
        let path = entry?.path();
        bytes += path.metadata().ok().filter(fs::Metadata::is_file).map_or(0, |file| file.len());
        if bytes > MOST_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "its files are larger than 8 MiB together",
            ));
        }
        if path.is_file() {
            all.extend(of_file(&path).unwrap_or_default());
        }
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::issue::Ca;
    use pillion_testkit::Scratch;

    fn pem() -> String {
        Ca::generate("cluster.local").expect("a CA").certificate_pem().to_owned()
    }

    /// The number of authorities, or why there is none.
    fn loaded(places: &Places) -> Result<usize, String> {
        places.load().map(|bundle| bundle.roots.len()).map_err(|error| error.to_string())
    }

    fn unnamed(files: Vec<PathBuf>, folders: Vec<PathBuf>) -> Places {
        Places { are_named: false, files, folders }
    }

    #[test]
    fn the_environment_names_a_file_and_folders_in_place_of_those_of_distributions() {
        let scratch = Scratch::new();
        let file = scratch.write("all.pem", format!("{}text\n{}", pem(), pem()));
        fs::create_dir(scratch.path("one")).expect("a folder");
        fs::create_dir(scratch.path("two")).expect("a folder");
        let twice = pem();
        for name in ["one/a.0", "one/a.pem", "two/a.pem"] {
            scratch.write(name, &twice);
        }
        scratch.write("two/readme", "no certificate");
        let folders = env::join_paths([scratch.path("one"), scratch.path("two")]).expect("paths");
        let of = |file: Option<OsString>, folders: Option<OsString>| loaded(&Places::of(file, folders));
        assert_eq!(of(Some(file.clone().into()), None), Ok(2));
        assert_eq!(of(None, Some(folders.clone())), Ok(1), "the same certificate under three names");
        assert_eq!(of(Some(file.into()), Some(folders)), Ok(3));
        assert!(!Places::of(Some("".into()), Some("".into())).are_named);

        let absent = of(Some(scratch.path("absent").into()), None).expect_err("a named file must exist");
        assert!(absent.contains("absent, which SSL_CERT_FILE names"), "{absent}");
        let empty = of(Some(scratch.write("empty", "").into()), None).expect_err("no certificate");
        assert!(empty.contains("empty holds none; install the package ca-certificates"), "{empty}");
    }

    #[test]
    fn without_the_environment_the_first_place_with_certificates_is_read() {
        let scratch = Scratch::new();
        let (empty, two) = (scratch.write("empty", "\n"), scratch.write("two", pem() + &pem()));
        fs::create_dir(scratch.path("folder")).expect("a folder");
        scratch.write("folder/a.pem", pem());
        let folder = scratch.path("folder");
        let absent = scratch.path("absent");
        assert_eq!(loaded(&unnamed(vec![absent.clone(), empty, two], vec![folder.clone()])), Ok(2));
        assert_eq!(loaded(&unnamed(vec![absent.clone()], vec![absent.clone(), folder])), Ok(1));
        let none = loaded(&unnamed(vec![absent.clone()], vec![])).expect_err("a container without files");
        assert!(none.contains(&format!("{} holds none", absent.display())), "{none}");
    }

    #[test]
    fn a_certificate_that_cannot_be_used_is_left_out() {
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let scratch = Scratch::new();
        let mixed = scratch.write("mixed", format!("{junk}{}", pem()));
        assert_eq!(loaded(&unnamed(vec![mixed], vec![])), Ok(1));
    }
}
