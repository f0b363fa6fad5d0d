//! Text form of a token: `fst_{id}_{secret}{checksum}`, in hexadecimal digits.
//!
//! The prefix lets secret scanners find published tokens. The checksum distinguishes a token from a mistyped one
//! without a lookup. Only the secret's SHA-256 is stored. The secret is 256 random bits, which cannot be guessed, so a
//! slow password hash would not add protection and would make every request slow.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::Secret;

const PREFIX: &str = "fst_";
/// Length of the random id of a token, in bytes.
const ID_BYTES: usize = 8;
/// Length of the random secret of a token, in bytes.
const SECRET_BYTES: usize = 32;
/// Length of the checksum that detects a mistyped token, in bytes.
const CHECKSUM_BYTES: usize = 4;

/// Public id of a token; not secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; ID_BYTES]);

/// A token with its secret.
#[derive(Clone)]
pub struct Token {
    pub id: TokenId,
    pub(super) secret: [u8; SECRET_BYTES],
}

/// Stored hash of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretHash(Vec<u8>);

impl Token {
    pub fn generate() -> Self {
        Self { id: TokenId(rand::random()), secret: rand::random() }
    }

    /// Parses what a caller sent; `None` if it is not a token of this service.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, rest) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let (secret, checksum) = rest.split_at_checked(2 * SECRET_BYTES)?;
        let id = TokenId::parse(id)?;
        let mut token = Self { id, secret: [0; SECRET_BYTES] };
        hex::decode_to_slice(secret, &mut token.secret).ok()?;
        let mut given = [0; CHECKSUM_BYTES];
        hex::decode_to_slice(checksum, &mut given).ok()?;
        (given == token.checksum()).then_some(token)
    }

    /// The whole token as text. Shown once, when it is created.
    pub fn text(&self) -> Secret {
        let (secret, checksum) = (hex::encode(self.secret), hex::encode(self.checksum()));
        Secret::new(format!("{PREFIX}{}_{secret}{checksum}", self.id))
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.secret).to_vec())
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.id.0);
        hasher.update(&self.secret);
        hasher.finalize().to_be_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

impl TokenId {
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; ID_BYTES];
        // Only lowercase is accepted, because ids are also compared as text.
        let written = !text.contains(|c: char| c.is_ascii_uppercase());
        (written && hex::decode_to_slice(text, &mut id).is_ok()).then_some(Self(id))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SecretHash {
    pub(super) fn stored(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The hash itself.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares in constant time.
    pub fn is_of(&self, token: &Token) -> bool {
        self.0.ct_eq(&token.hash().0).into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_nothing_else_is() {
        let token = Token::generate();
        let text = token.text().expose().to_owned();
        assert_eq!(text.len(), 93);
        let read = Token::parse(&text).unwrap();
        assert_eq!(read.id, token.id);
        assert!(token.hash().is_of(&read) && !token.hash().is_of(&Token::generate()));
        for end in 0..text.len() {
            assert!(Token::parse(text.get(..end).unwrap()).is_none(), "cut at {end}");
        }
        for (place, found) in text.char_indices() {
            let other = if found == '0' { "1" } else { "0" };
            let mut changed = text.clone();
            changed.replace_range(place..=place, other);
            assert!(Token::parse(&changed).is_none(), "changed at {place}");
        }
        for odd in
            ["", "fst_", "fst__", "Bearer", "ü".repeat(93).as_str(), &text.replacen("fst_", "fst_é", 1)]
        {
            assert!(Token::parse(odd).is_none(), "{odd}");
        }
        assert!(Token::parse(&format!("{text}0")).is_none());
    }

    #[test]
    fn a_secret_is_not_printed() {
        let token = Token::generate();
        let secret = hex::encode(token.secret);
        assert!(!format!("{token:?} {:?} {}", token.text(), token.text()).contains(&secret));
    }
}
