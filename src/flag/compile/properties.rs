//! The fields of a context, and the names that properties have in the text of a flag's rules.
//!
//! The engine's context has six fields of its own and a hash map for all else; filling and asking that map costs as
//! much as the rest of an evaluation. But a rule that does not ask for the `environment`, say, may as well find a
//! property in that field. So a flag's first properties stand in for the fields that its rules do not read, and
//! only what does not fit goes into the map, under a number.

use std::borrow::Cow;

use unleash_types::client_features::Strategy;

use super::rule::parameter;
use crate::flag::context::SESSION_PROPERTY;

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

/// The properties that a flag's rules read.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    /// The properties that stand in for the [`FIELDS`].
    in_fields: [Option<Box<str>>; FIELDS.len()],
    /// The others, with the numbers they have in the text of the rules.
    in_map: Vec<(Box<str>, Cow<'static, str>)>,
}

/// Gives names to properties while a flag is compiled.
#[derive(Debug)]
pub(super) struct PropertyNames {
    properties: Properties,
    /// Fields that the rules read as what they are.
    taken: [bool; FIELDS.len()],
}

/// What properties may stand in for. Not the user and the session, which the default stickiness reads, and not
/// the time, for which the engine may be built to have a value of its own.
const FIELDS: [&str; 3] = ["environment", "appName", "remoteAddress"];

/// Numbers that every flag shares: reading them costs no memory access of the flag's own.
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
    /// The properties in the place of `environment`, `appName` and `remoteAddress`.
    pub(crate) fn in_fields(&self) -> [Option<&str>; FIELDS.len()] {
        self.in_fields.each_ref().map(Option::as_deref)
    }

    /// Pairs of the name in the context and the number in the rules.
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

    /// What stands for this context name in a rule.
    pub(super) fn in_rule(&mut self, name: &str) -> String {
        match ContextField::of(name) {
            ContextField::Property(_) => self.stand_in(name),
            ContextField::SessionId => "sessionId".to_owned(),
            _ => name.to_owned(),
        }
    }

    /// What stands for this context name in a constraint beside a draw of default stickiness. There the engine's session
    /// may be one that was generated for the draw; constraints are about the session that the caller has.
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

/// Whether the strategy's rule reads this field as what it is.
fn reads(strategy: &Strategy, field: &str) -> bool {
    let mut constraints = strategy.constraints.iter().flatten();
    strategy.name == field
        || constraints.any(|constraint| constraint.context_name == field)
        || ["stickiness", "property"].iter().any(|name| parameter(strategy, name) == Some(field))
}
