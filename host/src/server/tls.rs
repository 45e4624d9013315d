//! What the hub shows to prove who it is. The files may change while it runs:
//! the next handshakes show what is new, and the connections there are go on.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;

use crate::shutdown::Shutdown;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A certificate or key of more than this is none: the largest chains have some
/// ten KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why TLS can't be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is no PEM.
    #[error("{key} = {}: {words}", path.display())]
    File {
        /// The configuration's key.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        words: String,
    },
    /// The two don't belong together, or can't be used.
    #[error("the certificate {} can't be used with the key {}: {words}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        words: String,
    },
}

/// Speaks TLS 1.2 and 1.3 with a certificate and its key, both PEM files.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    /// What the next handshakes use. It is replaced as a whole, so that no
    /// session that began with the old certificate is resumed with the new.
    current: Mutex<Arc<ServerConfig>>,
    counters: TlsCounters,
}

/// How often the files have changed.
#[derive(Debug, Default)]
pub struct TlsCounters {
    /// Changes that were taken.
    pub reloaded: AtomicU64,
    /// Changes that can't be used.
    pub refused: AtomicU64,
}

/// What tells two states of the files apart: of each its device, number, size
/// and times. Where a link points somewhere else, all of it is another's.
type Look = [Option<[i64; 7]>; 2];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// One can't be read, or they don't belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let current = Mutex::new(read(certificate, key)?);
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Arc::new(Self { certificate, key, current, counters: TlsCounters::default() }))
    }

    /// For the next handshake.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// How often the files have changed.
    #[must_use]
    pub fn counters(&self) -> &TlsCounters {
        &self.counters
    }

    /// Looks at the files until `shutdown`, and takes what is new. Where that
    /// can't be used the hub goes on with what it has, and says so once.
    pub async fn watch(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What was there at the start is read again: it may have changed between
        // that and now.
        let mut watched = Watched::default();
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                _ = interval.tick() => {}
            }
            // The files may be on a disk that is far away.
            let tls = self.clone();
            let looked = spawn_blocking(move || {
                tls.look(&mut watched);
                watched
            });
            let Ok(looked) = looked.await else { return };
            watched = looked;
        }
    }

    fn look(&self, watched: &mut Watched) {
        let now = [&self.certificate, &self.key].map(|path| look_at(path));
        if watched.is_settled && now == watched.look {
            return;
        }
        let is_first = !std::mem::replace(&mut watched.has_looked, true);
        // The one file is written before the other: what can't be used may be
        // half of a change, and is tried again before it is told.
        let is_second = now == watched.look;
        watched.look = now;
        match read(&self.certificate, &self.key) {
            Ok(config) => {
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = config;
                watched.is_settled = true;
                if !is_first {
                    self.counters.reloaded.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(
                        certificate = %self.certificate.display(),
                        "the certificate was replaced: new connections get the new one"
                    );
                }
            }
            Err(error) if is_second => {
                watched.is_settled = true;
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!("{error}; the hub goes on with the certificate that it has");
            }
            Err(_) => watched.is_settled = false,
        }
    }
}

/// What the last look has found.
#[derive(Debug, Default)]
struct Watched {
    look: Look,
    /// There is nothing to do before the files change.
    is_settled: bool,
    /// What there was at the start has been looked at.
    has_looked: bool,
}

fn look_at(path: &Path) -> Option<[i64; 7]> {
    let found = std::fs::metadata(path).ok()?;
    Some([
        found.dev().cast_signed(),
        found.ino().cast_signed(),
        found.size().cast_signed(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ])
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let refuse = |key: &'static str, path: &Path| {
        let path = path.to_owned();
        move |words: String| TlsError::File { key, path, words }
    };
    let no_certificate = refuse("tls.certificate_file", certificate);
    let no_key = refuse("tls.key_file", key);
    let text =
        read_bounded(certificate).map_err(|error| no_certificate.clone()(error.to_string()))?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| no_certificate.clone()(error.to_string()))?;
    if chain.is_empty() {
        return Err(no_certificate("there is no certificate in it".to_owned()));
    }
    let text = read_bounded(key).map_err(|error| no_key.clone()(error.to_string()))?;
    let private_key =
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| no_key(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key));
    match config {
        Ok(config) => Ok(Arc::new(config)),
        Err(error) => Err(TlsError::Unusable {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            words: error.to_string(),
        }),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        let words = format!("it is no file of at most {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A certificate and its key, in a folder of their own.
    fn pair(folder: &Path) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
        fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    }

    struct World {
        folder: tempfile::TempDir,
        tls: Arc<Tls>,
        watched: Watched,
    }

    impl World {
        /// As orchestrators mount secrets: the files are links through a link
        /// that is swapped.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            pair(&folder.path().join("one"));
            symlink("one", folder.path().join("data")).unwrap();
            for file in ["tls.crt", "tls.key"] {
                symlink(format!("data/{file}"), folder.path().join(file)).unwrap();
            }
            let path = |file| folder.path().join(file);
            let tls = Tls::open(&path("tls.crt"), &path("tls.key")).unwrap();
            let mut world = Self { folder, tls, watched: Watched::default() };
            // The first look only reads what was there.
            world.look();
            assert_eq!(world.counts(), (0, 0));
            world
        }

        fn swap(&self, target: &str) {
            symlink(target, self.path("next")).unwrap();
            fs::rename(self.path("next"), self.path("data")).unwrap();
        }

        fn path(&self, file: &str) -> PathBuf {
            self.folder.path().join(file)
        }

        fn look(&mut self) {
            self.tls.look(&mut self.watched);
        }

        fn config(&self) -> Arc<ServerConfig> {
            self.tls.current.lock().unwrap().clone()
        }

        fn counts(&self) -> (u64, u64) {
            let counters = self.tls.counters();
            let [reloaded, refused] = [&counters.reloaded, &counters.refused]
                .map(|counter| counter.load(Ordering::Relaxed));
            (reloaded, refused)
        }
    }

    #[test]
    fn a_swapped_link_is_a_change_and_nothing_else_is() {
        let mut world = World::new();
        let before = world.config();
        world.look();
        assert!(Arc::ptr_eq(&before, &world.config()), "nothing has changed");
        pair(&world.path("two"));
        world.swap("two");
        world.look();
        assert!(!Arc::ptr_eq(&before, &world.config()));
        world.look();
        assert_eq!(world.counts(), (1, 0));
    }

    #[test]
    fn half_of_a_change_is_not_told_of() {
        let mut world = World::new();
        pair(&world.path("two"));
        fs::rename(world.path("two/tls.crt"), world.path("one/tls.crt")).unwrap();
        world.look();
        fs::rename(world.path("two/tls.key"), world.path("one/tls.key")).unwrap();
        world.look();
        assert_eq!(world.counts(), (1, 0));
    }

    #[test]
    fn what_cannot_be_used_is_told_of_once_and_the_old_stays() {
        let mut world = World::new();
        let before = world.config();
        pair(&world.path("two"));
        let breakages: [&dyn Fn(&World); 4] = [
            &|world| fs::write(world.path("two/tls.crt"), "no certificate").unwrap(),
            &|world| pair(&world.path("two")),
            &|world| {
                fs::copy(world.path("one/tls.key"), world.path("two/tls.key")).map(drop).unwrap()
            },
            &|world| fs::remove_file(world.path("two/tls.key")).unwrap(),
        ];
        world.swap("two");
        for (turn, break_it) in (0..).zip(breakages) {
            break_it(&world);
            for _ in 0..4 {
                world.look();
            }
            match turn {
                // This one was good, and is the old one from here on.
                1 => assert!(!Arc::ptr_eq(&before, &world.config())),
                0 => assert!(Arc::ptr_eq(&before, &world.config())),
                _ => {}
            }
        }
        assert_eq!(world.counts(), (1, 3));
        let error = read(&world.path("tls.crt"), &world.path("tls.key")).unwrap_err();
        assert!(error.to_string().starts_with("tls.key_file = "), "{error}");
    }

    #[test]
    fn a_file_without_end_is_not_read() {
        let world = World::new();
        let error = read(Path::new("/dev/zero"), &world.path("tls.key")).unwrap_err();
        assert!(error.to_string().contains("it is no file of at most"), "{error}");
    }
}
