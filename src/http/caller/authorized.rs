//! The extractor of a caller that has the scope of its route.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::Caller;
use crate::config::Scope;
use crate::http::Problem;
use crate::http::api::Api;

/// Scope that a route requires, as a type.
pub trait RequiredScope {
    const SCOPE: Scope;
}

/// A type for each scope, to be named in [`Authorized`].
pub mod scope {
    use super::RequiredScope;
    use crate::config::Scope;

    macro_rules! required_scopes {
        ($($name:ident)*) => {$(
            /// Requires the scope of the same name.
            #[derive(Debug)]
            pub enum $name {}

            impl RequiredScope for $name {
                const SCOPE: Scope = Scope::$name;
            }
        )*};
    }

    required_scopes!(Evaluate Read Audit Track Write Delete Admin);
}

/// Caller that has the scope `S` in some environment, counted against its rate limit.
///
/// As the first extractor of a handler it refuses a caller without the scope before anything else of the request is
/// read. A handler about one environment checks [`Authorized::check_environment`] next. A handler that lists things
/// checks [`Caller::sees`] for each.
#[derive(Debug)]
pub struct Authorized<S> {
    caller: Caller,
    scope: PhantomData<S>,
}

impl<S: RequiredScope> Authorized<S> {
    /// Checks that a caller has the scope. The error is that of [`Caller::may`].
    pub fn check(caller: Caller) -> Result<Self, Problem> {
        caller.may(S::SCOPE)?;
        Ok(Self { caller, scope: PhantomData })
    }

    /// Checks that the caller has the scope in this environment.
    pub fn check_environment(&self, environment: &str) -> Result<(), Problem> {
        self.caller.check_sees(environment)
    }

    pub fn into_caller(self) -> Caller {
        self.caller
    }
}

impl<S> Deref for Authorized<S> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<S: RequiredScope> FromRequestParts<Arc<Api>> for Authorized<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        Self::check(Caller::from_request_parts(parts, api).await?)
    }
}
