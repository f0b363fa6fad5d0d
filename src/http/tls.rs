//! TLS of the listener, with the OpenSSL that Kafka's client brings.

#[cfg(feature = "tls")]
pub(super) use with_openssl::Tls;
#[cfg(not(feature = "tls"))]
pub(super) use without::Tls;

#[cfg(feature = "tls")]
mod with_openssl {
    use std::pin::Pin;

    use anyhow::Context;
    use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslFiletype, SslMethod, select_next_proto};
    use tokio_openssl::SslStream;

    use crate::config::TlsConfig;
    use crate::http::server::Stream;

    /// The protocols that we speak, best first, each after its length.
    const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";

    #[derive(Clone)]
    pub struct Tls(SslAcceptor);

    impl std::fmt::Debug for Tls {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Tls")
        }
    }

    impl Tls {
        /// Reads certificate and key; an error names the file.
        pub fn load(config: &TlsConfig) -> anyhow::Result<Self> {
            let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
            let name = config.certificate.display();
            acceptor
                .set_certificate_chain_file(&config.certificate)
                .with_context(|| format!("{name}: no certificate in PEM"))?;
            let name = config.key.display();
            acceptor
                .set_private_key_file(&config.key, SslFiletype::PEM)
                .with_context(|| format!("{name}: no private key in PEM"))?;
            acceptor.check_private_key().with_context(|| format!("{name}: not the certificate's key"))?;
            acceptor.set_alpn_select_callback(|_, offered| {
                select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK)
            });
            Ok(Self(acceptor.build()))
        }

        /// The handshake.
        pub async fn accept(&self, stream: Stream) -> anyhow::Result<SslStream<Stream>> {
            let mut stream = SslStream::new(Ssl::new(self.0.context())?, stream)?;
            Pin::new(&mut stream).accept().await?;
            Ok(stream)
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use crate::config::TlsConfig;
    use crate::http::server::Stream;

    /// Of a build without TLS; there is none of it.
    #[derive(Debug, Clone)]
    pub enum Tls {}

    impl Tls {
        pub fn load(_: &TlsConfig) -> anyhow::Result<Self> {
            anyhow::bail!("this build has no TLS (feature `tls`)")
        }

        pub async fn accept(&self, _: Stream) -> anyhow::Result<Stream> {
            match *self {}
        }
    }
}
