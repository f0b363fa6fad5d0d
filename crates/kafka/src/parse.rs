//! Parsers of setting values. An error states the expected format; the caller adds the setting's name.

/// A parsed value, or the expected format.
pub type Parsed<T> = Result<T, String>;

/// A text that is not empty, without the space around it.
pub fn text(text: &str) -> Parsed<String> {
    match text.trim() {
        "" => Err("must not be empty".into()),
        _ if text.chars().any(char::is_control) => Err("must not contain control characters".into()),
        trimmed => Ok(trimmed.to_owned()),
    }
}

/// `true` or `false`, and the other usual words for them.
pub fn flag(text: &str) -> Parsed<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected `true` or `false`".into()),
    }
}

/// A list of one or more `host:port`, separated by commas.
pub fn servers(text: &str) -> Parsed<String> {
    let servers: Vec<&str> = text.split(',').map(str::trim).collect();
    let valid = |server: &&str| {
        let port = server.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        matches!(port, Some((host, Ok(1..))) if !host.is_empty() && !host.contains(char::is_whitespace))
    };
    if servers.iter().all(valid) {
        Ok(servers.join(","))
    } else {
        Err("expected `host:port`, several with commas".into())
    }
}

/// A topic name by Kafka's rules.
pub fn topic(text: &str) -> Parsed<String> {
    let name = text.trim();
    if name == "." || name == ".." {
        return Err("`.` and `..` are not valid names of topics".into());
    }
    plain(name, 249)
}

/// A consumer group name, short enough for a role's suffix.
pub fn group(text: &str) -> Parsed<String> {
    plain(text.trim(), 200)
}

/// An instance name, valid in file names and transactional ids.
pub fn instance(text: &str) -> Parsed<String> {
    let name = text.trim();
    if name.starts_with('.') {
        return Err("must not start with `.`".into());
    }
    plain(name, 100)
}

fn plain(name: &str, longest: usize) -> Parsed<String> {
    if !name.is_empty() && name.len() <= longest && name.chars().all(is_plain) {
        return Ok(name.to_owned());
    }
    Err(format!("expected 1 to {longest} characters of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`"))
}

/// Whether the character is allowed in names of topics and instances.
pub fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}
