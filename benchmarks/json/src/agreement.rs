//! Check that all arms read the same: without it a faster arm might only do less.

use crate::arms::{ARMS, Arm};
use crate::documents::{Documents, INVALID, UNUSUAL};

/// Fails at the first document on which an arm disagrees with flagstream's reader.
pub fn check(sets: &[Documents]) -> Result<(), String> {
    let timed = sets.iter().flat_map(|set| set.texts.iter().map(String::as_str));
    for text in timed.chain(UNUSUAL) {
        let expected = seen(&ARMS[0], text.as_bytes()).ok_or_else(|| format!("not a request: {text}"))?;
        for arm in &ARMS[1..] {
            let found = seen(arm, text.as_bytes());
            if found.as_ref() != Some(&expected) {
                return Err(format!("{} reads {text}\nas {found:#?}\ninstead of {expected}", arm.name));
            }
        }
    }
    for text in INVALID {
        if let Some(arm) = ARMS.iter().find(|arm| seen(arm, text).is_some()) {
            return Err(format!("{} accepts {}", arm.name, String::from_utf8_lossy(text)));
        }
    }
    Ok(())
}

/// All fields of the request as text, whether they are borrowed or owned; `None` if it is refused.
fn seen(arm: &Arm, text: &[u8]) -> Option<String> {
    (arm.read)(text).map(|request| format!("{request:#?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::timed;

    #[test]
    fn all_readers_agree_on_all_documents() {
        assert_eq!(check(&timed()), Ok(()));
    }
}
