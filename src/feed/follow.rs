//! Tracking of hints: after a hint, the source is polled until the change is visible. Only then is the hint
//! committed.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::hint::Hint;

/// Maximum time to follow a hint. Unleash itself takes about a second to serve a change that it has
/// confirmed.
pub const FOLLOW_MAX: Duration = Duration::from_secs(5);

/// Maximum number of flags that are followed by name per environment. Further hints are followed as a change
/// of anything.
pub const FOLLOWED_FLAGS_MAX: usize = 64;

/// Followed hints of each source.
#[derive(Debug, Clone)]
pub struct Follow {
    places: Vec<Followed>,
    next_offset: Option<i64>,
    handed_out: Option<i64>,
}

#[derive(Debug, Clone)]
struct Followed {
    whom: Followable,
    pending: Option<Pending>,
}

/// Changes that a source can be followed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followable {
    /// Environment of a source that shows a change some time after it was made.
    Environment(String),
    /// Local flags of any environment. A single poll shows all changes committed before.
    Local,
}

#[derive(Debug, Clone)]
struct Pending {
    flags: HashSet<String>,
    /// Authors by flag, from the hints that name them. Kept while any flag is followed.
    actors: HashMap<String, String>,
    /// Whether a hint without a flag is followed. Any change ends it.
    anything: bool,
    until: Instant,
    lowest_offset: i64,
}

impl Follow {
    /// Creates a tracker for sources that are addressed by their position in `places`.
    pub fn new(places: impl Iterator<Item = Followable>) -> Self {
        let followed = |whom| Followed { whom, pending: None };
        Self { places: places.map(followed).collect(), next_offset: None, handed_out: None }
    }

    /// Adds a hint. Returns the positions of the sources to poll now; empty if the hint concerns another
    /// environment.
    pub fn hint(&mut self, hint: &Hint, offset: i64, now: Instant) -> Vec<usize> {
        self.skip(offset);
        let concerns = |name: &str| hint.environment.as_deref().is_none_or(|hinted| hinted == name);
        let mut places = Vec::new();
        for (place, followed) in self.places.iter_mut().enumerate() {
            match &followed.whom {
                Followable::Environment(name) if !hint.local && concerns(name) => {
                    followed.add(hint, offset, now);
                    places.push(place);
                }
                Followable::Environment(_) => {}
                Followable::Local => places.push(place),
            }
        }
        places
    }

    /// Skips a record that requires no action.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = Some(offset + 1);
    }

    /// Author of a flag's change, if a followed hint names one.
    pub fn actor(&self, place: usize, flag: &str) -> Option<&str> {
        let pending = self.places.get(place)?.pending.as_ref()?;
        pending.actors.get(flag).map(String::as_str)
    }

    /// Records the changes that a poll found. Returns whether to poll again soon.
    pub fn looked<'a>(&mut self, place: usize, changed: impl Iterator<Item = &'a str>, now: Instant) -> bool {
        let Some(followed) = self.places.get_mut(place) else {
            return false;
        };
        let Some(pending) = &mut followed.pending else {
            return false;
        };
        for flag in changed {
            pending.flags.remove(flag);
            pending.anything = false;
        }
        let done = pending.flags.is_empty() && !pending.anything;
        if done || now >= pending.until {
            followed.pending = None;
        }
        followed.pending.is_some()
    }

    /// Offset before which all hints are handled; `None` if it has been committed already.
    pub fn handled(&self) -> Option<i64> {
        let pending = self.places.iter().filter_map(|followed| followed.pending.as_ref());
        let lowest = pending.map(|pending| pending.lowest_offset).min();
        let handled = lowest.or(self.next_offset)?;
        (self.handed_out.is_none_or(|before| handled > before)).then_some(handled)
    }

    /// Records that `offset` was committed.
    pub fn committed(&mut self, offset: i64) {
        self.handed_out = Some(offset);
    }
}

impl Followed {
    fn add(&mut self, hint: &Hint, offset: i64, now: Instant) {
        let pending = self.pending.get_or_insert_with(|| Pending {
            flags: HashSet::new(),
            actors: HashMap::new(),
            anything: false,
            until: now,
            lowest_offset: offset,
        });
        pending.until = now + FOLLOW_MAX;
        match &hint.flag {
            Some(flag) if pending.flags.len() < FOLLOWED_FLAGS_MAX => {
                pending.flags.insert(flag.clone());
                if let Some(actor) = hint.actor.clone().filter(|_| pending.actors.len() < FOLLOWED_FLAGS_MAX)
                {
                    pending.actors.insert(flag.clone(), actor);
                }
            }
            _ => pending.anything = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: usize = 0;
    const PROD: usize = 1;

    fn follow() -> Follow {
        Follow::new(["dev", "prod"].map(|name| Followable::Environment(name.to_owned())).into_iter())
    }

    fn hint(environment: Option<&str>, flag: Option<&str>) -> Hint {
        let (environment, flag) = (environment.map(str::to_owned), flag.map(str::to_owned));
        Hint { environment, flag, ..Hint::default() }
    }

    fn looked(follow: &mut Follow, place: usize, changed: &[&str], now: Instant) -> bool {
        follow.looked(place, changed.iter().copied(), now)
    }

    #[test]
    fn a_named_flag_is_followed_until_it_changed() {
        let (mut follow, now) = (follow(), Instant::now());
        assert_eq!(follow.hint(&hint(Some("dev"), Some("a")), 7, now), [DEV]);
        assert!(looked(&mut follow, DEV, &[], now), "nothing changed yet");
        assert!(looked(&mut follow, DEV, &["b"], now), "another flag changed");
        assert!(!looked(&mut follow, PROD, &[], now), "nobody asked about this environment");
        assert_eq!(follow.handled(), Some(7), "a successor must see the hint");
        assert!(!looked(&mut follow, DEV, &["a"], now));
        assert_eq!(follow.handled(), Some(8));
        follow.committed(8);
        assert_eq!(follow.handled(), None);
    }

    #[test]
    fn who_changed_a_flag_is_known_while_it_is_followed() {
        let (mut follow, now) = (follow(), Instant::now());
        let by_ann = Hint { actor: Some("ann".to_owned()), ..hint(Some("dev"), Some("a")) };
        follow.hint(&by_ann, 0, now);
        assert_eq!(
            (follow.actor(DEV, "a"), follow.actor(DEV, "b"), follow.actor(PROD, "a")),
            (Some("ann"), None, None)
        );
        looked(&mut follow, DEV, &["a"], now);
        assert_eq!(follow.actor(DEV, "a"), None);
    }

    #[test]
    fn a_hint_without_a_name_ends_with_any_change() {
        let (mut follow, now) = (follow(), Instant::now());
        assert_eq!(follow.hint(&hint(None, None), 0, now), [DEV, PROD]);
        assert!(!looked(&mut follow, DEV, &["b"], now));
        assert_eq!(follow.handled(), Some(0), "the other environment is still to be looked at");
        assert!(!looked(&mut follow, PROD, &["b"], now));
        assert_eq!(follow.handled(), Some(1));
    }

    #[test]
    fn nothing_is_followed_for_ever() {
        let (mut follow, now) = (follow(), Instant::now());
        follow.hint(&hint(Some("dev"), Some("a")), 0, now);
        assert!(looked(&mut follow, DEV, &[], now + FOLLOW_MAX / 2));
        assert!(!looked(&mut follow, DEV, &[], now + FOLLOW_MAX));
        assert_eq!(follow.handled(), Some(1));
    }

    #[test]
    fn hints_are_coalesced_and_bounded() {
        let (mut follow, now) = (follow(), Instant::now());
        for n in 0..10 * FOLLOWED_FLAGS_MAX {
            follow.hint(&hint(Some("dev"), Some(&format!("flag-{n}"))), n as i64, now);
        }
        let pending = follow.places[DEV].pending.as_ref().unwrap();
        assert_eq!((pending.flags.len(), pending.anything), (FOLLOWED_FLAGS_MAX, true));
    }

    #[test]
    fn local_flags_are_looked_at_once_and_alone() {
        let places = [Followable::Environment("dev".to_owned()), Followable::Local];
        let (mut follow, now) = (Follow::new(places.into_iter()), Instant::now());
        let about_local = Hint { local: true, ..hint(Some("elsewhere"), Some("a")) };
        assert_eq!(follow.hint(&about_local, 0, now), [1]);
        assert!(!looked(&mut follow, 1, &[], now));
        assert_eq!(follow.handled(), Some(1));
        assert_eq!(follow.hint(&hint(Some("dev"), Some("a")), 1, now), [0, 1]);
    }

    #[test]
    fn hints_for_others_are_passed_over() {
        let (mut follow, now) = (follow(), Instant::now());
        assert!(follow.hint(&hint(Some("elsewhere"), None), 3, now).is_empty());
        follow.skip(4);
        assert_eq!(follow.handled(), Some(5));
    }
}
