//! TLS of a listener, with the OpenSSL library that the Kafka client already needs.
//!
//! The certificate and key files are read again when they change, so a renewed certificate needs no restart. If the new
//! files cannot be used, the current certificate stays in use and the error is reported.

#[cfg(feature = "tls")]
pub use with_openssl::{Reload, Tls, unix_seconds};
#[cfg(not(feature = "tls"))]
pub use without::Tls;

#[cfg(feature = "tls")]
mod with_openssl {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::time::Duration;

    use anyhow::Context;
    use arc_swap::ArcSwap;
    use openssl::asn1::{Asn1Time, Asn1TimeRef};
    use openssl::pkey::PKey;
    use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslMethod, select_next_proto};
    use openssl::x509::X509;
    use tokio_openssl::SslStream;

    use crate::config::TlsConfig;
    use crate::health::{Report, Reporter, State};
    use crate::http::server::Stream;
    use crate::log_limit::limited;
    use crate::metrics::Certificates;
    use crate::shutdown::Shutdown;

    /// Supported protocols (ALPN) in order of preference, each preceded by its length.
    const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";
    /// Interval at which the files are checked for changes.
    const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

    /// Certificate in use, shared by all clones.
    #[derive(Clone)]
    pub struct Tls(Arc<Shared>);

    struct Shared {
        config: TlsConfig,
        loaded: ArcSwap<Loaded>,
    }

    struct Loaded {
        acceptor: SslAcceptor,
        certificate: X509,
        files: Files,
    }

    /// Content of the two files.
    #[derive(PartialEq, Eq)]
    struct Files {
        certificate: Vec<u8>,
        key: Vec<u8>,
    }

    /// Result of a check of the files.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Reload {
        Unchanged,
        Reloaded,
        /// The files cannot be used, for this reason. The previous certificate stays in use.
        Refused(String),
    }

    impl std::fmt::Debug for Tls {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Tls")
        }
    }

    impl Tls {
        /// Reads certificate and key. An error contains the name of the file.
        pub fn load(config: &TlsConfig) -> anyhow::Result<Self> {
            let loaded = ArcSwap::from_pointee(Loaded::of(config, Files::read(config)?)?);
            Ok(Self(Arc::new(Shared { config: config.clone(), loaded })))
        }

        /// Performs the TLS handshake with the certificate in use.
        pub async fn accept(&self, stream: Stream) -> anyhow::Result<SslStream<Stream>> {
            let ssl = Ssl::new(self.0.loaded.load().acceptor.context())?;
            let mut stream = SslStream::new(ssl, stream)?;
            Pin::new(&mut stream).accept().await?;
            Ok(stream)
        }

        /// Loads the files again if they have changed. Open connections are not affected.
        pub fn reload(&self) -> Reload {
            let Shared { config, loaded } = &*self.0;
            let changed = Files::read(config).and_then(|files| {
                let same = loaded.load().files == files;
                if same { Ok(None) } else { Loaded::of(config, files).map(Some) }
            });
            match changed {
                Ok(None) => Reload::Unchanged,
                Ok(Some(changed)) => {
                    loaded.store(Arc::new(changed));
                    Reload::Reloaded
                }
                Err(error) => Reload::Refused(format!("{error:#}")),
            }
        }

        /// Checks the files regularly until `shutdown`, and reports the state of the certificate in use.
        pub async fn watch(
            self,
            health: Reporter,
            certificates: Certificates,
            shutdown: Shutdown,
        ) -> anyhow::Result<()> {
            let mut before = Reload::Unchanged;
            health.set(self.report(&before));
            loop {
                certificates.set("http", self.expires());
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RELOAD_INTERVAL) => {}
                }
                let tls = self.clone();
                let found = tokio::task::spawn_blocking(move || tls.reload()).await?;
                before = self.follow(before, found, &health);
            }
        }

        /// Reports the result of a check. `before` is the result of the previous one.
        fn follow(&self, before: Reload, found: Reload, health: &Reporter) -> Reload {
            match &found {
                // A check can fall between the writes of the two files, so an error is reported only if the next check
                // finds it again.
                Reload::Refused(_) if found != before => return found,
                Reload::Reloaded => {
                    let valid_until = self.valid_until();
                    tracing::info!(valid_until, "the certificate of the listener was reloaded");
                }
                Reload::Refused(_) | Reload::Unchanged => {}
            }
            let report = self.report(&found);
            if let Some(detail) = &report.detail
                && health.report() != report
            {
                limited!(error, "certificate of the HTTP listener: {detail}");
            }
            health.set(report);
            found
        }

        fn report(&self, found: &Reload) -> Report {
            let valid_until = self.valid_until();
            let detail = match found {
                Reload::Refused(why) => Some(format!("the new certificate cannot be used: {why}")),
                _ if self.has_expired() => Some("the certificate has expired".to_owned()),
                _ => None,
            };
            match detail {
                Some(detail) => Report::new(State::Degraded)
                    .detail(format!("{detail}; the one in use is valid until {valid_until}")),
                None => Report::new(State::Up).more(serde_json::json!({ "valid_until": valid_until })),
            }
        }

        fn valid_until(&self) -> String {
            self.0.loaded.load().certificate.not_after().to_string()
        }

        /// Time at which the certificate in use expires, as Unix time in seconds.
        fn expires(&self) -> i64 {
            unix_seconds(self.0.loaded.load().certificate.not_after())
        }

        fn has_expired(&self) -> bool {
            let loaded = self.0.loaded.load();
            Asn1Time::days_from_now(0).is_ok_and(|now| loaded.certificate.not_after() < &*now)
        }
    }

    /// The time as Unix time in seconds. 0 if it cannot be represented.
    pub fn unix_seconds(time: &Asn1TimeRef) -> i64 {
        let since = Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(time));
        since.map_or(0, |since| i64::from(since.days) * 86_400 + i64::from(since.secs))
    }

    impl Files {
        fn read(config: &TlsConfig) -> anyhow::Result<Self> {
            let read =
                |path: &std::path::Path| std::fs::read(path).with_context(|| path.display().to_string());
            Ok(Self { certificate: read(&config.certificate)?, key: read(&config.key)? })
        }
    }

    impl Loaded {
        fn of(config: &TlsConfig, files: Files) -> anyhow::Result<Self> {
            let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
            let name = config.certificate.display();
            let mut chain = X509::stack_from_pem(&files.certificate).unwrap_or_default().into_iter();
            let certificate =
                chain.next().with_context(|| format!("{name}: expected at least one PEM certificate"))?;
            acceptor.set_certificate(&certificate)?;
            chain.try_for_each(|issuer| acceptor.add_extra_chain_cert(issuer))?;
            let name = config.key.display();
            // Without a callback OpenSSL would ask for the password of an encrypted key on the terminal.
            let key = PKey::private_key_from_pem_callback(&files.key, |_| Ok(0));
            let key =
                key.with_context(|| format!("{name}: expected a PEM private key without a password"))?;
            acceptor
                .set_private_key(&key)
                .with_context(|| format!("{name}: the key does not belong to the certificate"))?;
            acceptor
                .check_private_key()
                .with_context(|| format!("{name}: the key does not belong to the certificate"))?;
            acceptor.set_alpn_select_callback(|_, offered| {
                select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK)
            });
            Ok(Self { acceptor: acceptor.build(), certificate, files })
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::http::tests::certificate;

        #[test]
        fn new_files_are_taken_and_bad_ones_leave_the_former() -> anyhow::Result<()> {
            let (folder, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
            let (files, new) = (certificate(folder.path())?, certificate(other.path())?);
            let tls = Tls::load(&files)?;
            let in_use = |tls: &Tls| tls.0.loaded.load().files.certificate.clone();
            let (old_pem, new_pem) = (std::fs::read(&files.certificate)?, std::fs::read(&new.certificate)?);
            assert_eq!(tls.reload(), Reload::Unchanged);

            std::fs::copy(&new.certificate, &files.certificate)?;
            let refused = tls.reload();
            assert!(
                matches!(&refused, Reload::Refused(why) if why.contains("does not belong to the certificate"))
            );
            assert_eq!(in_use(&tls), old_pem);
            // The key is replaced a moment later, so this error is not reported.
            let health = Reporter::detached();
            let before = tls.follow(Reload::Unchanged, refused, &health);
            assert_ne!(health.report().state, State::Degraded);
            std::fs::copy(&new.key, &files.key)?;
            let before = tls.follow(before, tls.reload(), &health);
            assert_eq!((before.clone(), in_use(&tls)), (Reload::Reloaded, new_pem.clone()));
            assert_eq!(health.report().state, State::Up);

            for (path, text) in [(&files.certificate, "rubbish"), (&files.key, "rubbish")] {
                let good = std::fs::read(path)?;
                std::fs::write(path, text)?;
                let once = tls.follow(before.clone(), tls.reload(), &health);
                tls.follow(once, tls.reload(), &health);
                let report = health.report();
                assert_eq!((report.state, in_use(&tls)), (State::Degraded, new_pem.clone()));
                let detail = report.detail.unwrap_or_default();
                assert!(detail.contains(&path.display().to_string()), "{detail}");
                std::fs::write(path, good)?;
                tls.follow(before.clone(), tls.reload(), &health);
                assert_eq!(health.report().state, State::Up);
            }
            std::fs::remove_file(&files.key)?;
            assert!(matches!(tls.reload(), Reload::Refused(why) if why.contains("key.pem")));
            assert_eq!(in_use(&tls), new_pem);
            Ok(())
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use crate::config::TlsConfig;
    use crate::health::Reporter;
    use crate::http::server::Stream;
    use crate::metrics::Certificates;
    use crate::shutdown::Shutdown;

    /// TLS of a build without the feature `tls`: has no values.
    #[derive(Debug, Clone)]
    pub enum Tls {}

    impl Tls {
        pub fn load(_: &TlsConfig) -> anyhow::Result<Self> {
            anyhow::bail!("this build does not support TLS: build it with the feature `tls`")
        }

        pub async fn accept(&self, _: Stream) -> anyhow::Result<Stream> {
            match *self {}
        }

        pub async fn watch(self, _: Reporter, _: Certificates, _: Shutdown) -> anyhow::Result<()> {
            match self {}
        }
    }
}
