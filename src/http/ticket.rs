//! Tickets for OpenFeature's event stream: a browser's `EventSource` can send no headers, so the address of the stream
//! contains a proof of the caller's token.
//!
//! A ticket is signed with the hash of the caller's token, which every instance has. It is valid for one environment and
//! a limited time, and no longer than its token.

use std::fmt::Write as _;

use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::auth::TokenId;

use super::Problem;
use super::caller::{Authenticator, Caller};

/// Time for which a ticket is valid.
const TICKET_LIFETIME_SECONDS: i64 = 3_600;
/// Id of the bootstrap token in tickets.
const BOOTSTRAP: &str = "bootstrap";

/// Issues a ticket for a caller; `None` for a caller without a token.
pub(super) fn issue(caller: &Caller, environment: &str) -> Option<String> {
    let (id, key) = caller.signing_key()?;
    let id = id.map_or_else(|| BOOTSTRAP.to_owned(), |id| id.to_string());
    let expires_at = Utc::now().timestamp() + TICKET_LIFETIME_SECONDS;
    let signature = mac(key, &id, environment, expires_at)?.finalize().into_bytes();
    Some(format!("{id}.{expires_at}.{}", hex::encode(signature)))
}

/// The caller to whom a ticket was issued.
pub(super) fn redeem(
    authenticator: &Authenticator,
    ticket: &str,
    environment: &str,
) -> Result<Caller, Problem> {
    check(authenticator, ticket, environment).ok_or_else(|| {
        let detail =
            "the ticket in the address of the stream is invalid or has expired; request the flags again";
        let challenge = HeaderValue::from_static("Bearer realm=\"flagstream\"");
        Problem::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge)
    })
}

fn check(authenticator: &Authenticator, ticket: &str, environment: &str) -> Option<Caller> {
    let (id, rest) = ticket.split_once('.')?;
    let (expires_at, signature) = rest.split_once('.')?;
    let expires_at: i64 = expires_at.parse().ok()?;
    let token = match id {
        BOOTSTRAP => None,
        id => Some(TokenId::parse(id)?),
    };
    let caller = authenticator.caller_of_ticket(token)?;
    let (_, key) = caller.signing_key()?;
    let mac = mac(key, id, environment, expires_at)?;
    mac.verify_slice(&hex::decode(signature).ok()?).ok()?;
    (Utc::now().timestamp() < expires_at).then_some(caller)
}

fn mac(key: &[u8], id: &str, environment: &str, expires_at: i64) -> Option<Hmac<Sha256>> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).ok()?;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "ofrep-stream\n{id}\n{expires_at}\n{environment}");
    mac.update(text.as_bytes());
    Some(mac)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config::{Profile, load_from};

    use super::*;

    fn authenticator(token: &str) -> Authenticator {
        let variable = ("FLAGSTREAM_AUTH__BOOTSTRAP_TOKEN".into(), token.into());
        Authenticator::new(&load_from(None, [variable], Profile::Service).unwrap().config.auth, None)
    }

    #[test]
    fn a_ticket_is_for_one_token_environment_and_time() {
        let (ours, other) =
            (authenticator("a-token-of-the-operator"), authenticator("another-token-of-them"));
        let caller = ours.caller_of_ticket(None).unwrap();
        let ticket = issue(&caller, "production").unwrap();
        assert!(redeem(&ours, &ticket, "production").is_ok());
        assert!(
            redeem(&ours, &ticket, "development").is_err() && redeem(&other, &ticket, "production").is_err()
        );
        let later = ticket.replacen(".1", ".2", 1);
        for wrong in
            [later.as_str(), "", "bootstrap", "bootstrap.1.", "bootstrap.x.00", "0123456789abcdef.1.00"]
        {
            assert!(redeem(&ours, wrong, "production").is_err(), "{wrong}");
        }
    }
}
