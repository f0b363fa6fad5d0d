//! Masks secrets in values that are displayed.

use crate::kafka::properties::secret_name;

use super::settings::Mask;

const HIDDEN: &str = "***";

/// `text` with secrets masked.
pub(super) fn shown(mask: Mask, text: &str) -> String {
    match mask {
        Mask::Secret => HIDDEN.to_owned(),
        Mask::Url => url(text),
        Mask::Open | Mask::Group => text.to_owned(),
    }
}

/// Masks the password of a URL. Passwords may contain unencoded `@` and `/`, so more than the password may be masked.
fn url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return query(text);
    };
    let Some((user_info, rest)) = rest.rsplit_once('@') else {
        return format!("{scheme}://{}", query(rest));
    };
    let shown = match user_info.split_once(':') {
        Some((user, _)) => format!("{user}:{HIDDEN}"),
        // Without a colon, the part may be a token (`https://TOKEN@host`).
        None => HIDDEN.to_owned(),
    };
    format!("{scheme}://{shown}@{}", query(rest))
}

fn query(text: &str) -> String {
    let Some((path, query)) = text.split_once('?') else {
        return text.to_owned();
    };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if secret_name(name) => format!("{name}={HIDDEN}"),
        _ => pair.to_owned(),
    };
    let pairs: Vec<_> = query.split('&').map(hide).collect();
    format!("{path}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_password() {
        for (url, expected) in [
            ("postgres://u:p@db:5432/x", "postgres://u:***@db:5432/x"),
            ("postgres://u:p@ss/w:rd@db/x", "postgres://u:***@db/x"),
            ("redis://:p@cache/0", "redis://:***@cache/0"),
            ("https://token@host/", "https://***@host/"),
            (
                "postgres://db/x?user=u&password=p&sslmode=require",
                "postgres://db/x?user=u&password=***&sslmode=require",
            ),
            ("sqlite:file.db", "sqlite:file.db"),
            ("http://host:4242", "http://host:4242"),
        ] {
            assert_eq!(shown(Mask::Url, url), expected);
        }
    }
}
