//! Fields of the context, and the names that properties have in the text of a flag's rules.
//!
//! The engine's context has six fields of its own and a hash map for everything else. Filling and searching
//! that map costs as much as the rest of an evaluation. A rule that does not read the field `environment`,
//! for example, can find a property there instead. So a flag's first properties are stored in the fields that
//! its rules do not read, and only the remaining properties go into the map, with a number as their key.

use std::borrow::Cow;

use unleash_types::client_features::Strategy;

use super::rule::parameter;
use crate::context::SESSION_PROPERTY;

/// A field of the context, as Unleash names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContextField {
    UserId,
    SessionId,
    Environment,
    AppName,
    CurrentTime,
    RemoteAddress,
    Property(Box<str>),
}

/// Properties that a flag's rules read.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    /// Properties that are stored in the [`FIELDS`].
    in_fields: [Option<Box<str>>; FIELDS.len()],
    /// The other properties, each with the number that is its name in the rules.
    in_map: Vec<(Box<str>, Cow<'static, str>)>,
}

/// Assigns names to properties while a flag is compiled.
#[derive(Debug)]
pub(super) struct PropertyNames {
    properties: Properties,
    /// Fields that the rules read with their own meaning, so that no property can be stored there.
    taken: [bool; FIELDS.len()],
}

/// Context fields that properties may be stored in. The user and the session are excluded because the default
/// stickiness reads them. The time is excluded because the engine may be built to supply its own.
const FIELDS: [&str; 3] = ["environment", "appName", "remoteAddress"];

/// Static texts of the first numbers, shared by all flags: reading them needs no access to the flag's memory.
const NUMBERS: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];

impl ContextField {
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "userId" => Self::UserId,
            "sessionId" | SESSION_PROPERTY => Self::SessionId,
            "environment" => Self::Environment,
            "appName" => Self::AppName,
            "currentTime" => Self::CurrentTime,
            "remoteAddress" => Self::RemoteAddress,
            property => Self::Property(property.into()),
        }
    }
}

impl Properties {
    /// The properties that are stored in the fields `environment`, `appName` and `remoteAddress`.
    pub(crate) fn in_fields(&self) -> [Option<&str>; FIELDS.len()] {
        self.in_fields.each_ref().map(Option::as_deref)
    }

    /// Pairs of the property name in the context and its number in the rules.
    pub(crate) fn in_map(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.in_map.iter().map(|(name, number)| (name.as_ref(), number.as_ref()))
    }
}

impl PropertyNames {
    pub(super) fn of(strategies: &[Strategy]) -> Self {
        Self {
            properties: Properties::default(),
            taken: FIELDS.map(|field| strategies.iter().any(|strategy| reads(strategy, field))),
        }
    }

    pub(super) fn finish(self) -> Properties {
        self.properties
    }

    /// The name to use in a rule for this context name.
    pub(super) fn in_rule(&mut self, name: &str) -> String {
        match ContextField::of(name) {
            ContextField::Property(_) => self.stand_in(name),
            ContextField::SessionId => "sessionId".to_owned(),
            _ => name.to_owned(),
        }
    }

    /// The name to use for this context name in a constraint of a strategy with a rollout of default
    /// stickiness. The engine's session may then be one that was generated for the draw, but constraints
    /// apply to the caller's own session.
    pub(super) fn beside_draw(&mut self, name: &str) -> String {
        match ContextField::of(name) {
            ContextField::SessionId => self.stand_in(SESSION_PROPERTY),
            _ => self.in_rule(name),
        }
    }

    fn stand_in(&mut self, name: &str) -> String {
        let Properties { in_fields, in_map } = &mut self.properties;
        if let Some((_, number)) = in_map.iter().find(|(known, _)| known.as_ref() == name) {
            return number.to_string();
        }
        let fields = FIELDS.iter().zip(in_fields).zip(&self.taken).filter(|(_, taken)| !**taken);
        for ((field, property), _) in fields {
            if property.get_or_insert_with(|| name.into()).as_ref() == name {
                return (*field).to_owned();
            }
        }
        let number = in_map.len();
        let text = NUMBERS.get(number).map_or_else(|| number.to_string().into(), |text| Cow::Borrowed(*text));
        in_map.push((name.into(), text));
        number.to_string()
    }
}

/// Whether the strategy's rule reads this field with its own meaning.
fn reads(strategy: &Strategy, field: &str) -> bool {
    let mut constraints = strategy.constraints.iter().flatten();
    strategy.name == field
        || constraints.any(|constraint| constraint.context_name == field)
        || ["stickiness", "property"].iter().any(|name| parameter(strategy, name) == Some(field))
}
